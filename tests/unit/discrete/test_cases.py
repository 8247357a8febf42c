"""Cases: media are looked up by row; what is missing or withheld leaves no trace."""

import numpy as np
import pytest

from mmrlhf_ray.discrete.cases import Column
from mmrlhf_ray.discrete.spaces import observation_space
from tests.unit.discrete_tiny import NOWHERE, job, made_up

TWO = {
    "a": {"kind": "decide", "classes": ["x", "y"], **NOWHERE},
    "b": {"kind": "decide", "classes": ["x", "y"], **NOWHERE},
}


def test_bytes_become_shares_and_missing_media_zeros():
    column = Column(np.array([[0, 255], [51, 102]], np.uint8), np.array([1, -1, 0, 1]))
    np.testing.assert_allclose(column.take(np.array([0, 1, 2, 3])), [[0.2, 0.4], [0, 0], [0, 1], [0.2, 0.4]])
    assert column.take(np.array([0])).dtype == np.float32


def test_a_column_without_media_is_all_zeros():
    column = Column(np.zeros((0, 3), np.int64), np.array([-1, -1]))
    np.testing.assert_array_equal(column.take(np.array([0, 1])), np.zeros((2, 3)))


@pytest.mark.parametrize("cfg", [job(), job(tasks=TWO)], ids=["one task", "two tasks"])
def test_observations_are_of_the_space(cfg):
    seen = made_up(cfg).observations([0, 1, 5])
    for row in range(3):
        assert observation_space(cfg).contains({name: values[row] for name, values in seen.items()})


def test_what_is_withheld_is_not_in_the_observation():
    cases = made_up(job())
    seen = cases.observations([0, 1, 2], show=("said",))
    np.testing.assert_array_equal(seen["present"], [[0, 0], [0, 1], [0, 1]])  # row 0 has no text
    assert not seen["image"].any()
    assert seen["said"][1:].all()
    with pytest.raises(ValueError, match="no modality 'tone'; there are image, said"):
        cases.observations([0], show=("tone",))


def test_a_mask_says_row_by_row_what_is_shown():
    seen = made_up(job()).observations([1, 2], show=np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(seen["present"], [[1, 0], [0, 1]])
    assert seen["image"][0].any()
    assert not seen["image"][1].any()


def test_the_task_is_told():
    seen = made_up(job(tasks=TWO), task="b").observations([0, 1])
    np.testing.assert_array_equal(seen["task"], [[0, 1], [0, 1]])


def test_present_follows_the_order_of_the_configuration_not_of_the_names():
    cfg = job(observation={"modalities": {"said": {"kind": "text", "words": 3, "buckets": 50},
                                          "image": {"kind": "image", "height": 4, "width": 4}}})  # fmt: skip
    np.testing.assert_array_equal(made_up(cfg).observations([0])["present"], [[0, 1]])


def test_joined_cases_keep_their_media():
    cfg = job()
    first, second = made_up(cfg, seed=1), made_up(cfg, n=4, seed=2)
    both = first.followed_by(second)
    assert len(both) == 10
    for name, values in second.observations(range(4)).items():
        np.testing.assert_array_equal(both.observations(range(6, 10))[name], values)
    for name, values in first.observations(range(6)).items():
        np.testing.assert_array_equal(both.observations(range(6))[name], values)
    np.testing.assert_array_equal(both.labels, np.concatenate([first.labels, second.labels]))
    with pytest.raises(ValueError, match="cannot be joined"):
        first.followed_by(made_up(job(tasks=TWO)))


def test_a_subset_has_its_rows_only():
    cases = made_up(job())
    part = cases.subset([4, 1])
    assert part.prompt_ids == ("p4", "p1")
    for name, values in cases.observations([4, 1]).items():
        np.testing.assert_array_equal(part.observations([0, 1])[name], values)
    np.testing.assert_array_equal(part.scores, cases.scores[[4, 1]])
