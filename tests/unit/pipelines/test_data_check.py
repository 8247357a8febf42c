"""`mmrlhf data check`."""

import json
from pathlib import Path

import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.demo.families.tokens import BOXES
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.data import check as data_check
from mmrlhf_ray.pipelines.data.rows import Stages, checked_rows, open_data
from tests.unit.data.bad_inputs import cases, write_case
from tests.unit.pipelines.folder import bad_rows, demonstrations, media_folder, write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return media_folder(tmp_path / "data")


def checked(config: DataConfig, capsys: pytest.CaptureFixture[str], *, strict: bool = False, **given: Path) -> str:
    ended = data_check.run(config, None, given.get("model"), given.get("output"), strict)
    printed = capsys.readouterr().out
    assert ended == (not strict or " 0 bad" in printed)
    return printed


def test_rows_media_and_tasks_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = checked(write_rows(folder, demonstrations()), capsys, strict=True)
    assert "rows.jsonl: format mmrlhf, read as demonstrations (could be read as prompts, too)" in printed
    assert "6 rows: 6 good, 0 bad" in printed
    lines = [line.split() for line in printed.splitlines()]
    for expected in (["image", "3"], ["audio", "1"], ["video", "1"], ["text", "1"], ["default", "4"], ["colour", "2"]):
        assert expected in lines
    assert ["image", "4", "2", "1"] in lines, "shown four times, two pictures, one of them under two names"
    assert "rows/s; slowest: " in printed
    assert "MiB at 20 % of the rows" in printed
    assert "bad rows" not in printed


def test_every_bad_row_is_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_rows(folder, [*demonstrations(), *bad_rows()])
    output = tmp_path / "reports" / "bad.jsonl"
    printed = checked(config, capsys, strict=True, output=output)
    assert "12 rows: 7 good, 5 bad" in printed
    bad = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["row"] for row in bad] == [6, 7, 8, 9, 11]
    for row, reason in zip(bad, ("broken.png: ", "1 image placeholder", "out.png", "not JSON", "another prompt")):
        assert reason in row["reason"]
        assert row["remedy"]
        assert row["file"] == config.path
        assert f"line {row['row'] + 1}" in printed
    assert [p.name for p in output.parent.iterdir()] == ["bad.jsonl"]


def test_special_tokens_of_answers_may_be_allowed(folder: Path, vl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "<|box_start|>(1,2)<|box_end|>"
    config = write_rows(folder, [{"prompt_id": "a", "prompt": f"what is at {said} ?", "response": said}])
    for allowed in ((), BOXES):
        assert data_check.run(config, None, vl, None, True, allowed) is bool(allowed)
    assert "'<|box_start|>'" in capsys.readouterr().out


def test_many_bad_rows_are_counted_and_the_first_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = checked(write_rows(folder, [*demonstrations(), *["{"] * 30]), capsys)
    assert printed.count("is not JSON") == 20
    assert "… and 10 more; --output FILE writes all of them" in printed


def test_without_strict_bad_rows_are_no_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_rows(folder, [*demonstrations(), *bad_rows()])
    assert data_check.run(config, None, None, None, strict=False)
    assert not data_check.run(config, None, None, None, strict=True)


def test_every_bad_input_fails_a_strict_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, case in enumerate(cases()):
        file = write_case(case, tmp_path / str(number) / "data")
        config = DataConfig(path=str(file), format="mmrlhf", on_bad_row="quarantine", **case.config)
        assert not data_check.run(config, case.schema, None, None, strict=True), case.name
        assert "2 rows: 1 good, 1 bad" in capsys.readouterr().out, case.name


def test_tokens_are_counted_by_the_model(folder: Path, omni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's model: one token a word; an image of 32×28 pixels becomes one or more of its placeholders."""
    rows = [
        {"prompt": "is 3 even or odd ?", "response": "answer : odd"},
        {"prompt": "<image> is 3 even or odd ?", "images": ["red.png"], "response": "answer : odd"},
    ]
    config = write_rows(folder, rows).model_copy(update={"max_prompt_tokens": 12})
    printed = checked(config, capsys, model=omni)
    lengths = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.count("  ") >= 4}
    low, _, _, top = (int(number) for number in lengths["text"])
    assert lengths["media"][0] == "0"
    media = int(lengths["media"][3])
    assert media > 0
    assert int(lengths["prompt"][3]) == top + media
    assert top == low + 2, "the template's brackets around the picture"
    assert lengths["response"] == ["4"] * 4, "three words and the end"
    assert f"{(low > 12) + (top + media > 12):,} prompts are longer than max_prompt_tokens 12" in printed


def test_what_the_model_cannot_read_is_a_bad_row(folder: Path, omni: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "is 3 even ?", "response": "odd"}, {"prompt": "<|im_end|> ?", "response": "odd"}]
    printed = checked(write_rows(folder, rows), capsys, model=omni)
    assert "2 rows: 1 good, 1 bad" in printed
    assert "control token '<|im_end|>'" in printed


def test_an_interrupted_check_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_check, "_note", stop)
    with pytest.raises(KeyboardInterrupt):
        data_check.run(write_rows(folder, bad_rows()), None, None, tmp_path / "out" / "bad.jsonl", strict=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a"}, "PROMPT"),
        ({"prompt": "a", "response": "b"}, "DEMONSTRATION"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "PREFERENCE"),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}, "RANKING"),
        ({"question": "a", "response_1": "b", "response_2": "c", "overall_response": 2}, "RANKING"),
    ],
)
def test_the_richest_records_are_told(folder: Path, row: dict[str, object], kind: str) -> None:
    incomplete = {key: value for key, value in row.items() if key not in ("response", "rejected", "ranks")}
    data = open_data(write_rows(folder, [row, row, incomplete]))
    assert data.kind == kind
    assert data.possible[-1] == "PROMPT"


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [
        ({"prompt": "a"}, {"prompt": "b", "response": "c"}, "DEMONSTRATION"),
        ({"prompt": "a", "response": "b"}, {"prompt": "b", "chosen": "c", "rejected": "d"}, "PREFERENCE"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            {"prompt": "b", "chosen": "c", "rejected": "d"},
            "PREFERENCE",
        ),
        ({"prompt": "b", "chosen": "c", "rejected": "d"}, {"prompt": "a", "response": "b"}, "DEMONSTRATION"),
    ],
)
def test_all_rows_say_which_records_they_are(
    folder: Path, first: dict[str, object], later: dict[str, object], kind: str
) -> None:
    rows = [first] * 64 + [later | {"prompt": f"later {number}"} for number in range(200)]
    assert open_data(write_rows(folder, rows)).kind == kind


def test_faulty_rows_that_come_first_do_not_hide_the_richest_records(folder: Path) -> None:
    def row(*scores: int) -> dict[str, object]:
        return {"instruction": "a", "completions": [{"response": str(s), "overall_score": s} for s in scores]}

    assert open_data(write_rows(folder, [row(1, 1), *[row(1, 2)] * 100])).kind == "RANKING"


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preferences", "chosen and rejected are the same text"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "0.5"},
            "preferences",
            "margin is '0.5', expected a",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400}, "preferences", "expected a finite number"),
        ({"prompt": "a", "chosen": "b"}, "preferences", "rejected is missing"),
        ({"prompt": "a", "response": ""}, "demonstrations", "response is empty"),
        ({"prompt": "a", "responses": ["b"], "ranks": [1]}, "rankings", "responses has 1, expected 2 or more"),
        (
            {"instruction": "a", "completions": [{"response": "b", "overall_score": 1}] * 2},
            "rankings",
            "responses has 'b' more than once",
        ),
        (
            {"question": "a", "response_1": "b", "response_2": "c", "overall_response": 0},
            "rankings",
            "is 0, expected 1",
        ),
    ],
)
def test_answers_that_cannot_be_read_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str], row: dict[str, object], kind: str, reason: str
) -> None:
    printed = checked(write_rows(folder, [row] * 3), capsys)
    assert f"read as {kind} (could be read as prompts, too)" in printed
    assert "3 rows: 0 good, 3 bad" in printed
    assert reason in printed


def test_rows_that_nobody_can_read_do_not_decide_the_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of LLaMA-Factory's tool rows call a function."""
    asked = {"from": "human", "value": "a"}
    called = {"conversations": [asked, {"from": "function_call", "value": "{}"}, {"from": "gpt", "value": "b"}]}
    plain = {"conversations": [asked, {"from": "gpt", "value": "b"}]}
    printed = checked(write_rows(folder, [called, called, plain]), capsys)
    assert "read as demonstrations" in printed
    assert "3 rows: 1 good, 2 bad" in printed


def test_what_a_record_does_not_use_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "What does <video> mean?"}], "source": "web"},
        {"messages": [{"role": "user", "content": "Or <b>?"}], "source": "book", "score": 3},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "red.png"}]}]},
    ]
    printed = checked(write_rows(folder, rows), capsys)
    assert "3 rows: 3 good, 0 bad" in printed
    assert "1 row has <image>, <audio> or <video> in a text and no such medium: it is read as text" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert lines[lines.index(["extras", "rows"]) + 1 :][:2] == [["source", "2"], ["score", "1"]]


def test_a_kind_that_the_format_lacks(folder: Path) -> None:
    row = {"data_source": "a", "prompt": [{"role": "user", "content": "b"}]}
    with pytest.raises(DataError, match="verl rows hold no rankings; expected one of prompt"):
        open_data(write_rows(folder, [row]), "RANKING")
    with pytest.raises(DataError, match="its rows can be read as prompt, expected one of ranking"):
        open_data(write_rows(folder, [row]), None, frozenset({"RANKING"}))


def test_rows_come_in_order_and_whole(folder: Path) -> None:
    rows = [{"prompt": f"{n} <image>", "images": ["red.png"]} for n in range(150)]
    found = list(checked_rows(open_data(write_rows(folder, rows)), Stages()))
    texts = [json.loads(row.record["messages"])[0]["content"][0]["text"] for row in found]
    assert texts == [f"{n} " for n in range(150)]
