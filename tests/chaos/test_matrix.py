"""Every role killed and stopped in every stage of online steps, one after the other in a single run (`make chaos`).

The run must go on by itself each time, and end with the numbers of a run that nobody disturbed. Writes runs/chaos.md.
"""

import itertools
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from mmrlhf_ray.runtime.auth_token import token_path
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.cluster import ROOT
from tests.e2e.conftest import learnt
from tests.e2e.support import Running, mmrlhf, start

STAGES = {
    "generate": "ray::Generator.generate",
    "score": "ray::Scorer.score",
    "learn": "ray::Learner.update",
    "push": "ray::Learner.push_weights",
    "save": "ray::Learner.save",
}
"""Stage → the title of a process that is at it."""
STATELESS = ("encoder-0", "generator-0", "scorer-0", "functions-0", "reference-0")
LEARNERS = ("policy-0", "policy-1", "critic-0")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
SILENT_S = 5.0
STEPS = 400
MINUTES = float(os.environ.get("CHAOS_MINUTES", "inf"))
"""After which nobody is killed any more."""
SKIPPED = int(os.environ.get("CHAOS_SKIP", "0"))
"""Cells that are left out, from the first on."""
PATIENCE_S = 300.0
Rows = list[dict[str, float]]

pytestmark = pytest.mark.chaos


@dataclass(frozen=True)
class Death:
    """One cell of the matrix; seconds since the signal."""

    role: str
    stage: str
    signal: str
    noticed_s: float
    back_s: float
    next_step_s: float
    repeated: int
    """Steps that were taken again."""


class Watched:
    """The run, what it says, and the processes of its roles."""

    def __init__(self, running: Running, run_dir: Path):
        self.running, self._run_dir = running, run_dir
        self.said: list[tuple[float, str]] = []
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        process = self.running.process
        for line in process.stderr or process.stdout or ():
            self.said.append((time.monotonic(), line))

    def until(self, there: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        end = time.monotonic() + patience_s
        while not (found := there()):
            assert time.monotonic() < end, f"{what}\n{self.last_words()}"
            assert self.running.process.poll() is None, f"{what}\n{self.last_words()}"
            time.sleep(0.005)
        return found

    def last_words(self) -> str:
        return "".join(line for _, line in self.said[-40:])

    @property
    def steps(self) -> list[float]:
        """When each step that is in the metrics was logged."""
        return [row["time"] for row in read_metrics(self._run_dir)] if self._run_dir.exists() else []

    @property
    def saved(self) -> int:
        """Steps that the newest checkpoint holds."""
        return max((int(path.name.rpartition("-")[2]) for path in self._run_dir.glob("checkpoints/step-*")), default=0)

    def at(self, title: str) -> bool:
        return any(command.startswith(title) for command in self.running.processes().values())

    def pid(self, role: str) -> int | None:
        """Of a role's process, or of the driver's."""
        alive = self.running.processes()
        if role == "driver":
            return next((pid for pid, command in alive.items() if "-m mmrlhf_ray.cli ppo" in command), None)
        return next((pid for pid in alive if self._actors().get(pid) == role), None)

    def everybody(self) -> dict[int, str]:
        """Process → name, of the actors that are alive, of a generator's own processes, the driver, and Ray's."""
        others = {
            "sampler_process": "sampler",
            "VLLM::EngineCore": "engine",
            "/gcs_server": "gcs",
            "/raylet ": "raylet",
        }
        found = {self.running.process.pid: "driver"}
        for pid, command in self.running.processes().items():
            for part in (part for part in others if part in command):
                found[pid] = others[part]
        return found | self._actors()

    def _actors(self) -> dict[int, str]:
        """Process → name, of the actors that are alive, as the dashboard of the run's Ray tells it."""
        addresses = [line.split()[-1] for _, line in list(self.said) if line.startswith("Ray dashboard: ")]
        if not addresses:
            return {}
        token = token_path().read_text().strip()
        only = "filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
        request = urllib.request.Request(
            f"{addresses[-1]}/api/v0/actors?{only}&detail=1", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                listed = json.load(answer)["data"]["result"]["result"]
        except urllib.error.URLError:  # it is just starting
            return {}
        return {actor["pid"]: actor["name"] for actor in listed}

    def heard(self, since: float, pattern: str) -> float | None:
        """Seconds from `since` until the first line that matches."""
        return next(
            (when - since for when, line in list(self.said) if when >= since and re.search(pattern, line)), None
        )


def strike(watched: Watched, role: str, stage: str, number: signal.Signals) -> Death:
    """One death, and what came of it."""
    pid = watched.until(lambda: watched.pid(role), f"no process of {role}")
    watched.until(lambda: watched.at(STAGES[stage]), f"{stage} does not come")
    before, now, clock = len(watched.steps), time.monotonic(), time.time()
    os.kill(pid, number)
    if role == "driver":
        noticed = back = watched.until(lambda: watched.heard(now, "supervise: ended by SIGKILL"), f"{role} in {stage}")
    else:
        ends = rf"\b{role} (died|gave no sign of life)"
        noticed = watched.until(lambda: watched.heard(now, ends), f"{role} in {stage} goes unnoticed")
        back = watched.until(lambda: watched.heard(now, rf"\b{role} is back after"), f"{role} in {stage} stays away")
    logged = watched.until(lambda: [t for t in watched.steps if t > clock + back], f"no step after {role} in {stage}")
    repeated = max(0, before - len(watched.steps) + 1)
    # Three failures at one step end a run: the next one comes at another.
    watched.until(lambda: watched.saved > before, f"no checkpoint after {role} in {stage}")
    return Death(role, stage, number.name, noticed, back, logged[0] - clock, repeated)


def job(model_dir: Path, reward_model_dir: Path, data_dir: Path, directory: Path) -> Path:
    small, pair = {"num_cpus": 0.2}, {"num_cpus": 0.2, "replicas": 2}
    learner = {"engine": {"zero_stage": 2}, "optimizer": {"lr": 2e-4}}
    gold = f"{ROOT / 'mmrlhf_ray' / 'demo' / 'gold_function.py'}:gold"
    values: dict[str, Any] = {
        "job": "ppo",
        "output_dir": str(directory),
        "device": "cpu",
        "steps": STEPS,
        "policy": {"path": str(model_dir)},
        "rewards": [
            {"name": "reward_model", "kind": "model", "model": {"path": str(reward_model_dir)}},
            {"name": "gold", "kind": "function", "function": gold},
        ],
        "data": {"path": str(data_dir / "prompts_train"), "facts_column": "facts", "max_prompt_tokens": 64},
        "sampling": {"max_response_tokens": 8},
        "algorithm": {"prompts_per_step": 8, "n_samples_per_prompt": 2, "mini_batch_size": 16},
        "learner": learner,
        "critic": learner,
        "generator": {"max_num_seqs": 32},
        "placement": {
            **dict.fromkeys(("generator", "scorer", "functions", "reference", "encoder"), small),
            "policy": pair,
            "critic": {"num_cpus": 0.2, "replicas": 1},
        },
        "checkpoint": {"every_steps": 1},
        "recovery": {"max_restarts": 100, "silent_s": SILENT_S},
        "deadlines": {"placement_s": 60, "start_s": 300, "stage_s": 300},
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(values))
    return directory / "job.yaml"


def cells() -> Iterator[tuple[str, str, signal.Signals]]:
    for number in SIGNALS:
        roles = (*STATELESS, *LEARNERS, *(["driver"] if number == signal.SIGKILL else []))
        yield from ((role, stage, number) for role, stage in itertools.product(roles, STAGES))


def same_numbers(rows: Rows, expected: Rows, steps: int) -> None:
    """Each step is there once, and what it learnt is the same to the last digit."""
    assert [row["step"] for row in rows] == list(range(steps))
    for row, other in zip(rows, expected, strict=True):
        assert learnt(row) == learnt(other), row["step"]


def table(deaths: list[Death]) -> str:
    lines = ["| role | stage | signal | noticed after | back after | next step after | steps repeated |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for d in deaths:
        times = f"{d.noticed_s:.1f} s | {d.back_s:.1f} s | {d.next_step_s:.1f} s"
        lines.append(f"| {d.role} | {d.stage} | {d.signal} | {times} | {d.repeated} |")
    return "\n".join(lines) + "\n"


def test_whoever_dies_whenever_the_run_learns_the_same(
    model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    file = job(model_dir, reward_model_dir, data_dir, tmp_path)
    undisturbed = mmrlhf("ppo", str(file), "name=undisturbed", cwd=tmp_path, timeout_s=3600)
    assert undisturbed.returncode == 0, undisturbed.err
    run_dir = tmp_path / "disturbed"
    running = start("ppo", str(file), "name=disturbed", "--supervise", "20", cwd=tmp_path)
    watched, deaths = Watched(running, run_dir), []
    watched.until(lambda: len(watched.steps) >= 2, "no step")
    until = time.monotonic() + 60 * MINUTES
    for cell in itertools.takewhile(lambda _: time.monotonic() < until, itertools.islice(cells(), SKIPPED, None)):
        deaths.append(strike(watched, *cell))
        print(deaths[-1], flush=True)
        (ROOT / "runs").mkdir(exist_ok=True)
        (ROOT / "runs" / "chaos.md").write_text(table(deaths))
    assert running.process.wait(3600) == 0, watched.last_words()
    running.assert_nothing_left()
    same_numbers(read_metrics(run_dir), read_metrics(tmp_path / "undisturbed"), STEPS)
    for death in deaths:
        if death.role in STATELESS:
            assert death.repeated == 0, death
