"""The measurement of what to ask next, small: seeded, fair from the start, and more labels help."""

from benchmarks.selection_measure import Settings, measure, summarise
from mmrlhf_ray.feedback.labels.selection import SELECTIONS

SMALL = Settings(prompts=200, heldout=80, per_round=100, rounds=3, members=2, seeds=2)


def test_small_measurement():
    curves = measure(SMALL)
    assert curves == measure(SMALL)
    assert list(curves) == list(SELECTIONS)
    for runs in curves.values():
        assert [len(run) for run in runs] == [3, 3]
        assert [run[0] for run in runs] == [run[0] for run in curves["random"]]  # the same first labels
        assert all(0.5 < run[-1] <= 1 for run in runs)
    assert sum(run[-1] for run in curves["random"]) > sum(run[0] for run in curves["random"])
    rows = {row.name: row for row in summarise(curves, SMALL.per_round)}
    assert (rows["random"].gain.estimate, rows["random"].labels) == (0.0, 300)


def test_summary_by_hand():
    curves = {"random": [[0.5, 0.7], [0.5, 0.7]], "other": [[0.6, 0.7], [0.8, 0.7]], "worse": [[0.5, 0.6], [0.5, 0.6]]}
    rows = {row.name: row for row in summarise(curves, 64)}
    assert rows["other"].labels == 64
    assert rows["worse"].labels is None
    assert abs(rows["other"].gain.estimate - 0.1) < 1e-9
    assert rows["worse"].final.estimate == 0.6
