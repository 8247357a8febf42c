"""The demo: the whole loop on Omni-Digits, stage by stage, ending with a table and a report."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import Records, read_records, write_records
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.annotators import Response, annotate, choose_pairs
from mmrlhf_ray.demo.data import build_data
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.demo.profiles import FAST_PROFILE, FULL_PROFILE, Paths, Profile
from mmrlhf_ray.demo.report import ReportInputs, Setting, write_report
from mmrlhf_ray.demo.scoring import judge, print_table
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.labels.derive import derive_preferences
from mmrlhf_ray.pipelines.evaluate import job as evaluate
from mmrlhf_ray.pipelines.ppo import job as ppo
from mmrlhf_ray.pipelines.supervised import reward_model, sft
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.progress import duration
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROMPT, RESPONSE

_MARKER = ".mmrlhf-demo"
_VERSIONS = ("mmrlhf-ray", "torch", "transformers", "ray", "deepspeed")
_HELDOUT_SHARE = 0.1
"""Of the prompts with preferences, for the reward model's held-out pair accuracy."""


def run_demo(root: Path, seed: int, fast: bool) -> bool:
    """Run every stage into `root`, print the table, write report.html. An earlier demo there is replaced.

    Returns whether every bar was passed; the fast profile is too short to learn and has none to pass.
    Raises RunError where `root` holds something else.
    """
    profile = FAST_PROFILE if fast else FULL_PROFILE
    paths = Paths(Path(root))
    _claim(paths.root)
    durations: dict[str, float] = {}
    with ray_session():  # one for all stages, whose own sessions are this one then
        for name, stage in _stages(paths, profile, seed).items():
            started = time.monotonic()
            print(f"── {name}", file=sys.stderr, flush=True)
            stage()
            durations[name] = time.monotonic() - started
            print(f"── {name}: {duration(durations[name])}", file=sys.stderr, flush=True)
    command = shlex.join(["mmrlhf", "demo", *(["--fast"] if fast else []), "--seed", str(seed)])
    versions = {name: version(name) for name in _VERSIONS}
    return _conclude(paths, profile, durations, Setting(seed, command, versions, f"{datetime.now(UTC):%Y-%m-%d}"))


def _claim(root: Path) -> None:
    """An empty directory; only what an earlier demo made is removed."""
    if root.exists() and any(root.iterdir()) and not (root / _MARKER).is_file():
        raise RunError(f"{root}: not empty and not made by a demo; choose another --output")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / _MARKER).touch()


def _stages(paths: Paths, profile: Profile, seed: int) -> dict[str, Callable[[], object]]:
    return {
        "data and base model": lambda: _make(paths, profile, seed),
        "SFT": lambda: sft.run(profiles.sft(paths, profile, seed)),
        "responses for annotators": lambda: evaluate.run(profiles.sample(paths, profile, seed)),
        "annotation": lambda: _annotate(paths, profile.pairs_per_prompt, seed),
        "reward model": lambda: reward_model.run(profiles.reward_model(paths, profile, seed)),
        "PPO": lambda: ppo.run(profiles.ppo(paths, profile, seed)),
        "evaluation": lambda: evaluate.run(profiles.evaluate(paths, seed)),
    }


def _make(paths: Paths, profile: Profile, seed: int) -> None:
    build_model(paths.base, seed)
    build_data(paths.data, seed, profile.sizes)


def _read(path: Path) -> Records:
    return read_records(DataConfig(path=str(path)), PROMPT, path)


def _annotate(paths: Paths, pairs_per_prompt: int, seed: int) -> None:
    """Pairs of the SFT policy's own responses, the annotators' votes on them, and preferences derived from these."""
    records = _read(paths.data / "prompts_train")
    responses = evaluate.read_responses(paths.root / "sample", "policy").to_pylist()
    by_prompt: dict[str, list[Response]] = {}
    for r in responses:
        response = Response(r["text"], r["finish_reason"], r["response_tokens"])
        by_prompt.setdefault(r["prompt_id"], []).append(response)
    rng = np.random.default_rng([seed, 11])
    pairs = [p for prompt_id, given in by_prompt.items() for p in choose_pairs(prompt_id, given, pairs_per_prompt, rng)]
    annotations = annotate(records.records, pairs, seed)
    pq.write_table(annotations, paths.annotations)
    preferences = derive_preferences(annotations_of(annotations), records.records)
    prompt_ids = records.records.column("prompt_id").to_pylist()
    held_out = set(prompt_ids[: int(_HELDOUT_SHARE * len(prompt_ids))])
    mine = pa.array([p in held_out for p in preferences.column("prompt_id").to_pylist()])
    others = pa.array([not m for m in mine.to_pylist()])
    for path, rows in ((paths.preferences_heldout, mine), (paths.preferences, others)):
        write_records(path, preferences.filter(rows), records.media)
    print(f"{len(pairs)} pairs, {len(annotations)} votes, {len(preferences)} preferences", file=sys.stderr)


def _conclude(paths: Paths, profile: Profile, durations: dict[str, float], setting: Setting) -> bool:
    """Score the held-out answers with the gold reward, which training never saw; table and report."""
    held_out, train = _read(paths.data / "prompts_heldout"), _read(paths.data / "prompts_train")
    answers = {
        name: evaluate.read_responses(paths.root / "evaluate", policy, media)
        for name, policy, media in (
            ("sft", "baseline", "own"),
            ("ppo", "policy", "own"),
            ("swapped", "policy", "swapped"),
        )
    }
    verdict = judge(held_out.records, **answers)
    rollouts = [pq.read_table(f, schema=RESPONSE) for f in sorted((paths.root / "ppo" / ppo.ROLLOUTS_DIR).iterdir())]
    report = write_report(
        paths.root,
        ReportInputs(
            title=f"Omni-Digits, {profile.name} profile",
            machine=_machine(),
            setting=setting,
            prompts=held_out.records,
            media=held_out.media,
            rollouts=pa.concat_tables(rollouts),
            rollout_prompts=train.records,
            sft_metrics=read_metrics(paths.root / "sft"),
            reward_model_metrics=read_metrics(paths.root / "reward-model"),
            ppo_metrics=read_metrics(paths.root / "ppo"),
            durations=durations,
            **answers,
        ),
    )
    print_table(verdict)
    print(f"{duration(sum(durations.values()))} in all. Report: {report}")
    if profile is FAST_PROFILE:
        print("The fast profile shows that every stage runs; it is too short for the bars above.")
        return True
    return verdict.passed


def _machine() -> dict[str, str]:
    memory = psutil.virtual_memory().total / 2**30
    return {"cores": str(os.cpu_count()), "memory": f"{memory:.0f} GiB", "device": "CPU"}
