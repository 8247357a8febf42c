"""Judges on the held-out pairs of a reward model, asked over real HTTP."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from mmrlhf_ray.algorithms.calibration import pair_calibration
from mmrlhf_ray.config import RewardModelConfig
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.pipelines.supervised.judge_agreement import judge_agreements, scaled
from mmrlhf_ray.pipelines.supervised.reward_report import (
    REPORT_FILE,
    SUMMARY_FILE,
    JudgeAgreement,
    agreement,
    headline,
    pairs_of,
    write_report,
)
from mmrlhf_ray.pipelines.supervised.score_fit import first_half
from mmrlhf_ray.schema import EVAL_SCORE, MEDIA, PREFERENCE
from tests.unit.rewards.servers import Answer, Request, serve
from tests.unit.tiny import messages, picture

CLIP = media_row("image", picture(1))
PAIRS = [("a right answer", "wrong"), ("yes", "a long wrong answer"), ("a b", "c d"), ("x y z", "silence")]
"""(chosen, rejected) of each record."""


def records() -> Records:
    rows = [
        {
            "prompt_id": f"p{number}",
            "messages": messages(["image"], "which ?"),
            "media_ids": [CLIP["media_id"]],
            "task": "text" if number == 3 else "digit",
            "modality": "image",
            "extras": json.dumps({"answer": number}),
            "chosen": chosen,
            "rejected": rejected,
            "margin": 0.0,
        }
        for number, (chosen, rejected) in enumerate(PAIRS)
    ]
    table, media = pa.Table.from_pylist(rows, schema=PREFERENCE), pa.Table.from_pylist([CLIP], schema=MEDIA)
    return Records(table, media, 0, "f.jsonl", tuple(range(len(rows))))


def scores() -> pa.Table:
    """The model prefers what people prefer in all but the first pair."""
    rows = [
        {"row": number, "prompt_id": f"p{number}", "task": "text" if number == 3 else "digit", "modality": "image",
         "response": side, "score": float(side == (number == 0)), "uncertainty": 0.0, "members": [0.0],
         "rank": 1 + side, "aspects": [], "ratings": [], "form": []}
        for number in range(len(PAIRS)) for side in (0, 1)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EVAL_SCORE)


def config(url: str, *judges: dict[str, Any], **keys: Any) -> RewardModelConfig:
    whose = {"kind": "judge", "model": "m", "base_url": url, "prompt": "{prompt}|{response}", "backoff_s": 0.01}
    base = {"name": "x", "model": {"path": "m"}, "data": {"path": "d"}, "eval_data": {"path": "e"}, "epochs": 1}
    return RewardModelConfig.model_validate(base | {"judges": [whose | judge for judge in judges]} | keys)


def words(request: Request) -> Answer:
    """As many points as the response has words, nothing of silence; of two the one with more words is better."""
    content = request.body["messages"][0]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    responses = text.split("|")[1:]
    if "silence" in responses:
        return Answer(status=400)
    counts = [len(response.split()) for response in responses]
    said = str(counts[0]) if len(counts) == 1 else "tie" if counts[0] == counts[1] else "BA"[counts[0] > counts[1]]
    choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return Answer(body={"choices": [choice]})


def test_a_judge_stands_next_to_the_model(tmp_path: Path) -> None:
    with serve(words) as server:
        cfg = config(
            server.url,
            {"name": "grades", "media": ["image"], "prompt": "{prompt} {columns}|{response}"},
            {"name": "compares", "pairs": {}, "prompt": "{prompt}|{first}|{second}"},
            {"name": "elsewhere", "tasks": ["sums"]},
        )
        found = judge_agreements(cfg, records(), scores())
    # It is right about the first pair, wrong about the second; the third is a tie; the fourth has no answer.
    assert [found[name].unanswered for name in ("grades", "compares", "elsewhere")] == [1, 1, 0]
    for name in ("grades", "compares"):
        agreed = found[name].agreement
        assert agreed is not None
        assert (agreed.pairs, agreed.accuracy.estimate, agreed.calibration) == (3, 0.5, None)
    assert found["elsewhere"].agreement is None
    assert [found[name].side_changes for name in ("grades", "compares")] == [None, 0.0]
    assert len(server.requests) == 8 + 8
    contents = [request.body["messages"][0]["content"] for request in server.requests]
    shown = [parts for parts in contents if not isinstance(parts, str)]
    assert {tuple(part["type"] for part in parts) for parts in shown} == {("image_url", "text")}
    assert any('"answer": 0' in parts[1]["text"] for parts in shown)

    summary = write_report(tmp_path, "x", "bradley_terry", (), scores(), found)
    said = headline(summary)
    assert "pair accuracy 0.750" in said
    assert "judge grades: pair accuracy 0.500" in said
    assert "on 3 of them, 1 without an answer" in said
    assert "judge elsewhere: no score for any of 0 pairs" in said
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["judges"]["compares"]["unanswered"] == 1
    assert "Judges on the same pairs" in (tmp_path / REPORT_FILE).read_text()


def graded(count: int, slope: float, seed: int) -> pa.Table:
    """EVAL_SCORE of a judge on a pair for each prompt; people prefer a response with odds of exp(slope · lead)."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        grades = rng.random(2)
        if rng.random() > 1 / (1 + math.exp(-slope * (grades[0] - grades[1]))):
            grades = grades[::-1]
        rows += [
            {"row": number, "prompt_id": f"p{number}", "task": "t", "modality": "text", "response": side,
             "score": grade, "uncertainty": 0.0, "members": [grade], "rank": 1 + side, "aspects": [], "ratings": [],
             "form": []}
            for side, grade in enumerate(grades.tolist())
        ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EVAL_SCORE)


def test_a_judges_grades_become_log_odds(tmp_path: Path) -> None:
    table = graded(4000, slope=5.0, seed=0)
    found = scaled(table)
    assert found is not None
    assert found.factors == pytest.approx((5.0, 5.0), rel=0.15)
    assert found.calibration.expected_calibration_error < 0.03
    raw = pair_calibration([pair.difference for pair in pairs_of(table)])
    assert raw.expected_calibration_error > 0.1, "grades from 0 to 1 are too timid as they are"
    assert found.calibration.brier < raw.brier
    assert scaled(graded(30, slope=5.0, seed=1)) is None

    judges = {"grades": JudgeAgreement(agreement(pairs_of(table), log_odds=False), 0, None, found)}
    summary = write_report(tmp_path, "x", "bradley_terry", (), scores(), judges)
    assert "scaled: calibration error 0.0" in headline(summary)
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["judges"]["grades"]["scaled"]["factors"] == [
        *found.factors
    ]
    assert "grades, scaled" in (tmp_path / REPORT_FILE).read_text()


def test_neither_half_is_judged_by_what_was_fitted_to_it() -> None:
    rows = graded(2000, slope=5.0, seed=2).to_pylist()
    turned = [
        row | {"rank": 3 - row["rank"]} if first else row
        for row, first in zip(rows, first_half(pa.Table.from_pylist(rows, schema=EVAL_SCORE)), strict=True)
    ]
    found = scaled(pa.Table.from_pylist(turned, schema=EVAL_SCORE))
    assert found is not None
    assert found.factors[0] < 0.1 < 1.0 < found.factors[1], "to a half that prefers the worse ones nothing fits"
    assert found.calibration.expected_calibration_error > 0.1


def test_a_report_without_judges_names_none(tmp_path: Path) -> None:
    write_report(tmp_path, "x", "bradley_terry", (), scores())
    assert "Judges" not in (tmp_path / REPORT_FILE).read_text()


@pytest.mark.parametrize(
    ("judges", "keys", "message"),
    [
        ([{"name": "a"}], {"eval_data": None}, "judges are asked about held-out records"),
        ([{"name": "a"}], {"eval_data": {"path": "e", "streaming": True}}, "not streamed"),
        ([{"name": "a"}, {"name": "a"}], {}, "judges: names must be unique"),
    ],
)
def test_judges_without_pairs_are_refused(judges: list[dict[str, Any]], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config("http://h", *judges, **keys)
