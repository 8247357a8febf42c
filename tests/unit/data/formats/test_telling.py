"""The format of a data set is told from all of its rows, and nothing that a row holds is dropped."""

import json
from typing import Any

import pytest

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats import Kind, as_raw_row, format_named, format_of
from mmrlhf_ray.data.validate import MEDIA_LISTS, conversation
from mmrlhf_ray.errors import DataError

Row = dict[str, Any]

MANY = 200
"""Rows before the one that says more: beyond what a look at the first ones sees."""


def user(text: Any) -> Row:
    return {"role": "user", "content": text}


def assistant(text: Any) -> Row:
    return {"role": "assistant", "content": text}


def chat(question: Any = "hi", answer: Any = "ho") -> list[Row]:
    return [user(question), assistant(answer)]


def turns(question: str = "hi", answer: str = "ho") -> list[Row]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


PLAIN = {"messages": chat()}
LLAVA = {"conversations": turns()}
PART = {"type": "image_url", "image_url": {"url": "a.png"}}


def shown(raw: Row) -> list[tuple[str, Any]]:
    """(kind, reference) of what the messages of a raw row show, in order."""
    _, parts = conversation(raw)
    queues = {kind: iter(raw.get(key) or []) for kind, key in MEDIA_LISTS.items()}
    found = [(part.kind, part.path or next(queues[part.kind])) for part in parts]
    assert [list(queue) for queue in queues.values()] == [[], [], []], "media left over"
    return found


def said(raw: Row) -> list[tuple[str, str]]:
    """(role, text) of the messages of a raw row, media left out."""
    messages, _ = conversation(raw)
    return [
        (m["role"], c if isinstance(c := m["content"], str) else "".join(p.get("text", "") for p in c))
        for m in messages
    ]


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        (PLAIN, {"messages": chat(), "label": False}, "ms_swift"),
        (PLAIN, {"messages": chat(), "rejected_response": "b"}, "ms_swift"),
        (PLAIN, {"messages": chat("<image>What?"), "images": ["a.png"]}, "ms_swift"),
        (PLAIN, {"messages": chat("<video>What?"), "video": "a.mp4"}, "ms_swift"),
        (PLAIN, {"messages": chat([PART])}, "openai"),
        (PLAIN, {"messages": chat([{"type": "image", "image": "a.png"}])}, "trl"),
        ({"messages": chat(), "label": 7}, {"messages": chat(), "label": True}, "ms_swift"),
        (LLAVA, {"conversations": turns("<image>\nQ"), "image": "a.png"}, "llava"),
        (LLAVA, {"conversations": turns(), "image": "a.png"}, "llava"),
        (LLAVA, {"conversations": turns(), "kto_tag": True}, "llamafactory"),
        ({"prompt": "a"}, {"prompt": "a", "completion": "b"}, "trl"),
        ({"prompt": "a"}, {"prompt": "a", "response": "b"}, "mmrlhf"),
        # A row that nobody can read does not decide, and is told by the format that comes closest.
        (PLAIN, {"messages": chat("<image>Q <image>"), "images": ["a.png"]}, "ms_swift"),
    ],
)
def test_a_row_far_down_decides(first: Row, last: Row, name: str) -> None:
    assert format_of([*[first] * MANY, last, first]).name == name
    assert format_of([last, *[first] * MANY]).name == name


def test_rows_of_two_formats_stop_with_both_named_and_the_row() -> None:
    tagged = {"messages": chat("<image>What?"), "images": ["a.png"]}
    reason = f"row 0 and those after it are ms_swift, row {MANY + 1} is openai; say which"
    with pytest.raises(DataError, match=reason):
        format_of([*[PLAIN] * MANY, tagged, {"messages": chat([PART])}])


def read(row: Row, kind: Kind) -> Row:
    return as_raw_row(row, format_of([row]), kind)


@pytest.mark.parametrize("kind", MEDIA_LISTS)
@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"messages": chat("TAGWhat?")}, "DEMONSTRATION"),
        ({"messages": chat("What?")}, "DEMONSTRATION"),
        ({"messages": chat("What?"), "rejected_response": "b"}, "PREFERENCE"),
        ({"prompt": "What?", "response": "hi"}, "DEMONSTRATION"),
        ({"prompt": "TAG What?", "chosen": "a", "rejected": "b"}, "PREFERENCE"),
        ({"prompt": "What?", "responses": ["a", "b"], "ranks": [1, 2]}, "RANKING"),
        ({"prompt": [user("What?")], "completion": "hi"}, "DEMONSTRATION"),
        ({"prompt": "What?", "completion": "hi"}, "DEMONSTRATION"),
        ({"messages": [user("What?")]}, "PROMPT"),
    ],
)
def test_one_medium_under_its_own_name_is_shown(kind: str, row: Row, record: Kind) -> None:
    reference = {"bytes": b"\x89", "path": None}
    tagged: Row = json.loads(json.dumps(row).replace("TAG", f"<{kind}>"))
    assert shown(read(tagged | {kind: reference}, record)) == [(kind, reference)]
    assert shown(read(tagged | {kind: "a.bin"}, record)) == [(kind, "a.bin")]


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"messages": chat("<image>What is this?"), "image_path": "a.png"}, "image_path"),
        ({"messages": chat("What is this?"), "video_path": "b/a.mp4"}, "video_path"),
        ({"conversations": turns("Q"), "audio": "a.wav"}, "audio"),
        ({"prompt": "Q", "response": "a", "audio_filepath": "a.flac"}, "audio_filepath"),
        ({"prompt": "Q", "img_url": "https://example.org/a.png?x=1"}, "img_url"),
        ({"prompt": [user("Q")], "completion": "a", "audio_file": {"bytes": b"RIFF", "path": None}}, "audio_file"),
        ({"question": "Q", "chosen": "a", "rejected": "b", "video": "a.mp4"}, "video"),
        ({"instruction": "Q", "completions": [{"response": "a"}, {"response": "b"}], "images": ["a.png"]}, "images"),
        ({"prompt": "Q", "response_1": "a", "response_2": "b", "overall_response": 1, "sound": "a.wav"}, "sound"),
        ({"prompt": "Q", "response": "a", "media": ["a.png"]}, "media"),
        ({"prompt": "Q", "response": "a", "files": "b/a.MP3"}, "files"),
        ({"messages": chat(), "attachments": [{"path": "a.mp4", "bytes": None}]}, "attachments"),
        ({"messages": chat(), "multi_modal_data": {"image": ["a.png"]}}, "multi_modal_data"),
        # One kind is shown, the other is not.
        ({"prompt": "Q", "images": ["a.png"], "audio_path": "a.wav"}, "audio_path"),
    ],
)
def test_media_under_another_name_are_refused(row: Row, key: str) -> None:
    with pytest.raises(RowError, match=f"{key} names media that .* rows do not show; name them in"):
        read(row, "PROMPT")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "images": ["a.png"], "image_path": "cats/a.png"},  # where the picture came from
        {"prompt": "Q", "image_name": "cat"},
        {"prompt": "Q", "video_path": ""},
        {"prompt": "Q", "clips": 3},
        {"prompt": "Q", "file": "rows.csv", "media": {"kind": "none"}},
        {"prompt": "Q", "audios": ["a.flac"], "file": "cats/a.flac"},
        {"prompt": "Q", "extras": {"image_path": "a.png"}},
    ],
)
def test_names_that_show_nothing_stay_extras(row: Row) -> None:
    assert read(row, "PROMPT") == row


@pytest.mark.parametrize("key", ["images", "image"])
@pytest.mark.parametrize("nothing", [[], ""])
def test_a_tag_next_to_an_empty_list_is_no_text(key: str, nothing: Any) -> None:
    row = {"messages": chat("<image>What?"), key: nothing}
    with pytest.raises(RowError, match=f"<image> stands in a text and {key} is empty|images is empty, expected a list"):
        as_raw_row(row, format_named("trl"), "DEMONSTRATION")
    assert format_of([row]).name == "ms_swift" or nothing == "", "which counts the tag and finds no file"
    assert said(read({"messages": chat("<video> in HTML?")}, "DEMONSTRATION")) == [("user", "<video> in HTML?")]


SYSTEM = [("system", "Be brief."), ("user", "hi")]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": chat(), "rejected_response": "No"}, "PREFERENCE"),
        ({"messages": chat()}, "DEMONSTRATION"),
        ({"messages": [user("hi")]}, "PROMPT"),
        ({"messages": chat([{"type": "text", "text": "hi"}])}, "DEMONSTRATION"),
        ({"prompt": "hi", "response": "ho"}, "DEMONSTRATION"),
        ({"prompt": "hi", "completion": "ho"}, "DEMONSTRATION"),
        ({"prompt": [user("hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}, "PREFERENCE"),
        ({"question": "hi", "chosen": "a", "rejected": "b"}, "PREFERENCE"),
        ({"conversations": turns()}, "DEMONSTRATION"),
        ({"data_source": "x", "prompt": [user("hi")]}, "PROMPT"),
        ({"instruction": "hi", "completions": [{"response": "a"}, {"response": "b"}]}, "PROMPT"),
        ({"prompt": "hi", "response_1": "a", "response_2": "b", "overall_response": 1}, "PREFERENCE"),
        ({"input": {"messages": [user("hi")]}, "preferred_output": [assistant("a")]}
         | {"non_preferred_output": [assistant("b")]}, "PREFERENCE"),
    ],
)  # fmt: skip
def test_a_system_prompt_next_to_the_messages_comes_first(row: Row, kind: Kind) -> None:
    raw = read(row | {"system": "Be brief."}, kind)
    assert said(raw) == SYSTEM
    assert "system" not in raw.get("extras", {})
    assert said(read(row | {"system": ""}, kind)) == SYSTEM[1:]


def test_a_prompt_with_media_keeps_them_behind_the_system_prompt() -> None:
    raw = read({"prompt": "hi", "images": ["a.png"], "system": "Be brief.", "source": 3}, "PROMPT")
    assert (said(raw), shown(raw), raw["source"]) == (SYSTEM, [("image", "a.png")], 3)


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, *chat()]},
        {"system": "Be brief.", "system_prompt": "Be long.", "messages": chat()},
    ],
)
def test_two_system_prompts_are_refused(row: Row) -> None:
    with pytest.raises(RowError, match="system.* and a system message are both given"):
        read(row, "DEMONSTRATION")


@pytest.mark.parametrize("key", ["system_prompt", "system_message"])
def test_other_names_of_the_system_prompt(key: str) -> None:
    for row in ({"prompt": "hi", "response": "ho"}, {"messages": chat()}):
        assert said(read(row | {key: "Be brief."}, "DEMONSTRATION")) == SYSTEM


def test_earlier_turns_come_before_the_prompt() -> None:
    row = {"prompt": "hi", "response": "ho", "history": [["<image>a", "b"], ["c", "d"]], "images": ["a.png"]}
    raw = read(row | {"system": "Be brief."}, "DEMONSTRATION")
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert said(raw) == [SYSTEM[0], *turns, ("user", "hi")]
    assert shown(raw) == [("image", "a.png")]
    assert read({"prompt": "hi", "history": []}, "PROMPT") == {"prompt": "hi", "history": []}
    with pytest.raises(RowError, match=r"history\[0\] is not \[question, answer\]"):
        read({"prompt": "hi", "history": ["a"]}, "PROMPT")
    with pytest.raises(RowError, match="history stands next to messages"):
        read({"messages": chat(), "history": [["a", "b"]]}, "DEMONSTRATION")


@pytest.mark.parametrize("row", [PLAIN, LLAVA, {"prompt": "a", "response": "b"}, {"prompt": "a", "completion": "b"}])
@pytest.mark.parametrize("tools", ['[{"name": "f"}]', [{"type": "function"}], "f(x)"])
@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_are_refused(row: Row, tools: Any, key: str) -> None:
    with pytest.raises(RowError, match=f"{key} cannot be expressed: the prompt would lack them"):
        read(row | {key: tools}, "DEMONSTRATION")
    for nothing in ([], "[]", "", " "):
        assert said(read(row | {key: nothing}, "DEMONSTRATION"))


def test_objects_that_texts_refer_to_are_refused() -> None:
    row = {
        "messages": chat("<image>Find the <ref-object>", "<bbox>"),
        "images": ["a.png"],
        "objects": {"ref": ["sheep"], "bbox": [[1, 2, 3, 4]]},
    }
    for name in ("ms_swift", format_of([*[PLAIN] * MANY, row]).name):
        with pytest.raises(RowError, match="objects cannot be expressed|answers are text"):
            as_raw_row(row, format_named(name), "DEMONSTRATION")


@pytest.mark.parametrize("kind", ["DEMONSTRATION", "PROMPT"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": chat("Draw a cat", "<image>"), "images": ["a.png"]},
        {"messages": chat("Draw a cat", "<image>"), "image": "a.png"},
        {"messages": [user("Draw"), assistant("<image>"), *chat("Again")], "images": ["a.png"]},
        {"conversations": turns("Draw a cat", "<image>"), "images": ["a.png"]},
        {"conversations": turns("Draw a cat", "<image>"), "image": "a.png"},
        {"prompt": "Draw a cat", "response": "<image>", "images": ["a.png"]},
        {"prompt": "Draw a cat", "completion": "<image>", "images": ["a.png"]},
        {"prompt": "Draw a cat", "responses": ["a", "<image>"], "ranks": [1, 2], "images": ["a.png"]},
        {"prompt": [user("Draw a cat")], "completion": [assistant("<image>")], "images": ["a.png"]},
    ],
)
def test_media_of_an_answer_never_move_into_the_prompt(row: Row, kind: Kind) -> None:
    with pytest.raises((RowError, StopIteration, AssertionError), match="answers are text|media left over"):
        shown(read(row, kind))


@pytest.mark.parametrize("label", [0, 1, -1, 0.0, 1.0, "false", "True"])
def test_a_label_that_is_a_number_or_a_text_is_refused(label: Any) -> None:
    with pytest.raises(RowError, match=f"label is {label!r}, expected true or false"):
        read({"messages": chat(), "label": label}, "DEMONSTRATION")


@pytest.mark.parametrize("label", [False, 0, "false"])
def test_a_label_next_to_a_response_of_our_own_rows_is_refused(label: Any) -> None:
    row = {"prompt": "a", "response": "b", "label": label}
    with pytest.raises(RowError, match=f"label is {label!r} next to response; write feedback"):
        read(row, "DEMONSTRATION")
    assert read(row | {"feedback": -1}, "DEMONSTRATION") == row | {"feedback": -1}
    assert read(row | {"label": "cat"}, "DEMONSTRATION") == row | {"label": "cat"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": chat("<image>Q <image>"), "images": "a.png"}, "images is a str, expected a list"),
        (
            {"messages": chat(), "images": ["a"], "rejected_response": "b", "rejected_images": ["b"]},
            "rejected_images d",
        ),
        ({"messages": [user([PART]), assistant([PART])]}, "image_url, answers are text"),
        ({"messages": [user([PART]), assistant([{"type": "text", "value": "a"}])]}, "has the keys type, value"),
    ],
)
def test_the_true_reason_is_shown_where_every_format_refuses(row: Row, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read(row, "DEMONSTRATION")


def test_media_in_an_earlier_answer_are_named_as_such() -> None:
    raw = read({"messages": [user([PART]), assistant([PART]), *chat()]}, "DEMONSTRATION")
    with pytest.raises(RowError, match=r"messages\[1\] \(assistant\) shows a image"):
        conversation(raw)


def test_a_long_list_of_keys_is_cut() -> None:
    with pytest.raises(DataError) as error:
        format_of([{f"{n}-{'x' * 300}.png": n for n in range(1000)}])
    assert len(str(error.value)) < 2000


# HuggingFaceH4/ultrafeedback_binarized and its kin

BINARIZED = {
    "prompt": "hi",
    "prompt_id": "x",
    "chosen": chat("hi", "ho"),
    "rejected": chat("hi", "no"),
    "messages": chat("hi", "ho"),
    "score_chosen": 8.0,
    "score_rejected": 7.0,
}


@pytest.mark.parametrize("without", [(), ("messages",), ("prompt",), ("messages", "prompt"), ("prompt_id",)])
@pytest.mark.parametrize("more", [{}, {"question": "hi"}, {"source": "web"}])
def test_binarized_feedback_is_a_preference(without: tuple[str, ...], more: Row) -> None:
    row = {key: value for key, value in BINARIZED.items() if key not in without} | more
    assert format_of([row, row]).name == "trl"
    raw = read(row, "PREFERENCE")
    assert (said(raw), raw["chosen"], raw["rejected"]) == ([("user", "hi")], "ho", "no")
    assert raw["extras"] == {"score_chosen": 8.0, "score_rejected": 7.0} | more
    if "messages" in row:
        assert read(row, "DEMONSTRATION")["response"] == "ho"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "bye"}, "prompt is none of the messages of chosen"),
        ({"messages": chat("hi", "no")}, "messages differ from chosen"),
        ({"rejected": chat("bye", "no")}, "chosen and rejected differ before their last turn"),
        ({"prompt": [user("bye")]}, "chosen is 2 messages"),
    ],
)
def test_binarized_feedback_that_contradicts_itself_is_refused(change: Row, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        as_raw_row(BINARIZED | change, format_named("trl"), "PREFERENCE")


def test_prompts_as_messages_may_be_repeated_in_the_answers() -> None:
    raw = read(BINARIZED | {"prompt": [user("hi")]}, "PREFERENCE")
    assert (said(raw), raw["chosen"], raw["rejected"]) == ([("user", "hi")], "ho", "no")


def test_openai_preferences_with_empty_tools() -> None:
    """The example of OpenAI's documentation."""
    row = {
        "input": {"messages": [user("How cold is it today?")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [assistant("Today in San Francisco, it is not quite cold as expected.")],
        "non_preferred_output": [assistant("It is not particularly cold in San Francisco today.")],
    }  # fmt: skip
    raw = read(row, "PREFERENCE")
    assert raw.keys() == {"messages", "chosen", "rejected"}
    row["input"]["tools"] = [{"type": "function"}]
    with pytest.raises(RowError, match=r"input\.tools cannot be expressed"):
        read(row, "PREFERENCE")
