"""When supervised training evaluates, logs and saves, and which rows it leaves out."""

import logging
from contextlib import nullcontext
from typing import Any

import pytest

from mmrlhf_ray.config import SFTConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.iterate.stages import warmed
from mmrlhf_ray.pipelines.supervised.fit import Due, due, total_steps
from mmrlhf_ray.pipelines.supervised.rows import HeldRows, StreamedRows, TrainingRows
from mmrlhf_ray.planning.preflight import check_warmup

DATA = {"path": "d.jsonl"}


def sft(**changes: Any) -> SFTConfig:
    values = {"name": "n", "steps": 12, "model": {"path": "m"}, "data": DATA, "workers": {"replicas": 1}}
    return SFTConfig.model_validate(values | changes)


def times(cfg: SFTConfig, what: str, steps: int = 12) -> list[int]:
    """Steps after which it is due."""
    return [done for done in range(1, steps + 1) if getattr(due(cfg, done, done == steps), what)]


@pytest.mark.parametrize("log_every", [1, 2, 5, 10])
def test_evaluations_do_not_wait_for_the_log(log_every: int) -> None:
    cfg = sft(eval_data=DATA, eval_every_steps=3, log_every_steps=log_every)
    assert times(cfg, "evaluate") == [3, 6, 9, 12]
    logged = times(cfg, "log")
    assert set(logged) == {3, 6, 9, 12} | set(range(log_every, 13, log_every)), "and each is in metrics.jsonl"


def test_without_eval_data_nothing_is_evaluated() -> None:
    assert times(sft(log_every_steps=5), "evaluate") == []
    assert times(sft(log_every_steps=5), "log") == [5, 10, 12]
    assert times(sft(eval_data=DATA), "evaluate") == [12]


@pytest.mark.parametrize(("every", "saved"), [(50, [12]), (12, [12]), (5, [5, 10, 12])])
def test_the_last_step_is_always_saved(every: int, saved: list[int]) -> None:
    assert times(sft(checkpoint={"every_steps": every}), "save") == saved
    assert due(sft(), 12, last=True) == Due(evaluate=False, log=True, save=True)


def test_a_late_checkpoint_is_made_whichever_step_it_is() -> None:
    assert not due(sft(), 7, last=False).save
    assert due(sft(), 7, last=False, late=True) == Due(evaluate=False, log=False, save=True)


def held(count: int) -> HeldRows:
    return HeldRows.planned(count, seed=0)


class Counted(StreamedRows):
    """Streamed rows that are not there."""

    def __init__(self, count: int) -> None:
        object.__setattr__(self, "rows", count)

    @property
    def count(self) -> int:
        found: int = self.rows  # type: ignore[attr-defined]
        return found


@pytest.mark.parametrize(
    ("rows", "changes", "steps", "left_out"),
    [
        (held(30), {"epochs": 2, "steps": None}, 6, "12 of 60 rows (30 in each epoch)"),
        (held(30), {"steps": 12}, 12, "6 of 30 rows (30 in each epoch)"),
        (held(32), {"epochs": 2, "steps": None}, 8, None),
        (held(32), {}, 12, None),
        (Counted(30), {"epochs": 2, "steps": None}, 7, "4 of 60 rows (30 in each epoch)"),
        (Counted(32), {"epochs": 2, "steps": None}, 8, None),
        (Counted(30), {}, 12, None),
    ],
)  # fmt: skip
def test_rows_that_are_left_out_are_counted_aloud(
    rows: TrainingRows, changes: dict[str, Any], steps: int, left_out: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert total_steps(sft(batch_size=8, **changes), rows) == steps
    assert len(caplog.messages) == (1 if left_out else 0)
    assert all(left_out and left_out in message for message in caplog.messages)


@pytest.mark.parametrize(("warmup", "fits"), [(6, True), (7, False), (500, False)])
def test_a_warmup_as_long_as_all_epochs_is_refused(warmup: int, fits: bool) -> None:
    cfg = sft(batch_size=8, epochs=2, steps=None, learner={"optimizer": {"warmup_steps": warmup}})
    with nullcontext() if fits else pytest.raises(ConfigError, match=f"warmup_steps={warmup} is not below the 7 optim"):
        check_warmup(cfg, 30)


@pytest.mark.parametrize(("rows", "warmup"), [(200, 6), (30, 6), (24, 5), (9, 1), (3, 0)])
def test_a_loop_shortens_the_warmup_where_there_are_few_votes(
    rows: int, warmup: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """People have voted by then, and the loop's configuration is fixed."""
    cfg = sft(batch_size=8, epochs=2, steps=None, learner={"optimizer": {"warmup_steps": 6, "lr": 0.5}})
    job = warmed(cfg, rows)
    assert job.learner.optimizer.warmup_steps == warmup
    assert job.learner.optimizer.lr == 0.5
    assert ("warmup_steps=6 is" in capsys.readouterr().err) is (warmup < 6)
    check_warmup(job, rows)
