"""A demo report of Omni-Digits whose answers no one trained for: for pictures and tests of the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.demo.data import Sizes, build_data
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.report import ReportInputs, Setting, write_report
from mmrlhf_ray.demo.tasks import respond
from mmrlhf_ray.schema import RESPONSE

_SIZES = Sizes(
    demonstrations=7, prompts_train=26, prompts_heldout=195, tones=10, tones_heldout=20, clips=8, clips_heldout=12
)
_STEPS = 40


def sample_report(directory: Path, seed: int = 0) -> Path:
    """Write the report of a run whose PPO policy is better on most tasks and worse on one."""
    data, rng = build_data(directory / "data", seed, _SIZES), np.random.default_rng(seed)
    held, train = (pq.read_table(d / "records.parquet") for d in (data.prompts_heldout, data.prompts_train))
    steps = range(0, _STEPS, 5)
    rollouts = [_answers(train, "ppo", step, 0.6 + 0.004 * step, 0.5 + 0.01 * step, rng) for step in steps]
    curve = [1 - float(np.exp(-step / 10)) for step in range(_STEPS)]
    return write_report(
        directory,
        ReportInputs(
            title="Omni-Digits, full profile",
            machine={"cores": "2", "memory": "24 GiB", "device": "CPU"},
            setting=Setting(seed, "mmrlhf demo --seed 0", {"mmrlhf-ray": "0.1", "ray": "2.60.0"}, "2026-01-31"),
            prompts=held,
            media=pq.read_table(data.prompts_heldout / "media.parquet"),
            sft=_answers(held, "sft", 0, 0.72, 0.44, rng),
            ppo=_answers(held, "ppo", _STEPS, 0.84, 0.87, rng, worse="clip_direction"),
            swapped=_answers(held, "ppo", _STEPS, 0.35, 0.06, rng, media="swapped"),
            rollouts=pa.concat_tables(rollouts),
            rollout_prompts=train,
            sft_metrics=[{"step": n, "time": 0.0, "loss": 2 - 1.8 * y} for n, y in enumerate(curve)],
            reward_model_metrics=[
                {"step": n, "time": 0.0, "pair_accuracy": 0.5 + 0.4 * y, "eval_pair_accuracy": 0.5 + 0.35 * y}
                for n, y in enumerate(curve)
            ],
            ppo_metrics=[
                {"step": n, "time": 0.0, "score": y, "kl": 1.2 * y, "entropy": 1 - 0.5 * y} for n, y in enumerate(curve)
            ],
            durations={"SFT": 61.0, "PPO": 1025.0},
        ),
    )


def _answers(
    prompts: pa.Table,
    policy: str,
    step: int,
    right: float,
    grounded: float,
    rng: np.random.Generator,
    media: str = "own",
    worse: str = "",
) -> pa.Table:
    """RESPONSE of a policy that is right and grounded with these probabilities, rarely right at the task `worse`."""
    rows: list[dict[str, Any]] = []
    lists = [field.name for field in RESPONSE if pa.types.is_list(field.type) and field.name != "media_ids"]
    for row in prompts.to_pylist():
        extras = json.loads(row["extras"])
        said = rng.random() < (0.4 if row["task"] == worse else right)
        answer = extras["answer"] if said else next(one for one in extras["options"] if one != extras["answer"])
        text = respond(answer, extras["evidence"] if rng.random() < grounded else {})
        tokens = len(text.split()) + 1
        rows.append(
            {name: row[name] for name in ("prompt_id", "task", "modality", "messages", "media_ids", "extras")}
            | {name: [] for name in lists}
            | {"step": step, "policy": policy, "media": media, "text": text, "finish_reason": "stop"}
            | {"response_tokens": tokens, "kl": 0.03 * step * float(rng.random()), "advantage": float("nan")}
            | {"score": gold_reward(text, "stop", tokens, extras).total / 2, "components": "{}"}
            | {"sample_id": row["prompt_id"], "group_id": len(rows), "turns": "[]"}
        )
    return pa.Table.from_pylist(rows, schema=RESPONSE)
