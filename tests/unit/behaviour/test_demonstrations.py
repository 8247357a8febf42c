"""Shown episodes count as votes of their own, once, and ask no one."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.episodes import check_demonstrations, whole_env, write_replays
from mmrlhf_ray.behaviour.segments import Segment
from mmrlhf_ray.behaviour.teacher import Teacher
from mmrlhf_ray.errors import ConfigError
from tests.unit.behaviour.test_env import played
from tests.unit.behaviour_tiny import GOAL, STEPS, job


def shown(file: Path, episodes: int = 6) -> None:
    """Episodes that go to the goal and stay there."""
    replays = []
    with closing(whole_env(job())) as env:
        for seed in range(episodes):
            place = env.begin(seed)["state"][0]
            for _ in range(STEPS):
                place = env.step(1 + np.sign(round((GOAL - place) * 10)))[0]["state"][0]
            rest = env.rest()
            assert rest is not None
            replays.append(rest.replay)
    write_replays(file, replays)


def test_what_is_shown_is_better_than_what_the_first_policy_did(tmp_path: Path) -> None:
    shown(tmp_path / "shown.json")
    cfg = job(
        tmp_path, demonstrations={"path": str(tmp_path / "shown.json"), "pairs": 80}, ask={"pairs": 6, "first": 4}
    )
    with closing(RecordedEnv(cfg)) as env:
        segments, space, actions = played(env, 800), env.observation_space, env.action_space
    for _ in range(2):  # the second time as after a kill before the first checkpoint
        with closing(Teacher(cfg, tmp_path / "run", space, actions)) as teacher:
            teacher.see(segments)
            teacher.ask(0)
            votes = list(teacher.ledger.votes.values())
            assert sum(vote.annotator == "demonstration" for vote in votes) == pytest.approx(80, abs=3)
            assert teacher.ledger.asked == 4
            assert len(votes) == len(teacher.ledger.pairs)
            assert teacher.ledger.open_pairs() == []
            figures = teacher.learn(0)
    assert figures["pairs"] == 4
    near, far = (Segment({"state": np.full((1, 1), x, np.float32)}, np.ones(1, np.int64)) for x in (GOAL, -0.8))
    assert teacher.ensemble.rewards(near) > teacher.ensemble.rewards(far)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no episode is as long as segments.steps=5"),
        ('[{"seed": 1}]', "KeyError"),
        ("nothing", "JSONDecodeError"),
    ],
)
def test_a_file_without_episodes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"demonstrations.path=.*{message}"):
        check_demonstrations(str(file), 5)
