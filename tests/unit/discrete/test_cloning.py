"""The batches that cloning learns from; the loss itself is in tests/golden/test_discrete_formulas.py."""

import numpy as np
import pytest
from ray.rllib.core.columns import Columns

from mmrlhf_ray.config.discrete_rewards import HumanLossSection
from mmrlhf_ray.discrete.cloning import FEEDBACK, CloningBatches
from mmrlhf_ray.discrete.feedback import CloningData, cloning_data
from tests.unit.discrete_tiny import job, made_up

CLONE = {"kind": "clone"}


def _lessons(n: int = 30, votes: bool = True) -> CloningData:
    return cloning_data(made_up(job(algorithm=CLONE), n), 0.3, HumanLossSection(coef=1.0) if votes else None, seed=1)


def test_a_batch_imitates_known_labels_only() -> None:
    lesson = _lessons()
    batch = CloningBatches([lesson], [1.0], seed=2).batch(0, 64, votes=False, shards=1)
    assert set(batch) == {Columns.OBS, Columns.ACTIONS}
    assert len(batch[Columns.ACTIONS]) == 64
    known = np.flatnonzero(lesson.imitate >= 0)
    pictures = {lesson.cases.observations([row])["image"].tobytes(): int(lesson.imitate[row]) for row in known}
    for picture, action in zip(batch[Columns.OBS]["image"], batch[Columns.ACTIONS], strict=True):
        assert pictures[picture.tobytes()] == action


def test_votes_join_the_batch_and_do_not_move_the_labels() -> None:
    book = CloningBatches([_lessons()], [1.0], seed=2)
    plain, voted = (book.batch(5, 8, votes=votes, shards=1) for votes in (False, True))
    imitated = voted[Columns.LOSS_MASK]
    assert imitated.sum() == 8 == (voted[FEEDBACK] != 0).sum()
    assert not (imitated & (voted[FEEDBACK] != 0)).any()
    np.testing.assert_array_equal(voted[Columns.ACTIONS][imitated], plain[Columns.ACTIONS])
    np.testing.assert_array_equal(voted[Columns.OBS]["image"][imitated], plain[Columns.OBS]["image"])


def test_every_learner_gets_as_many_of_both() -> None:
    batch = CloningBatches([_lessons()], [1.0], seed=0).batch(1, 12, votes=True, shards=3)
    for mask in np.split(batch[Columns.LOSS_MASK], 3):
        assert mask.sum() == 4 == (~mask).sum()


def test_a_batch_is_a_function_of_seed_and_update() -> None:
    drawn = [
        CloningBatches([_lessons()], [1.0], seed=seed)
        .batch(update, 16, votes=True, shards=1)[Columns.OBS]["image"]
        .tobytes()
        for seed, update in ((0, 3), (0, 3), (0, 4), (1, 3))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_tasks_are_drawn_by_their_weights() -> None:
    task = {"kind": "decide", "train": {"path": "a"}, "heldout": {"path": "b"}, "classes": ["no", "yes"]}
    cfg = job(algorithm=CLONE, tasks={"often": task, "seldom": task})
    lessons_of = [cloning_data(made_up(cfg, 20, name), 1.0, None, seed=0) for name in ("often", "seldom")]
    batch = CloningBatches(lessons_of, [3.0, 1.0], seed=0).batch(0, 4000, votes=False, shards=1)
    assert batch[Columns.OBS]["task"][:, 0].mean() == pytest.approx(0.75, abs=0.03)


def test_a_task_without_a_label_is_refused() -> None:
    lesson = _lessons()
    nothing = CloningData(lesson.cases, np.full(30, -1), lesson.voted, lesson.vote)
    with pytest.raises(ValueError, match="task colour: there is no row to imitate"):
        CloningBatches([nothing], [1.0], seed=0)
