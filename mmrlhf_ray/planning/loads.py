"""The largest passes that a job can have: full of responses, and full of media."""

from collections.abc import Iterator
from math import ceil

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.planning.activations import PassLoad
from mmrlhf_ray.planning.sizes import ModelSize


def longest_line(cfg: PPOConfig, tokens: int) -> int:
    """Positions of one row of a pass of so many tokens: a prompt with all of its responses, or with one."""
    shared = cfg.learner.engine.shared_prompt
    responses = cfg.algorithm.n_samples_per_prompt if shared else 1
    return min(tokens, cfg.data.most_prompt_tokens + responses * cfg.sampling.max_response_tokens)


def cached_tokens(cfg: PPOConfig) -> int:
    """Of the sampler's cache that a response of full length takes: responses to one prompt share the prompt's."""
    return ceil(cfg.data.most_prompt_tokens / cfg.algorithm.n_samples_per_prompt) + cfg.sampling.max_response_tokens


def pass_loads(cfg: PPOConfig, size: ModelSize, tokens: int, responses: int, spread: int = 1) -> Iterator[PassLoad]:
    """Of a rank or server that gets `responses` at a time, in passes of `tokens`, or of `spread` times as many over as
    many ranks.

    Short prompts fill a pass with responses; long ones hold nothing but media. Which is larger depends on the model.
    """
    everyone = tokens * spread
    line, most = longest_line(cfg, everyone), cfg.sampling.max_response_tokens
    tile = cfg.learner.engine.logits_tile
    yield PassLoad(tokens, min(tokens, responses * most), line, tile=tile, spread=spread)
    shared = cfg.algorithm.n_samples_per_prompt if cfg.learner.engine.shared_prompt else 1
    prompts = min(everyone // line, ceil(responses / shared))
    shown = max(1, prompts) * min(cfg.data.most_prompt_tokens, everyone)
    read = min(tokens, everyone - shown, prompts * shared * most)
    for tower in size.towers:
        yield PassLoad(tokens, read, line, {tower: shown}, tile, spread)
