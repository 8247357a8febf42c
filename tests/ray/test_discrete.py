"""Whole discrete jobs on RLlib, as small as they can be: every algorithm, resuming, seeds, votes, a sweep."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from mmrlhf_ray.config import DiscreteConfig, save_config
from mmrlhf_ray.discrete.files import MODULE_DIR, WEIGHTS_FILE
from mmrlhf_ray.discrete.start import start
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.pipelines.discrete import job as discrete
from mmrlhf_ray.pipelines.discrete import sweep as discrete_sweep
from mmrlhf_ray.pipelines.discrete.material import make_material
from mmrlhf_ray.pipelines.discrete.report import REPORT_FILE, SUMMARY_FILE
from mmrlhf_ray.planning.preflight import read_all
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.schema import PROMPT
from tests.e2e import support
from tests.e2e.support import mmrlhf
from tests.ray.discrete_support import CLASSES, job, make_data, parts

DQN = {"kind": "dqn", "batch_size": 32, "learning_starts": 32, "updates_per_decision": 0.125}
PPO = {"kind": "ppo", "mini_batch_size": 64, "ppo_epochs": 2}
CLONE = {"kind": "clone", "batch_size": 32, "labelled_share": 0.2}
KINDS = {"dqn": DQN, "ppo": PPO, "a2c": {"kind": "a2c"}, "reinforce": {"kind": "reinforce"}, "clone": CLONE}
ALGORITHMS = {kind: algorithm | {"lr_end": 1e-4} for kind, algorithm in KINDS.items()}

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("discrete"))


@pytest.fixture(scope="module")
def finished(data: Path, session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind of algorithm → directory of a run with seed 0, made when it is first asked for."""
    output = tmp_path_factory.mktemp("finished")
    return cache(lambda kind: discrete.run(job(data, output, ALGORITHMS[kind], name=kind)))


def _learned(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, without what depends on the time of day."""
    return [{k: v for k, v in row.items() if k not in ("time", "train_seconds")} for row in read_metrics(run_dir)]


def _weights(run_dir: Path) -> dict[str, list[float]]:
    return {k: v.flatten().tolist() for k, v in load_file(run_dir / MODULE_DIR / WEIGHTS_FILE).items()}


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_job_leaves_a_module_figures_and_a_report(kind: str, finished: Callable[[str], Path]) -> None:
    run_dir = finished(kind)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == [0, 1]
    assert 0.0 <= rows[-1]["heldout_score"] <= 1.0
    assert 1e-3 >= rows[0]["lr"] > rows[1]["lr"] >= 1e-4
    if kind != "clone":
        assert rows[-1]["total reward"] == pytest.approx(sum(r["episode reward"] * r["decisions"] for r in rows))
        assert list((run_dir / "tensorboard").iterdir())
    (found,) = json.loads((run_dir / SUMMARY_FILE).read_text())
    assert sum(map(sum, found["confusion"])) == found["cases"] == 100
    assert [a["shown"] for a in found["ablations"]] == [["image", "tone"], ["tone"], ["image"]]
    page = (run_dir / REPORT_FILE).read_text()
    assert "Confusions" in page
    assert "http" not in page.replace("http-equiv", "")
    assert _weights(run_dir)


@pytest.mark.parametrize("kind", ["dqn", "ppo", "clone"])
def test_a_seed_reproduces_a_run(kind: str, finished: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    again = discrete.run(job(data, tmp_path, ALGORITHMS[kind], name="again"))
    other = discrete.run(job(data, tmp_path, ALGORITHMS[kind], name="other", seed=5))
    assert _learned(finished(kind)) == _learned(again)
    assert _weights(finished(kind)) == _weights(again)
    assert _weights(finished(kind)) != _weights(other)


@pytest.mark.parametrize("kind", ["dqn", "ppo", "reinforce"])
def test_other_cases_are_drawn_at_every_step(kind: str, data: Path, tmp_path: Path) -> None:
    cfg = job(data, tmp_path, ALGORITHMS[kind])
    material, _ = make_material(cfg, read_all(cfg, tmp_path), tmp_path, resume=False)
    algorithm = start(cfg, material)
    try:
        runner: Any = algorithm.env_runner
        drawn = [[e.get_infos(-1).get("row") for e in runner.sample()] for _ in range(3)]
    finally:
        algorithm.stop()
    first, second, third = drawn
    assert first != second != third != first


def test_lambda_zero_is_exactly_the_supervised_run(finished: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    supervised = finished("clone")
    zero, some = (
        discrete.run(
            job(data, tmp_path, ALGORITHMS["clone"], name=name, human_loss={"coef": coef, "share": 1.0, "wrong": 0.1})
        )
        for name, coef in (("zero", 0.0), ("some", 0.2))
    )
    assert _weights(zero) == _weights(supervised)
    assert _learned(zero) == _learned(supervised)
    assert _weights(some) != _weights(supervised)


def test_actors_share_the_work(data: Path, tmp_path: Path) -> None:
    spread = {"env_runners": {"replicas": 1, "num_cpus": 0.5}, "learners": {"replicas": 2, "num_cpus": 0.5}}
    run_dir = discrete.run(job(data, tmp_path, PPO, **spread))
    assert [row["step"] for row in read_metrics(run_dir)] == [0, 1]


def test_more_than_the_cluster_has_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match="has 2 CPUs, the job needs 3"):
        discrete.run(job(data, tmp_path, PPO, env_runners={"replicas": 3}))


@pytest.mark.parametrize("kind", ["dqn", "ppo"])
def test_a_clone_is_a_warm_start(kind: str, finished: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    """With nothing learned since (a step size of nearly 0), the encoder is the clone's."""
    cloned, still = finished("clone"), KINDS[kind] | {"lr": 1e-12}
    warm = discrete.run(job(data, tmp_path, still, name="warm", warm_start=str(cloned)))
    before, after = _weights(cloned), _weights(warm)
    shared = [key for key in after if key.startswith("encoder.")]
    assert shared
    for key in shared:
        assert after[key] == pytest.approx(before[key], abs=1e-6), key
    with pytest.raises(ConfigError, match="warm_start"):
        discrete.run(job(data, tmp_path, still, name="cold", warm_start=str(tmp_path / "nothing")))


def test_tasks_share_a_trunk_and_asking_is_an_action(data: Path, tmp_path: Path) -> None:
    digit = {"kind": "decide", "classes": [str(d) for d in range(10)], "weight": 3.0, **parts(data, "digits")}
    parity = {"kind": "decide", "classes": ["even", "odd"], "label": "parity", **parts(data, "digits")}
    both = discrete.run(job(data, tmp_path, PPO, name="tasks", tasks={"digit": digit, "parity": parity}))
    last = read_metrics(both)[-1]
    mean = (last["heldout_score/digit"] + last["heldout_score/parity"]) / 2
    assert last["heldout_score"] == pytest.approx(mean)
    asking = discrete.run(job(data, tmp_path, PPO, name="asking", sequential={"first": "image", "cost": 0.1}))
    assert read_metrics(asking)[-1]["heldout_requests"] >= 0.0


def test_a_cost_is_held_against_the_reward_by_a_multiplier_that_moves(data: Path, tmp_path: Path) -> None:
    """Each of the digits below 5 does harm, whichever is right, in a tenth of the decisions at most."""
    for part, was in parts(data, "digits").items():
        shutil.copytree(was["path"], tmp_path / part)
        file = tmp_path / part / "records.parquet"
        rows = pq.read_table(file, schema=PROMPT).to_pylist()
        harmful = [row | {"extras": json.dumps(json.loads(row["extras"]) | {"harm": list("01234")})} for row in rows]
        pq.write_table(pa.Table.from_pylist(harmful, schema=PROMPT), file)
    task = {"kind": "decide", "classes": CLASSES, **{p: {"path": str(tmp_path / p)} for p in ("train", "heldout")}}
    cost = {"bound": 0.1, "multiplier_lr": 2.0}
    cfg = job(data, tmp_path, PPO | {"lr": 0.01}, tasks={"digit": task}, reward={"cost": cost}, steps=4)
    rows = read_metrics(discrete.run(cfg))
    for row in rows:
        weight = row["multiplier"]
        assert row["episode reward"] == pytest.approx((row["train_score"] - weight * row["cost"]) / (1 + weight))
    for row, later in pairwise(rows):
        assert later["multiplier"] == pytest.approx(max(row["multiplier"] + 2.0 * (row["cost"] - 0.1), 0.0))
    assert rows[-1]["cost"] < 0.4 < rows[0]["cost"]


def test_a_sweep_names_the_best(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)  # relative paths are relative to where the sweep was started
    sweep = {"samples": 2, "parameters": {"algorithm.lr": [0.001, 0.01]}}
    best = discrete_sweep.run(job(Path(data.name), tmp_path, CLONE, name="sweep", sweep=sweep))
    assert best.name == "best.yaml"
    tried = json.loads((best.parent / "sweep.json").read_text())
    assert len(tried) == 2
    with pytest.raises(ConfigError, match=r"sweep\.parameters.*algorithm.*entropy"):
        discrete_sweep.varied(job(data, tmp_path, CLONE), {"algorithm.entropy_coef": 0.1}, "x")


def test_a_killed_run_resumes(data: Path, tmp_path: Path) -> None:
    cfg: DiscreteConfig = job(data, tmp_path, PPO | {"lr_end": 1e-4}, steps=6, checkpoint={"every_steps": 2})
    save_config(cfg, tmp_path / "job.yaml")
    killed = support.start("discrete", str(tmp_path / "job.yaml"), cwd=tmp_path)
    run_dir = tmp_path / "small"
    until = time.monotonic() + 240
    while not (run_dir / "checkpoints" / "step-00000002").is_dir():
        assert killed.process.poll() is None, killed.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    killed.assert_nothing_left()
    assert not (run_dir / MODULE_DIR).exists()
    before = read_metrics(run_dir)

    resumed = mmrlhf("discrete", str(tmp_path / "job.yaml"), "--resume", cwd=tmp_path, timeout_s=600)
    assert resumed.returncode == 0, resumed.err
    after = read_metrics(run_dir)
    assert [row["step"] for row in after] == list(range(6))
    assert after[:2] == before[:2]
    rates = [row["lr"] for row in after]
    assert rates == sorted(set(rates), reverse=True)  # it goes on falling from where it was
    assert after[2]["total reward"] == pytest.approx(
        after[1]["total reward"] + after[2]["episode reward"] * after[2]["decisions"]
    )
    assert (run_dir / MODULE_DIR / WEIGHTS_FILE).is_file()
