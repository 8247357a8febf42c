"""What is taken off a reward model's scores, by hand, and its file."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.score_fit import SCORE_FIT_FILE, FormFit, ScoreFit, TaskScale, read_score_fit, write_score_fit

FIT = ScoreFit(
    {"length": FormFit(coefficient=2.0, mean=np.log(4.0), low=np.log(2.0), high=np.log(8.0))},
    {"": TaskScale(0.0, 2.0), "sum": TaskScale(1.0, 0.5)},
)


def test_form_and_scale_by_hand() -> None:
    scores = np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]], np.float32)
    got = FIT.applied(scores, [[5] * 3, [5] * 7, [5] * 1000], ["sum", "unseen", "unseen"])
    # 3 tokens are the mean; 7 cost 2 ln 2; 1000 as much as 7, the longest that was seen.
    taken = 2 * np.log(2.0)
    want = [[0.0, 4.0], [(1 - taken) / 2, (3 - taken) / 2], [(1 - taken) / 2, (3 - taken) / 2]]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.dtype == np.float32


def test_without_a_fit_scores_are_as_they_were(tmp_path: Path) -> None:
    scores = np.array([[1.25], [-3.0]], np.float32)
    assert (read_score_fit(tmp_path).applied(scores, [[1], [2]], ["a", "b"]) == scores).all()


def test_the_file_round_trips(tmp_path: Path) -> None:
    write_score_fit(tmp_path, FIT)
    assert read_score_fit(tmp_path) == FIT


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", "JSONDecodeError"),
        ({"form": {}}, "KeyError: 'tasks'"),
        ({"form": {"smell": {"coefficient": 1, "mean": 0, "low": 0, "high": 1}}, "tasks": {}}, r"got \['smell'\]"),
        ({"form": {}, "tasks": {"a": {"centre": 0, "scale": 0}}}, "scales above 0"),
    ],
)
def test_other_files_are_refused(written: object, said: str, tmp_path: Path) -> None:
    (tmp_path / SCORE_FIT_FILE).write_text(written if isinstance(written, str) else json.dumps(written))
    with pytest.raises(ModelError, match=said):
        read_score_fit(tmp_path)
