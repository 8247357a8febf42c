"""`make gpu-check`: what only a GPU can show, on the first one that this project meets, in at most ten minutes.

Ends with a table and a JSON file; its status is 1 where a check failed. `--device cpu` runs what CPUs can run.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import why_not
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.gpu.material import half_billion, small, write_prompts

BUDGET_S = 600.0
KERNELS = ("sdpa", "flash_attention_2", "flash_attention_3")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where the checks run."""

    device: str
    directory: Path
    until: float
    """time.monotonic() by which all must be done."""

    @property
    def gpus(self) -> float:
        return 1.0 if self.device == "cuda" else 0.0

    def run(self, *command: str) -> str:
        """What the command prints. Raises RuntimeError with its last lines where it fails, TimeoutExpired."""
        left = max(1.0, self.until - time.monotonic())
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=left, check=False
        )
        if done.returncode:
            raise RuntimeError(_what_failed(done.stderr or done.stdout))
        return done.stdout

    def train(self, kind: str, name: str, job: Mapping[str, Any]) -> list[dict[str, float]]:
        """The metrics of a job's steps."""
        file = self.directory / f"{name}.yaml"
        own = {"job": kind, "name": name, "output_dir": str(self.directory), "device": self.device}
        file.write_text(yaml.safe_dump(own | dict(job)))
        self.run("mmrlhf_ray.cli", kind, str(file))
        return list(read_metrics(self.directory / name))


def _what_failed(said: str) -> str:
    """The first error that a process speaks of: what comes after it may be of its end. Else its last lines."""
    lines = said.strip().splitlines()
    errors = [line for line in lines if re.match(r"(error: |[\w.]*(Error|Exception|Failed|Exceeded|Died)\b.*: )", line)]
    return errors[0] if errors else "; ".join(lines[-3:])


@dataclass
class Outcome:
    """One line of the table."""

    check: str
    outcome: str
    seconds: float = 0.0
    figures: dict[str, float | str] = field(default_factory=dict)


Check = Callable[[], Mapping[str, float | str]]


def checks(place: Place) -> Iterator[tuple[str, Check]]:
    """All of them, by name; what cannot run here is left out."""
    for kernel in KERNELS:
        if why_not(kernel, "bfloat16", place.device) is None:
            for family in FAMILIES:
                yield f"parity {family} {kernel}", lambda family=family, kernel=kernel: _parity(place, family, kernel)
    for stage in range(4):
        yield f"ZeRO-{stage}", lambda stage=stage: _zero(place, stage)
    for transport in ("object_store", "gloo", "ipc"):
        yield f"push {transport}", lambda transport=transport: _push(place, transport)
    if torch.cuda.device_count() > 1:
        yield "push nccl", lambda: _push(place, "nccl")
    yield "sleep and wake", lambda: _turns(place)
    yield "GRPO step", lambda: _step(place)


def _parity(place: Place, family: str, kernel: str) -> dict[str, float | str]:
    rows = json.loads(place.run("tests.gpu.parity", family, kernel, place.device).splitlines()[-1])
    outside = [name for name, found in rows.items() if not found["within"]]
    if outside:
        raise RuntimeError(f"outside of the gate of a run: {', '.join(outside)}: {rows}")
    return {"largest mean": max(found["mean"] for found in rows.values()), "modalities": float(len(rows))}


def _model(place: Place) -> Path:
    path = place.directory / "model"
    if not path.exists():
        half_billion(path) if place.device == "cuda" else small(path)
    return path


def _zero(place: Place, stage: int) -> dict[str, float | str]:
    data = write_prompts(place.directory / "demonstrations", answers=True)
    rows = place.train(
        "sft",
        f"zero{stage}",
        {
            "steps": 5,
            "log_every_steps": 1,
            "batch_size": 8,
            "model": {"path": str(_model(place)), "dtype": "bfloat16"},
            "data": {"path": str(data), "max_prompt_tokens": 512},
            "learner": {"engine": {"zero_stage": stage}, "optimizer": {"lr": 1e-4}},
            "workers": {"replicas": 1, "num_gpus": place.gpus, "num_cpus": 1},
            "checkpoint": {"every_steps": 5},
        },
    )
    first, last = rows[0]["loss"], rows[-1]["loss"]
    if not last < first:
        raise RuntimeError(f"the loss did not fall: {first} → {last}")
    return {"loss": f"{first:.3f} → {last:.3f}"}


def _online(place: Place, **changes: Any) -> dict[str, Any]:
    seat = {"replicas": 1, "num_gpus": place.gpus, "num_cpus": 0.2}
    prompts = 16 if place.device == "cuda" else 4
    return {
        "steps": 3,
        "policy": {"path": str(_model(place)), "dtype": "bfloat16"},
        "rewards": [
            {"name": "length", "kind": "function", "function": f"{Path(__file__).parent}/material.py:reward_of_length"}
        ],
        "data": {"path": str(write_prompts(place.directory / "prompts")), "max_prompt_tokens": 512},
        "sampling": {"max_response_tokens": 128 if place.device == "cuda" else 16},
        "algorithm": {
            "advantage_estimator": "grpo",
            "kl_coef": 0.0,
            "prompts_per_step": prompts,
            "n_samples_per_prompt": 4,
            "mini_batch_size": 4 * prompts,
        },
        "learner": {"engine": {"zero_stage": 2, "micro_batch_tokens": 8192}},
        "generator": {"gpu_memory_utilization": 0.4, "enforce_eager": True},
        "placement": {
            "generator": seat,
            "policy": seat,
            "colocate": [["generator", "policy"]],
            "functions": {"num_cpus": 0.2},
            "encoder": {"num_cpus": 0.2},
        },
        "checkpoint": {"every_steps": 100},
        **changes,
    }


def _push(place: Place, transport: str) -> dict[str, float | str]:
    changes: dict[str, Any] = {"weights": {"transport": transport}}
    if transport == "nccl":
        changes["placement"] = {key: {"replicas": 1, "num_gpus": 1.0} for key in ("generator", "policy")}
    rows = place.train("ppo", f"push-{transport}", _online(place, **changes))
    seconds = sorted(row["seconds_push"] for row in rows)[len(rows) // 2]
    return {"GB/s": round(rows[-1]["weight_bytes"] / seconds / 1e9, 2), "seconds": round(seconds, 3)}


def _turns(place: Place) -> dict[str, float | str]:
    """Every step of it is compared with the learner, since the engine slept before; the ledger is kept by the run."""
    rows = place.train("ppo", "turns", _online(place))
    return {"mismatch_mean": max(row["mismatch_mean"] for row in rows), "steps": float(len(rows))}


def _step(place: Place) -> dict[str, float | str]:
    with _peak_memory() as peak:
        rows = place.train("ppo", "step", _online(place, steps=4))
    row = rows[-1]
    tokens = row["responses"] * row["response_tokens"]
    parameters = sum(file.stat().st_size for file in _model(place).glob("*.safetensors")) / 2
    found: dict[str, float | str] = {
        "tokens/s": round(tokens / row["seconds_step"], 1),
        "update tokens/s": round(tokens / row["seconds_policy_update"], 1),
        "update TFLOP/s": round(6 * parameters * tokens / row["seconds_policy_update"] / 1e12, 3),
    }
    return found | ({"peak GiB": round(max(peak) / 2**30, 2)} if peak else {})


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Bytes of the device that are used, by everybody, several times a second; empty without a GPU."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while torch.cuda.is_available() and not over.wait(0.2):
            free, total = torch.cuda.mem_get_info()
            seen.append(total - free)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def run_checks(place: Place) -> list[Outcome]:
    """One after the other; a check that fails does not stop the others, the end of the time does."""
    outcomes = []
    for name, check in checks(place):
        started = time.monotonic()
        if started > place.until:
            outcomes.append(Outcome(name, "not run: the time was over"))
            continue
        print(f"gpu-check: {name}", file=sys.stderr, flush=True)
        try:
            outcome = Outcome(name, "ok", figures=dict(check()))
        except (RuntimeError, subprocess.TimeoutExpired, KeyError, ValueError, OSError) as error:
            outcome = Outcome(name, f"FAILED: {error}")
        outcome.seconds = round(time.monotonic() - started, 1)
        outcomes.append(outcome)
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    lines = ["| check | seconds | outcome |", "|---|---:|---|"]
    for one in outcomes:
        figures = ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:.4g}'}" for key, value in one.figures.items()
        )
        lines.append(f"| {one.check} | {one.seconds:g} | {one.outcome}{f': {figures}' if figures else ''} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check.json"))
    parser.add_argument("--seconds", type=float, default=BUDGET_S)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: there is no GPU here, so that there is nothing to check")
        return 0
    with TemporaryDirectory(prefix="gpu-check-") as scratch:
        outcomes = run_checks(Place(given.device, Path(scratch), time.monotonic() + given.seconds))
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"device": name, "checks": [asdict(one) for one in outcomes]}, indent=1))
    print(f"{name}\n\n{table(outcomes)}\n\n{given.out}")
    return int(any(one.outcome != "ok" for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
