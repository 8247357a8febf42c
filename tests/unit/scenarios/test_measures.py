import math

import numpy as np
import pytest

from mmrlhf_ray.scenarios.measures import measures, table

CLASSES = ["keep", "brake"]


def test_measures_by_hand() -> None:
    """Right, right, wrong, right; probabilities 0.9, 0.8, 0.6, 0.7 of what is decided."""
    sure = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    found = measures(sure, ["keep", "brake", "brake", "keep"], ["day", "day", "night", "night"], CLASSES)
    assert found.accuracy.estimate == 0.75
    assert {name: (p, r) for name, p, r, _ in found.classes} == {"keep": (2 / 3, 1.0), "brake": (1.0, 0.5)}
    assert found.auroc == 1.0  # both brakes have more of it than either keep
    assert found.calibration_error == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)
    assert [(name, count, share.estimate) for name, count, share in found.groups] == [
        ("night", 2, 0.5),
        ("day", 2, 1.0),
    ]
    assert "| brake | 1.000 | 0.500 | 0.667 |" in table(found)


def test_a_class_that_nobody_has_says_nothing_about_the_order() -> None:
    found = measures(np.zeros((2, 2)), ["keep", "keep"], ["all", "all"], CLASSES)
    assert math.isnan(found.auroc)
    assert found.accuracy.estimate == 1.0
