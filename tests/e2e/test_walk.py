"""The tutorial "Fifty pictures to GRPO" from its first command to its last, as they stand on the page."""

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.cluster import local_cluster
from tests.command import Finished
from tests.contracts.walk import TUTORIALS, steps
from tests.e2e.support import typed

pytestmark = pytest.mark.e2e

PAGE = TUTORIALS / "fifty-pictures.md"
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Walk:
    """What the reader has at the end of the page."""

    desk: Path
    said: Mapping[str, Finished]
    """Command → how it ended."""

    def score(self, who: str) -> float:
        """Mean of an evaluation, as its file has it."""
        found = json.loads((self.desk / "runs/colours-evaluation/evaluation.json").read_text())
        return float(found[who]["score"]["estimate"])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Every command typed, each with the files that the page has given until then. Any that fails ends the walk."""
    desk = tmp_path_factory.mktemp("colours")
    said: dict[str, Finished] = {}
    for step in steps(PAGE):
        step.prepare(desk)
        began = time.monotonic()
        with local_cluster() if step.command.startswith("mmrlhf submit") else nullcontext() as cluster:
            # The page's cluster has the default address and token; a test's must not meet another one's.
            other = (
                {"RAY_API_SERVER_ADDRESS": cluster.url, "RAY_AUTH_TOKEN_PATH": str(cluster.token_file)}
                if cluster
                else {}
            )
            ended = typed(step.command, desk, other).finish(_PATIENCE_S)
        print(f"{time.monotonic() - began:6.1f} s  {step.command}")
        assert ended.returncode == 0, f"{step.command}\n{ended.out}\n{ended.err}"
        said[step.command] = ended
    return Walk(desk, said)


def test_the_check_knows_the_rows(walk: Walk) -> None:
    out = walk.said["mmrlhf data check data/train.jsonl --model models/tiny"].out
    assert "format trl, read as demonstrations" in out
    assert "50 rows: 50 good, 0 bad" in out


def test_each_job_says_what_it_made_and_what_could_come_next(walk: Walk) -> None:
    for command, model in (("mmrlhf sft sft.yaml", "colours-sft"), ("mmrlhf ppo grpo.yaml", "colours-grpo")):
        lines = walk.said[command].err
        assert f"model    runs/{model}/model" in lines
        assert "changed  " in lines
        assert "next     mmrlhf config " in lines
        assert "Traceback" not in lines


def test_the_policy_learned_from_the_reward(walk: Walk) -> None:
    scores = [row["score"] for row in read_metrics(walk.desk / "runs" / "colours-grpo")]
    assert len(scores) == 8
    assert sum(scores[-3:]) > sum(scores[:3])


def test_the_evaluation_compares_the_two_policies(walk: Walk) -> None:
    found = json.loads(walk.said["python -m json.tool runs/colours-evaluation/evaluation.json"].out)
    compared = found["policy against baseline, by score"]
    assert compared["wins"] + compared["ties"] + compared["losses"] == 20 * 4
    assert walk.score("policy, own media") > walk.score("policy, swapped media")  # it looks


def test_one_can_look_at_the_answers(walk: Walk) -> None:
    lines = walk.said["python look.py"].out.splitlines()
    assert lines[0].split() == ["prompt_id", "text", "score"]
    assert all(line.strip().startswith("picture ") for line in lines[1:])
    assert len(lines) > 16


def test_the_cluster_ran_the_same_job(walk: Walk) -> None:
    assert (walk.desk / "runs" / "colours-far" / "model" / "config.json").is_file()
    assert len(read_metrics(walk.desk / "runs" / "colours-far")) == 2
