"""`mmrlhf iterate` with the real server, simulated annotators, reward model and PPO; killed while people vote."""

import json
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from mmrlhf_ray.data.records.readers import RECORDS_FILE
from mmrlhf_ray.pipelines.iterate.state import BEFORE, ROUND
from mmrlhf_ray.schema import ANNOTATION
from tests.cluster import ROOT
from tests.command import in_process
from tests.e2e.support import Running, start

PAIRS, OVERLAP, ROUNDS = 14, 2, 2
PATIENCE_S = 600.0
GRPO = {"advantage_estimator": "grpo", "kl_in": "loss", "kl_estimator": "k3", "prompts_per_step": 13,
        "n_samples_per_prompt": 2, "mini_batch_size": 26}  # fmt: skip

pytestmark = pytest.mark.e2e


def job(model_dir: Path, data_dir: Path, directory: Path) -> str:
    small, one = {"num_cpus": 0.2}, {"num_cpus": 0.2, "replicas": 1}
    learner = {"engine": {"zero_stage": 1, "max_padding_share": 0.3}, "optimizer": {"lr": 2e-4}}
    prompts = {"path": str(data_dir / "prompts_train"), "facts_column": "facts", "max_prompt_tokens": 64}
    gold = f"{ROOT / 'mmrlhf_ray' / 'demo' / 'gold_function.py'}:gold"
    values: dict[str, Any] = {
        "job": "iterate",
        "name": "loop",
        "output_dir": str(directory / "runs"),
        "device": "cpu",
        "rounds": ROUNDS,
        "policy": {"path": str(model_dir)},
        "prompts": prompts,
        "sample": {"prompts": 14, "n_samples_per_prompt": 3, "max_response_tokens": 8},
        "ask": {"pairs": PAIRS, "selection": "disagreement_votes", "overlap": OVERLAP},
        "feedback": {"serve": {"port": 0}},
        "wait": {"poll_s": 0.2, "deadline_s": PATIENCE_S},
        "annotators": {
            "module": "mmrlhf_ray.demo.http_annotators",
            "count": 3,
            "options": {"prompts": prompts["path"], "max_response_tokens": 8, "think_s": 0.4},
        },
        "reward_model": {
            "heldout_share": 0.2,
            "job": {
                "epochs": 1,
                "batch_size": 4,
                "ensemble": 2,
                "workers": one,
                "log_every_steps": 1,
                "learner": learner,
            },
        },
        "train": {
            "ppo": {
                "steps": 1,
                "algorithm": GRPO,
                "learner": learner,
            }
        },
        "evaluate": {
            "data": {**prompts, "path": str(data_dir / "prompts_heldout")},
            "rewards": [{"name": "gold", "kind": "function", "function": gold}],
            "n_samples_per_prompt": 1,
        },
        "stop": {"min_gain": -9.0},  # a model of random weights has nothing to gain
        "generator": {"max_num_seqs": 32},
        "placement": {
            **dict.fromkeys(("generator", "scorer", "functions", "reference", "encoder"), small),
            "policy": one,
        },
        "deadlines": {"placement_s": 60, "start_s": 600, "stage_s": 300},
    }
    (directory / "job.yaml").write_text(yaml.safe_dump(values))
    return str(directory / "job.yaml")


def votes(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Vote → (item, annotator), of what is on the disk."""
    file = run_dir / "feedback" / "feedback.sqlite3"
    if not file.exists():
        return {}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as database:
        if not database.execute("SELECT name FROM sqlite_master WHERE name = 'vote'").fetchall():
            return {}  # the server is just making its tables
        found = database.execute("SELECT id, item_id, annotator_id FROM vote WHERE undone = 0").fetchall()
    return {vote: (item, who) for vote, item, who in found}


def kill_while_people_vote(running: Running, run_dir: Path) -> None:
    """-9, when some of the votes of the first round are in and others are being cast."""
    until = time.monotonic() + PATIENCE_S
    while len(votes(run_dir)) < PAIRS * OVERLAP // 3:
        assert running.process.poll() is None, running.process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    at_work = running.processes().values()
    assert sum("http_annotators" in command for command in at_work) == 3, at_work
    assert any("feedback serve" in command for command in at_work), at_work
    ray_directory = running.ray_directory()
    running.process.kill()
    running.process.communicate()
    running.assert_nothing_left()
    shutil.rmtree(ray_directory)


def test_two_rounds_lose_and_repeat_no_vote(
    model_dir: Path, data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, run_dir = job(model_dir, data_dir, tmp_path), tmp_path / "runs" / "loop"
    killed = start("iterate", file, cwd=tmp_path)
    kill_while_people_vote(killed, run_dir)
    before = votes(run_dir)
    assert 0 < len(before) < PAIRS * OVERLAP
    assert list(json.loads((run_dir / "state.json").read_text())["rounds"][1]) == ["sample", "select", "queue"]
    again = in_process(capfd, "iterate", file, cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a loop already, votes and all; go on with --resume" in again.err

    resumed = start("iterate", file, "--resume", cwd=tmp_path).finish(2 * PATIENCE_S)
    assert resumed.returncode == 0, resumed.err
    assert resumed.err.count("Ray dashboard: ") == 1  # one Ray for the stages of both rounds
    assert f"stopped: all {ROUNDS} rounds are done" in resumed.out
    check_votes(run_dir, before)
    check_rounds(run_dir)
    check_report(run_dir)


def check_votes(run_dir: Path, before: dict[str, tuple[str, str]]) -> None:
    after = votes(run_dir)
    assert before.items() <= after.items()
    assert len(set(after.values())) == len(after)
    state = json.loads((run_dir / "state.json").read_text())
    asked = [item for done in state["rounds"][1:] for item in done["queue"]["item_ids"]]
    assert len(set(asked)) == PAIRS * ROUNDS
    assert Counter(item for item, _ in after.values()) == dict.fromkeys(asked, OVERLAP)
    for number in range(1, ROUNDS + 1):
        table = pq.read_table(run_dir / f"round-{number:02d}" / "annotations.parquet")
        assert table.schema.equals(ANNOTATION)
        used = dict(zip(table["annotation_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
        known = set(asked[: PAIRS * number])
        assert used == {vote: item for vote, (item, _) in after.items() if item in known}
        assert state["rounds"][number]["labels"]["votes"] == len(table) == PAIRS * OVERLAP * number


def check_rounds(run_dir: Path) -> None:
    state = json.loads((run_dir / "state.json").read_text())
    assert [list(done) for done in state["rounds"]] == [list(BEFORE), *[list(ROUND)] * ROUNDS]
    assert [done["select"]["selection"] for done in state["rounds"][1:]] == ["random", "disagreement_votes"]
    for number in range(1, ROUNDS + 1):
        folder = run_dir / f"round-{number:02d}"
        for model in ("policy", "reward-model"):
            assert (folder / model / "model" / "config.json").is_file()
        config = yaml.safe_load((folder / "policy" / "config.yaml").read_text())
        previous = run_dir / "round-01" / "policy" / "model"
        assert (config["policy"]["path"] == str(previous)) == (number == 2)
        labelled = state["rounds"][number]["labels"]
        rows = sum(
            pq.read_metadata(folder / name / RECORDS_FILE).num_rows for name in ("preferences", "preferences-heldout")
        )
        assert 0 < labelled["preferences"] + labelled["preferences_heldout"] == rows <= PAIRS * number


def check_report(run_dir: Path) -> None:
    said = json.loads((run_dir / "iterate.json").read_text())
    assert (said["stopped"], said["reason"]) == (True, f"all {ROUNDS} rounds are done")
    assert [r["votes"] for r in said["rounds"]] == [0, PAIRS * OVERLAP, 2 * PAIRS * OVERLAP]
    assert said["rounds"][0]["gain"] is None
    for r in said["rounds"][1:]:
        assert r["primary"]["low"] <= r["primary"]["estimate"] <= r["primary"]["high"]
        assert set(r["minutes"]) == set(ROUND)
        assert r["agreed"]["estimate"] >= 0
    page = (run_dir / "report.html").read_text()
    assert f"Stopped: all {ROUNDS} rounds are done." in page
    assert "<svg" in page
    assert "<script" not in page
    shutil.rmtree(run_dir)
