"""A training process killed at random instants of a save (`make chaos`): the newest checkpoint is a good
one each time, and the steps after it are those of a run that nobody disturbed."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.config import EngineConfig, SFTConfig
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.training.checkpoint import newest_complete
from tests.unit.training.rows import NUMBERS, media_rows

KILLS = int(os.environ.get("CHAOS_KILLS", "50"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
STEPS_BETWEEN = 5
"""That are compared after each kill, at least."""
PATIENCE_S = 120.0
_MEASURED = 10
"""Saves that say how long one takes."""

pytestmark = pytest.mark.chaos


def train(model_dir: Path, run_dir: Path, steps: int, saved: int, tell: Connection) -> None:
    """Supervised training from the newest checkpoint up to `steps`, with checkpoints up to `saved`; tells of both."""
    from torch import device

    from mmrlhf_ray.training.engine import init_process_group
    from mmrlhf_ray.training.supervised import SupervisedWorker, WorkerPlan
    from mmrlhf_ray.training.tasks import SFTTask

    learner = {"engine": EngineConfig(zero_stage=2), "optimizer": {"lr": 1e-3}}
    cfg = SFTConfig(name="n", steps=steps, model={"path": str(model_dir)}, data={"path": "d"}, learner=learner)
    listener = socket.create_server(("127.0.0.1", 0))
    init_process_group(0, 1, "127.0.0.1", listener.getsockname()[1], device("cpu"), listener)
    rows = media_rows(load_encoder(model_dir), NUMBERS, [[1.0] * len(numbers) for numbers in NUMBERS])
    found = newest_complete(run_dir)
    path, first = (found.path, found.manifest.step) if found else (None, 0)
    worker = SupervisedWorker(WorkerPlan(cfg, SFTTask(0.5), run_dir, steps, "cpu", path), 0, 1)
    worker.restore()
    for step in range(first, steps):
        own = [(step + n) % len(rows) for n in range(3)]
        tell.send(("step", step, worker.step(rows.take(pa.array(own)))))
        if step < saved:
            started = time.monotonic()
            tell.send(("saving", step + 1, None))
            worker.save(step + 1, {})
            tell.send(("saved", step + 1, time.monotonic() - started))


@dataclass
class Attempt:
    """One process, and what it told."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    save_s: list[float] = field(default_factory=list)
    killed_at: int | None = None
    """The step whose checkpoint it was writing."""


def attempt(model_dir: Path, run_dir: Path, steps: int, kill_after_s: float | None = None) -> Attempt:
    """Train to the end, or until so long after the beginning of a save, when STEPS_BETWEEN steps are done."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["mmrlhf_ray.training.supervised", __name__])
    ours, theirs = context.Pipe()
    saved = _MEASURED if kill_after_s is None else steps
    process = context.Process(target=train, args=(model_dir, run_dir, steps, saved, theirs), daemon=True)
    process.start()
    theirs.close()
    made, saving = Attempt(), 0
    for what, step, value in told(ours):
        if what == "step":
            made.steps[step] = value
        elif what == "saved":
            made.save_s.append(value)
            saving = 0
        else:
            saving = step
            if kill_after_s is not None and len(made.steps) > STEPS_BETWEEN and process.is_alive():
                time.sleep(kill_after_s)
                process.kill()
                process.join(PATIENCE_S)
    process.join(PATIENCE_S)
    assert process.exitcode == (0 if kill_after_s is None else -signal.SIGKILL), process.exitcode
    made.killed_at = saving or None
    return made


def told(ours: Connection) -> Iterator[tuple[str, int, Any]]:
    """Until the process ends."""
    try:
        while ours.poll(PATIENCE_S):
            yield ours.recv()
    except EOFError:
        return
    raise AssertionError(f"the process said nothing for {PATIENCE_S:g} s")


def test_whenever_a_save_is_cut_off_the_run_goes_on_as_if_it_had_not_been(model_dir: Path, tmp_path: Path) -> None:
    rng, steps = np.random.default_rng(SEED), (2 * KILLS + 5) * (STEPS_BETWEEN + 1)
    straight = attempt(model_dir, tmp_path / "straight", steps)
    assert sorted(straight.steps) == list(range(steps))
    run_dir, kills, published, compared = tmp_path / "killed", 0, 0, 0
    save_s = float(np.median(straight.save_s))
    while kills < KILLS:
        made = attempt(model_dir, run_dir, steps, rng.uniform(0.0, 1.5 * save_s))  # some saves take longer
        compared += assert_same(made, straight)
        found = newest_complete(run_dir)
        assert found is not None
        assert not found.passed_over, found.passed_over
        if made.killed_at is not None:  # else it was faster than usual
            assert found.manifest.step in (made.killed_at - 1, made.killed_at)
            kills, published = kills + 1, published + (found.manifest.step == made.killed_at)
            print(f"kill {kills}: in the save of step {made.killed_at}, newest is {found.manifest.step}", flush=True)
    compared += assert_same(attempt(model_dir, run_dir, found.manifest.step + STEPS_BETWEEN), straight)
    print(f"{kills} kills, seed {SEED}: {published} checkpoints were published already; {compared} steps were compared")


def assert_same(made: Attempt, straight: Attempt) -> int:
    """How many steps were the same."""
    for step, metrics in made.steps.items():
        assert metrics == straight.steps[step], step
    return len(made.steps)
