"""What is told of a loop: figures against votes, why it stopped, and which policy is the one to take."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.pipelines.iterate.report import lines, summarise, write_report
from mmrlhf_ray.pipelines.iterate.state import ROUND, IterateState, verdict
from mmrlhf_ray.reports.intervals import Point, interval_chart
from tests.unit.pipelines.loop import loop_config


def interval(estimate: float, half: float = 0.05) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def whole(votes: int, primary: dict[str, float] | None, gain: dict[str, float]) -> dict[str, Any]:
    done: dict[str, Any] = {stage: {"seconds": 60.0 * place} for place, stage in enumerate(ROUND)}
    done["select"] |= {"selection": "disagreement", "pairs": 100, "candidates": 250}
    done["labels"] |= {
        "votes": votes, "items": votes // 3, "preferences": votes // 4, "agreed": interval(0.7), "alpha": None,
    }  # fmt: skip
    done["reward_model"] |= {"pair_accuracy": interval(0.8)}
    done["evaluate"] |= {
        "primary": primary, "gain": gain, "gain_since_start": interval(0.3), "kl": 1.25, "response_tokens": 9.5,
        "reward_model_pairs": interval(0.75),
    }  # fmt: skip
    return done


def state(*rounds: dict[str, Any], primary: dict[str, float] | None) -> IterateState:
    nothing = {"primary": primary, "gain": None, "gain_since_start": None}
    first = {"evaluate": {"seconds": 30.0, "response_tokens": 8.0, **nothing}}
    return IterateState("x", (first, *rounds))


@pytest.fixture
def stopped() -> IterateState:
    better = whole(300, interval(0.9), interval(0.2))
    return state(better, whole(600, interval(0.91), interval(0.01)), primary=interval(0.7))


def test_the_summary_says_what_happened(stopped, tmp_path):
    cfg = loop_config()
    said = summarise(stopped, cfg, verdict(stopped, cfg), Path("runs/loop"), "gold")
    assert (said.stopped, said.best_round, said.best_policy) == (True, 1, "runs/loop/round-01/policy/model")
    assert "round 2 brought no improvement" in said.reason
    assert [r.votes for r in said.rounds] == [0, 300, 600]
    assert said.rounds[1].gain == Interval(0.2, pytest.approx(0.15), 0.25)
    assert said.rounds[2].minutes == dict(zip(ROUND, range(8), strict=True))
    shown = lines(said)
    assert shown[0] == "round 0  0 votes  gold 0.700 [0.650, 0.750]"
    assert shown[1] == (
        "round 1  300 votes  gold 0.900 [0.850, 0.950]  gain +0.200 [+0.150, +0.250]  "
        "pair accuracy 0.800 [0.750, 0.850]"
    )
    assert shown[3] == "since the start: +0.300 [+0.250, +0.350]"
    assert shown[-1] == "best policy (round 1): runs/loop/round-01/policy/model"


def test_the_page_shows_it(stopped, tmp_path):
    cfg = loop_config()
    page = write_report(tmp_path, summarise(stopped, cfg, verdict(stopped, cfg), tmp_path, "gold <b>")).read_text()
    assert "Stopped: round 2 brought no improvement" in page
    assert "+0.010 [-0.040, +0.060]" in page
    assert page.count("100 of 250") == 2
    assert "gold &lt;b&gt; on held-out prompts" in page
    assert "<b>" not in page
    assert page.count('<circle class="dot"') == 3
    assert json.loads((tmp_path / "iterate.json").read_text())["rounds"][2]["primary"] == interval(0.91)


def test_without_improvement_the_first_policy_is_the_one_to_take(tmp_path):
    cfg, worse = loop_config(), state(whole(300, interval(0.5), interval(-0.2)), primary=interval(0.7))
    said = summarise(worse, cfg, verdict(worse, cfg), tmp_path, "gold")
    assert (said.best_round, said.best_policy) == (0, "/model")
    assert "No round has improved the policy" in write_report(tmp_path, said).read_text()


def test_the_last_improvement_counts(tmp_path):
    cfg, better = loop_config(rounds=2), whole(300, interval(0.9), interval(0.2))
    rising = state(better, better, primary=interval(0.7))
    said = summarise(rising, cfg, verdict(rising, cfg), Path("run"), "gold")
    assert (said.reason, said.best_policy) == ("all 2 rounds are done", "run/round-02/policy/model")


def test_scores_of_different_reward_models_make_no_curve(tmp_path):
    cfg = loop_config(evaluate={"data": {"path": "heldout"}})
    running = state(whole(300, interval(0.9), interval(0.2)), primary=None)
    said = summarise(running, cfg, verdict(running, cfg), tmp_path, "score by the round's own reward model")
    page = write_report(tmp_path, said).read_text()
    assert "<svg" not in page
    assert "only gains within a round mean something" in page
    assert "Not finished: 1 complete rounds so far." in page


def test_a_chart_of_one_point_and_of_many_is_well_formed():
    for count in (1, 4):
        points = [Point(300.0 * n, Interval(0.5, 0.4, 0.6)) for n in range(count)]
        figure = ET.fromstring(str(interval_chart("gold & more", points, "votes")))
        assert len(figure.findall(".//circle")) == count
        for whisker in figure.findall(".//line[@class='spread']"):
            assert float(whisker.get("y1", "")) < float(whisker.get("y2", ""))
