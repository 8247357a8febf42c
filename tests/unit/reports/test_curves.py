"""Figures of runs as charts in groups."""

import re

import pytest

from mmrlhf_ray.reports.curves import sections, title_of


def rows(**metrics: list[float | None]) -> list[dict[str, float | int | None]]:
    count = len(next(iter(metrics.values())))
    return [{"step": n, "time": 0.0} | {name: values[n] for name, values in metrics.items()} for n in range(count)]


def captions(charts: tuple[str, ...]) -> list[str]:
    return [re.findall(r"<figcaption>(.*?)</figcaption>", chart)[0] for chart in charts]


def test_metrics_stand_in_groups_the_explained_ones_first() -> None:
    metrics = rows(
        zebra=[1.0, 2.0], seconds_step=[5.0, 4.0], reward_gold=[0.1, 0.2], score=[0.5, 0.75], value_loss=[1.0, 0.5],
        loss=[2.0, 1.0], kl=[0.0, None], seconds_draw_to_train_p50=[1.0, 1.0], nothing=[None, None],
    )  # fmt: skip
    found = {section.title: captions(section.charts) for section in sections({"a": metrics})}
    assert found == {
        "Reward": ["Score, mean over responses: 0.75", "reward gold: 0.2"],
        "Learning": ["Loss: 1"],
        "Policy": ["KL to the reference, nats a response: 0"],
        "Critic": ["value loss: 0.5"],
        "Stream": ["seconds draw to train p50: 1"],
        "Time": ["Seconds a step: 4"],
        "Others": ["zebra: 2"],
    }


def test_held_out_twins_share_a_chart_of_one_run_and_not_of_several() -> None:
    metrics = rows(loss=[2.0, 1.0], eval_loss=[2.1, 1.1])
    ((one,),) = [section.charts for section in sections({"a": metrics})]
    assert all(f">{name}</li>" in one for name in ("training", "held out"))
    (both,) = sections({"a": metrics, "b": metrics})
    assert captions(both.charts) == ["Loss", "Loss, held out"]
    assert all(">a</li>" in chart and ">b</li>" in chart for chart in both.charts)


def test_runs_without_a_metric_have_no_line_in_its_chart() -> None:
    (section,) = sections({"a": rows(score=[1.0, 2.0]), "b": rows(score=[None, None])})
    assert captions(section.charts) == ["Score, mean over responses: 2"]


def test_more_runs_than_there_are_colours() -> None:
    with pytest.raises(ValueError, match="at most 4, got 5"):
        sections({str(n): [] for n in range(5)})


def test_bounds_of_intervals_are_no_charts_of_their_own() -> None:
    metrics = rows(score=[1.0, 2.0], score_low=[0.5, 1.5], score_high=[1.5, 2.5])
    (section,) = sections({"a": metrics})
    assert captions(section.charts) == ["Score, mean over responses: 2"]


def test_titles() -> None:
    assert title_of("eval_score") == "Score, mean over responses, held out"
    assert title_of("odd_metric") == "odd metric"
