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


def pass_loads(cfg: PPOConfig, size: ModelSize, tokens: int, responses: int) -> Iterator[PassLoad]:
    """Of a rank or server that gets `responses` at a time, in passes of `tokens`.

    Short prompts fill a pass with responses; long ones hold nothing but media. Which is larger depends on the model.
    """
    line, most = longest_line(cfg, tokens), cfg.sampling.max_response_tokens
    tile = cfg.learner.engine.logits_tile
    yield PassLoad(tokens, min(tokens, responses * most), line, tile=tile)
    shared = cfg.algorithm.n_samples_per_prompt if cfg.learner.engine.shared_prompt else 1
    prompts = min(tokens // line, ceil(responses / shared))
    shown = max(1, prompts) * min(cfg.data.most_prompt_tokens, tokens)
    for tower in size.towers:
        yield PassLoad(tokens, min(tokens - shown, prompts * shared * most), line, {tower: shown}, tile)
