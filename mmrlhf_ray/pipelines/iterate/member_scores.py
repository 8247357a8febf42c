"""What each member of a reward model's ensemble says of given responses."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.util.placement_group import remove_placement_group

from mmrlhf_ray.config import EvaluateConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import encode_response, load_encoder
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.run_dir import check_reward_model
from mmrlhf_ray.runtime.actors import Seat, reserve
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.workers.crew import Reserved, absolute, device_of, seats, start_encoder
from mmrlhf_ray.workers.fleet import Prompts, Rollouts, Servers
from mmrlhf_ray.workers.roles.servers import Scorer

_PROMPTS_PER_CALL = 128


@dataclass(frozen=True)
class Said:
    """One response to one prompt."""

    prompt_id: str
    text: str


def member_scores(
    cfg: EvaluateConfig, records: Records, responses: Sequence[Said], run_dir: Path
) -> NDArray[np.float64]:
    """Scores [responses, members] by `cfg.reward_model`, which sees the prompts' media.

    `records`: PROMPT of (at least) the prompts that were answered; `cfg` says how they are read and who is placed
    where. Raises DataError for a response to another prompt, and as pipelines.evaluate.run().
    """
    assert cfg.reward_model is not None, "asked for scores without a reward model"
    check_reward_model(cfg.reward_model.path)
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for number, said in enumerate(responses):
        by_prompt[said.prompt_id].append(number)
    asked = records.kept([prompt_id in by_prompt for prompt_id in records.records.column("prompt_id").to_pylist()])
    everyone = (Seat("encoder-0", cfg.placement.encoder), *seats("scorer", cfg.placement.scorer))
    with ray_session():
        group = reserve(everyone, cfg.placement.strategy, cfg.deadlines)
        try:
            found = _ask(cfg, Reserved(group, everyone), asked, responses, by_prompt, run_dir)
        finally:
            remove_placement_group(group)  # ends the actors: the session may be another's and last longer
    lacking = [responses[number].prompt_id for number in range(len(responses)) if number not in found]
    if lacking:
        raise DataError(f"{records.file}: prompt {lacking[0]!r} was answered but is not among the usable prompts")
    return np.array([found[number] for number in range(len(responses))], dtype=np.float64)


def _ask(
    cfg: EvaluateConfig,
    reserved: Reserved,
    records: Records,
    responses: Sequence[Said],
    by_prompt: Mapping[str, Sequence[int]],
    run_dir: Path,
) -> dict[int, NDArray[np.float32]]:
    place, deadline = cfg.placement, cfg.deadlines
    assert cfg.reward_model is not None
    prompts, count = start_encoder(cfg, reserved, records, run_dir)
    device = device_of(place.scorer, cfg.device)
    group = reserved.role("scorer", Scorer, models=[absolute(cfg.reward_model)], device=device)
    group.wait(group.call("ready"), deadline.start_s, "starting scorer")
    scorers = Servers(group, "members", PassBudget(cfg.score_micro_batch_tokens), deadline.stage_s)
    encoder = load_encoder(cfg.policy.path)
    token_ids = [encode_response(encoder, said.text) for said in responses]
    found: dict[int, NDArray[np.float32]] = {}
    with Progress("scoring", count, "prompt") as progress:
        for first in range(0, count, _PROMPTS_PER_CALL):
            last = min(first + _PROMPTS_PER_CALL, count)
            batch = prompts.slice(first, last)
            numbers = [n for prompt_id in batch.table.column("prompt_id").to_pylist() for n in by_prompt[prompt_id]]
            rollouts = _rollouts(batch, by_prompt, token_ids)
            facts = [len(f) for f in rollouts.table.column("facts_token_ids").to_pylist()]
            scores, _ = scorers.ask(rollouts, extra_tokens=facts).result()
            found |= dict(zip(numbers, scores, strict=True))
            progress.update(last, len(numbers))
    return found


def _rollouts(batch: Prompts, by_prompt: Mapping[str, Sequence[int]], token_ids: Sequence[Sequence[int]]) -> Rollouts:
    """The responses to these prompts, prompt after prompt, as scorers take them."""
    shared = ("prompt_id", "task", "modality", "prompt_token_ids", "facts_token_ids", "media_ids")
    rows = [
        {name: prompt[name] for name in shared}
        | {
            "sample_id": f"{prompt['prompt_id']}#{number}",
            "policy_version": 0,
            "response_token_ids": token_ids[number],
            "response_mask": [True] * len(token_ids[number]),
            "rollout_logprobs": [0.0] * len(token_ids[number]),  # no scorer reads them
            "finish_reason": "stop",
        }
        for prompt in batch.table.to_pylist()
        for number in by_prompt[prompt["prompt_id"]]
    ]
    table = check(pa.Table.from_pylist(rows, schema=ROLLOUT), ROLLOUT, "member_scores")
    return Rollouts(table, ray.put(table), batch.features, 0.0)
