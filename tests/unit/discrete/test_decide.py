import numpy as np
import pytest

from mmrlhf_ray.discrete.cases import Observations
from mmrlhf_ray.discrete.decide import decide, scores_of
from tests.unit.discrete_tiny import job, made_up

SEQUENTIAL = {"sequential": {"first": "image", "cost": 0.1}}
ASK_IMAGE, ASK_SAID = 3, 4


def _always(action: int, actions: int) -> object:
    return lambda observations: np.eye(actions)[[action] * len(observations["present"])]


def test_the_largest_preference_is_the_decision() -> None:
    cfg = job()
    cases = made_up(cfg, n=700)  # more than are decided at once
    wanted = np.random.default_rng(0).normal(size=(700, 3))
    seen = []

    def preferences(observations: Observations) -> np.ndarray:
        first = sum(seen)
        seen.append(len(observations["present"]))
        return wanted[first : first + seen[-1]]

    decisions = decide(cfg, cases, preferences)
    np.testing.assert_array_equal(decisions.actions, wanted.argmax(axis=1))
    assert len(seen) > 1
    assert not decisions.asked.any()


def test_withheld_modalities_are_not_seen() -> None:
    cfg = job()
    seen: list[Observations] = []

    def preferences(observations: Observations) -> np.ndarray:
        seen.append(observations)
        return np.zeros((len(observations["present"]), 3))

    decide(cfg, made_up(cfg), preferences, ["said"])
    assert not seen[0]["image"].any()
    np.testing.assert_array_equal(seen[0]["present"], [[0, i % 3 != 0] for i in range(6)])


def test_asking_shows_the_modality_before_the_decision() -> None:
    cfg = job(**SEQUENTIAL)
    cases = made_up(cfg)

    def preferences(observations: Observations) -> np.ndarray:
        """Ask for the text until it is there; then decide 2. Rows whose text is missing go on asking."""
        has = observations["present"][:, 1] > 0
        return np.where(has[:, None], np.eye(5)[2], np.eye(5)[ASK_SAID])

    decisions = decide(cfg, cases, preferences)
    np.testing.assert_array_equal(decisions.actions, [-1, 2, 2, -1, 2, 2])
    np.testing.assert_array_equal(decisions.asked, [4, 1, 1, 4, 1, 1])
    np.testing.assert_array_equal(scores_of(cases, decisions.actions), [0, 0, 1, 0, 0, 1])


def test_a_withheld_modality_stays_so_when_asked_for() -> None:
    cfg = job(**SEQUENTIAL)
    seen: list[np.ndarray] = []

    def preferences(observations: Observations) -> np.ndarray:
        seen.append(observations["present"][:, 1].copy())
        return np.eye(5)[[ASK_SAID] * len(observations["present"])]

    decide(cfg, made_up(cfg), preferences, ["image"])
    assert not np.concatenate(seen).any()


def test_actions_of_another_task_are_never_taken() -> None:
    task = {"kind": "decide", "train": {"path": "a"}, "heldout": {"path": "b"}}
    cfg = job(tasks={"few": task | {"classes": ["no", "yes"]}, "many": task | {"classes": list("abcde")}})
    decisions = decide(cfg, made_up(cfg, task="few"), _always(4, 5))  # type: ignore[arg-type]
    assert set(decisions.actions) == {0}


@pytest.mark.parametrize(("action", "score"), [(0, 1.0), (1, 0.0)])
def test_the_score_is_looked_up(action: int, score: float) -> None:
    cfg = job()
    cases = made_up(cfg, n=1)
    assert scores_of(cases, np.array([action])) == [score]
