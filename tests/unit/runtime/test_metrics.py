import json
import math

import numpy as np
import pytest

from mmrlhf_ray.errors import RunError, RunFailed
from mmrlhf_ray.runtime.metrics import MetricsWriter, read_metrics


def steps(run_dir):
    return [row["step"] for row in read_metrics(run_dir)]


def write(run_dir, numbers, resume_step=None, shift=0.0):
    with MetricsWriter(run_dir, "ppo", resume_step) as metrics:
        for step in numbers:
            metrics.log(step, {"score": step + shift, "kl": 0.5})


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_one_strict_json_line_per_step(tmp_path):
    with MetricsWriter(tmp_path / "run", "ppo") as metrics:
        metrics.log(0, {"score": np.float32(0.5), "kl": math.nan, "value_loss": math.inf, "count": 3})
    rows = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 1
    assert rows[0].pop("time") > 1e9
    assert rows[0] == {"step": 0, "score": 0.5, "kl": None, "value_loss": None, "count": 3.0}


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path):
    with MetricsWriter(tmp_path, "ppo") as metrics:
        metrics.log(0, {"score": 1.0})
        assert steps(tmp_path) == [0]


def test_resume_drops_the_steps_that_will_be_done_again(tmp_path):
    write(tmp_path, range(6))
    write(tmp_path, range(4, 8), resume_step=4, shift=0.25)
    assert steps(tmp_path) == list(range(8))
    assert [row["score"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3, 4.25, 5.25, 6.25, 7.25]
    assert [p.name for p in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


@pytest.mark.parametrize("tail", ['{"step": 4, "ti', '{"step": 4, "time": 1.0, "score": 4.0}', "{"])
def test_resume_drops_a_half_written_last_line(tmp_path, tail):
    write(tmp_path, range(4))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(tail)
    write(tmp_path, range(4, 6), resume_step=4)
    assert steps(tmp_path) == list(range(6))


def test_resume_of_nothing_starts_at_nothing(tmp_path):
    write(tmp_path, range(2), resume_step=0)
    assert steps(tmp_path) == [0, 1]


def test_a_new_start_keeps_the_old_file_aside(tmp_path):
    write(tmp_path, range(3))
    write(tmp_path, range(2))
    assert steps(tmp_path) == [0, 1]
    (old,) = tmp_path.glob("metrics-*.jsonl")
    assert len(old.read_text().splitlines()) == 3


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    write(tmp_path, range(2))
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\nrubbish\n{second}\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 2"):
        read_metrics(tmp_path)


def test_a_step_cannot_be_logged_twice(tmp_path):
    with MetricsWriter(tmp_path, "ppo") as metrics:
        metrics.log(3, {"score": 1.0})
        for step in (3, 2):
            with pytest.raises(ValueError, match=f"step {step} comes after step 3"):
                metrics.log(step, {"score": 1.0})
    with (
        MetricsWriter(tmp_path, "ppo", resume_step=4) as metrics,
        pytest.raises(ValueError, match="step 3 comes after step 3"),
    ):
        metrics.log(3, {"score": 1.0})


@pytest.mark.parametrize("name", ["step", "time"])
def test_reserved_names_are_refused(tmp_path, name):
    with MetricsWriter(tmp_path, "ppo") as metrics, pytest.raises(ValueError, match=name):
        metrics.log(0, {name: 1.0})


def test_no_file_is_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_no_earlier_metrics_are_overwritten(tmp_path):
    """However many attempts there are within a second."""
    for attempt in range(4):
        write(tmp_path, range(attempt + 1))
    kept = list(tmp_path.glob("metrics-*.jsonl"))
    assert sorted(len(path.read_text().splitlines()) for path in kept) == [1, 2, 3]
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_a_resumption_that_keeps_no_line_loses_none(tmp_path):
    write(tmp_path, range(5))
    write(tmp_path, range(2), resume_step=0)
    (kept,) = tmp_path.glob("metrics-*.jsonl")
    assert len(kept.read_text().splitlines()) == 5
    assert steps(tmp_path) == [0, 1]


def test_a_full_disk_is_named(tmp_path):
    def log_onto_a_full_disk():
        with MetricsWriter(tmp_path, "ppo") as metrics:
            metrics._file.close()
            metrics._file = open("/dev/full", "a")  # noqa: SIM115  # the writer closes it
            metrics.log(0, {"score": 1.0})

    with pytest.raises(RunFailed, match=r"metrics\.jsonl: no room left to write it: the disk at /.* MiB free"):
        log_onto_a_full_disk()
