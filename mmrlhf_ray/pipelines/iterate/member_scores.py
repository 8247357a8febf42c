"""Scores of given responses by each member of a reward model's ensemble."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrlhf_ray.config import EvaluateConfig
from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import encode_response, load_encoder
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.planning.preflight import check_reward_model
from mmrlhf_ray.rollout.batch import Prompts, Rollouts, rollouts_of
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.workers.crew import Crew, crew, start_encoders, start_scorers

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
    with ray_session(env=cfg.env), crew(cfg, ("encoder", "scorer")) as own:
        found = _ask(cfg, own, asked, responses, by_prompt, run_dir)
    lacking = [responses[number].prompt_id for number in range(len(responses)) if number not in found]
    if lacking:
        raise DataError(f"{records.file}: prompt {lacking[0]!r} was answered but is not among the usable prompts")
    return np.array([found[number] for number in range(len(responses))], dtype=np.float64)


def _ask(
    cfg: EvaluateConfig,
    own: Crew,
    records: Records,
    responses: Sequence[Said],
    by_prompt: Mapping[str, Sequence[int]],
    run_dir: Path,
) -> dict[int, NDArray[np.float32]]:
    assert cfg.reward_model is not None
    prompts = start_encoders(own, cfg, records, run_dir).check(cfg.deadlines.start_s)
    count = prompts.rows
    adapter = adapter_for(Path(cfg.reward_model.path))
    budget = PassBudget.of(EngineConfig(), [adapter], cfg.score_micro_batch_tokens)
    scorers = start_scorers(own, cfg, [cfg.reward_model], budget)
    scorers.wait_ready(cfg.deadlines.start_s)
    encoder = load_encoder(cfg.policy.path)
    token_ids = [encode_response(encoder, said.text) for said in responses]
    found: dict[int, NDArray[np.float32]] = {}
    with Progress("scoring", count, "prompt") as progress:
        for first in range(0, count, _PROMPTS_PER_CALL):
            last = min(first + _PROMPTS_PER_CALL, count)
            batch = prompts.slice(first, last)
            numbers = [n for prompt_id in batch.table.column("prompt_id").to_pylist() for n in by_prompt[prompt_id]]
            rollouts = _rollouts(batch, by_prompt, token_ids)
            scores, _ = scorers.ask_members(rollouts).result()
            found |= dict(zip(numbers, scores, strict=True))
            progress.update(last, len(numbers))
    return found


def _rollouts(batch: Prompts, by_prompt: Mapping[str, Sequence[int]], token_ids: Sequence[Sequence[int]]) -> Rollouts:
    """The responses to these prompts, prompt after prompt, as scorers take them."""
    shared = ("group_id", "prompt_id", "task", "modality", "prompt_token_ids", "facts_token_ids", "media_ids")
    rows = [
        {name: prompt[name] for name in shared}
        | {
            "sample_id": f"{prompt['prompt_id']}#{number}",
            "policy_version": 0,
            "versions": [],
            "segments": [],
            "response_token_ids": token_ids[number],
            "response_mask": [True] * len(token_ids[number]),
            "rollout_logprobs": [0.0] * len(token_ids[number]),  # no scorer reads them
            "finish_reason": "stop",
        }
        for prompt in batch.table.to_pylist()
        for number in by_prompt[prompt["prompt_id"]]
    ]
    table = check(pa.Table.from_pylist(rows, schema=ROLLOUT), ROLLOUT, "member_scores")
    return rollouts_of(table, batch.features)
