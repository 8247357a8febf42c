"""VQA v2's layout: questions with their answers, and the quarters of a picture to look closer at."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.data.media import decode_image
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios import questions, questions_scenes


def _write(root: Path, answers: list[str]) -> Path:
    (root / questions.PICTURES).mkdir()
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, 3:] = 255
    Image.fromarray(pixels).save(root / questions.PICTURES / questions.picture_name(42), format="PNG")
    asked = [{"question_id": 420 + i, "image_id": 42, "question": "Is 5552018842 Open?"} for i in range(len(answers))]
    said = [row | {"multiple_choice_answer": a, "answer_type": "other"} for row, a in zip(asked, answers, strict=True)]
    (root / questions.QUESTIONS).write_text(json.dumps({"questions": asked}))
    (root / questions.ANNOTATIONS).write_text(json.dumps({"annotations": said}))
    return root


def test_a_question_comes_with_the_picture_and_its_quarters(tmp_path: Path) -> None:
    (case,) = questions.read(_write(tmp_path, ["yes"]))
    assert (case.text, case.answer, case.source, case.group) == ("is <number> open ?", "yes", "42", "other")
    whole, *quarters = (np.asarray(decode_image(medium["data"])) for medium in case.media)
    assert whole.shape == (4, 6, 3)
    assert [(quarter.shape, quarter.mean()) for quarter in quarters] == [
        ((2, 3, 3), 0), ((2, 3, 3), 255), ((2, 3, 3), 0), ((2, 3, 3), 0),
    ]  # fmt: skip


def test_rare_answers_are_left_out_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = list(questions.read(_write(tmp_path, ["yes"] * 150 + ["a heron"])))
    assert len(cases) == 150
    assert "1 of 151 have a rare answer and are left out; the others: ['yes']" in capsys.readouterr().out


def test_a_picture_that_is_missing_is_named_with_the_question(tmp_path: Path) -> None:
    _write(tmp_path, ["yes"])
    (tmp_path / questions.PICTURES / questions.picture_name(42)).unlink()
    with pytest.raises(DataError, match=r"COCO_train2014_000000000042.jpg: not there, but question 420 is about it"):
        list(questions.read(tmp_path))


def test_a_question_without_its_answer_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, ["yes"])
    (tmp_path / questions.ANNOTATIONS).write_text(json.dumps({"annotations": []}))
    with pytest.raises(DataError, match="lacks 420"):
        list(questions.read(tmp_path))


def test_the_stand_in_asks_five_questions_a_picture(tmp_path: Path) -> None:
    questions_scenes.make(tmp_path, 0, pictures=8)
    cases = list(questions.read(tmp_path))
    assert len(cases) == 40
    assert len({case.source for case in cases}) == 8
    assert {case.answer for case in cases if case.group == "yes/no"} == {"yes", "no"}
    assert all(case.answer.isdigit() for case in cases if case.group == "number")
