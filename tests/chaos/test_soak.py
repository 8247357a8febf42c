"""A thousand steps with a death every hundred: nobody's memory, files or shared memory grow (`make chaos`).

Writes runs/soak.md.
"""

import os
import signal
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.chaos.test_matrix import Watched, job
from tests.cluster import ROOT
from tests.e2e.support import start

STEPS = int(os.environ.get("CHAOS_SOAK_STEPS", "1000"))
EVERY = STEPS // 10
DYING = ("policy-1", "generator-0", "scorer-0", "encoder-0", "functions-0", "reference-0", "generator-0", "scorer-0",
         "encoder-0")  # fmt: skip
RAYS_OWN = "gcs"
"""Keeps what it knows of the last 100,000 tasks (RAY_task_events_max_num_task_in_gcs); told, and not judged."""
BLOCKS = 512
"""Of the engine's cache of keys and values: it is full after the first steps. What an engine touches for the first time
of a cache that is never full looks like growth."""
MOST_MIB = 1.0
"""In a hundred steps."""
MIB = 2**20

pytestmark = pytest.mark.chaos


@dataclass(frozen=True)
class Sample:
    step: int
    anonymous: int
    """Bytes of memory of its own; what it maps of the object store is not."""
    files: int


def sample(pid: int, step: int) -> Sample | None:
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return Sample(step, int(status["RssAnon"].split()[0]) << 10, len(os.listdir(f"/proc/{pid}/fd")))
    except OSError:  # it has just died
        return None


def slope(samples: list[Sample], of: str) -> float:
    """By least squares, in a hundred steps."""
    values = [float(getattr(own, of)) for own in samples]
    return 100 * statistics.linear_regression([float(own.step) for own in samples], values).slope


def shared_memory() -> int:
    """Bytes in /dev/shm."""
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_nothing_grows(model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    file = job(model_dir, reward_model_dir, data_dir, tmp_path)
    running = start(
        "ppo",
        str(file),
        "name=soak",
        f"steps={STEPS}",
        "checkpoint.every_steps=10",
        "recovery.silent_s=20",
        f"generator.engine_args.num_gpu_blocks_override={BLOCKS}",
        cwd=tmp_path,
    )
    watched, dying = Watched(running, tmp_path / "soak"), list(DYING)
    found: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    shared: list[Sample] = []
    while running.process.poll() is None:
        step = len(watched.steps)
        for pid, name in watched.everybody().items():
            own = sample(pid, step)
            if own is not None:
                found[name, pid].append(own)
        shared.append(Sample(step, shared_memory(), 0))
        if dying and step >= EVERY * (len(DYING) - len(dying) + 1):
            victim = watched.pid(dying.pop(0))
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        time.sleep(2.0)
    assert running.process.returncode == 0, watched.last_words()
    running.assert_nothing_left()
    assert [row["step"] for row in read_metrics(tmp_path / "soak")] == list(range(STEPS))
    lines = [
        "| who | steps | MiB | MiB per 100 steps | files | files per 100 steps |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    grown = {}
    for (name, pid), life in sorted(found.items()):
        samples = life[len(life) // 2 :]  # in the first half it fills its caches
        if samples[-1].step - samples[0].step >= EVERY:
            memory, files = slope(samples, "anonymous") / MIB, slope(samples, "files")
            steps = f"{samples[0].step} to {samples[-1].step}"
            lines.append(
                f"| {name} | {steps} | {samples[-1].anonymous / MIB:.0f} | {memory:+.2f} | {samples[-1].files} | "
                f"{files:+.2f} |"
            )
            if name != RAYS_OWN:
                grown[name, pid] = memory, files
    warm = [own for own in shared if own.step >= EVERY]
    lines.append(f"| /dev/shm | all | {warm[-1].anonymous / MIB:.0f} | {slope(warm, 'anonymous') / MIB:+.2f} | | |")
    (ROOT / "runs").mkdir(exist_ok=True)
    (ROOT / "runs" / "soak.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    assert {who: slopes for who, slopes in grown.items() if slopes[0] > MOST_MIB or slopes[1] > 1.0} == {}
    assert slope(warm, "anonymous") / MIB <= MOST_MIB
