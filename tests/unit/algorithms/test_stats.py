import pytest
import torch

from mmrlhf_ray.algorithms.statistics import mean_stats, merge_stats


def test_sums_add_and_maxima_do_not():
    parts = [
        {"tokens": torch.tensor(3.0), "ratio": torch.tensor(3.3), "ratio_max": torch.tensor(1.4)},
        {"tokens": torch.tensor(1.0), "ratio": torch.tensor(0.7), "ratio_max": torch.tensor(1.2)},
    ]
    merged = merge_stats(parts)
    assert mean_stats(merged, "tokens") == pytest.approx({"tokens": 4.0, "ratio": 1.0, "ratio_max": 1.4})


def test_merging_does_not_change_the_parts():
    part = {"tokens": torch.tensor(3.0)}
    merge_stats([part, part])
    assert part["tokens"].item() == 3


@pytest.mark.parametrize("stats", [{}, {"tokens": torch.tensor(0.0)}])
def test_nothing_counted_is_an_error(stats):
    with pytest.raises(ValueError, match="positive count"):
        mean_stats(stats, "tokens")
