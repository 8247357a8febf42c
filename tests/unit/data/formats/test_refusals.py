"""What cannot be read is refused with the key that is wrong, whatever it holds."""

import contextlib
import copy
import random
from typing import Any

import pytest

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats import FORMATS, KINDS, Kind, as_raw_row, format_named, format_of
from mmrlhf_ray.errors import DataError
from tests.unit.data.formats.example import ASKED, CHAT, ONE, RESPONSES, SEVEN, Row
from tests.unit.data.formats.examples import EXAMPLES, OVERALL, PAIR

CALLING = ONE[0] | {"tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("name", "kind", "row", "said"),
    [
        ("trl", "DEMONSTRATION", {"prompt": CHAT}, "completion is missing"),
        ("trl", "PREFERENCE", {"prompt": CHAT, "chosen": "b"}, "rejected is missing"),
        ("trl", "PROMPT", {"prompt": CHAT, "images": "a.png"}, "images is a str, expected a list"),
        ("trl", "PROMPT", {"prompt": CHAT, "images": ["a"], "image": "b"}, "image and images are both given"),
        ("trl", "DEMONSTRATION", {"prompt": CHAT, "completion": [*CHAT, *CHAT]}, "completion is 2 messages"),
        ("trl", "DEMONSTRATION", {"prompt": CHAT, "completion": CHAT}, r"completion\[0\].role is 'user'"),
        ("trl", "DEMONSTRATION", {"prompt": CHAT, "completion": "b", "label": 1}, "label is 1, expected true or false"),
        ("trl", "PREFERENCE", {"chosen": [*CHAT, *SEVEN], "rejected": [*ASKED, *ONE]}, "differ before their last"),
        ("trl", "PROMPT", {"messages": CHAT, "chosen": "b"}, "messages and chosen are both given"),
        ("ms_swift", "DEMONSTRATION", {"messages": CHAT}, "messages does not end with the assistant"),
        ("ms_swift", "PREFERENCE", {"messages": [*CHAT, *ONE]}, "rejected_response is missing"),
        ("ms_swift", "DEMONSTRATION", {"messages": [*CHAT, *ONE], "label": 0}, "label is 0"),
        ("ms_swift", "PROMPT", {"messages": "a"}, "messages is a str"),
        ("trl", "DEMONSTRATION", {"messages": [*CHAT, CALLING]}, r"messages\[1\] has tool_calls"),
        ("openai", "DEMONSTRATION", {"messages": [*CHAT, CALLING]}, r"messages\[1\] has tool_calls"),
        ("ms_swift", "DEMONSTRATION", {"messages": [*CHAT, ONE[0] | {"loss": False}]}, r"messages\[1\] has loss"),
        (
            "ms_swift",
            "PREFERENCE",
            {"messages": [*CHAT, *ONE], "rejected_messages": [*CHAT, CALLING]},
            "has tool_calls",
        ),
        ("trl", "DEMONSTRATION", {"prompt": CHAT, "completion": [CALLING]}, r"completion\[0\] has tool_calls"),
        ("trl", "PREFERENCE", {"prompt": CHAT, "chosen": ONE, "rejected": [CALLING]}, r"rejected\[0\] has tool_calls"),
        ("trl", "PREFERENCE", {"chosen": [*CHAT, CALLING], "rejected": [*CHAT, *ONE]}, r"chosen\[1\] has tool_calls"),
        ("ms_swift", "PROMPT", {"messages": [{"content": "a"}]}, r"messages\[0\] is not a message"),
        ("ms_swift", "PROMPT", {"messages": ONE}, "messages has an answer only"),
        (
            "ms_swift",
            "PREFERENCE",
            {"messages": [*CHAT, *ONE], "rejected_response": "b", "rejected_images": ["a"]},
            "rejected_images differs from images",
        ),
        ("llamafactory", "PROMPT", {"conversations": [{"from": "tool", "value": "a"}]}, "from is 'tool'"),
        ("llamafactory", "PROMPT", {"conversations": [{"from": "human"}]}, r"conversations\[0\] is not a turn"),
        ("llamafactory", "PREFERENCE", {"conversations": [{"from": "human", "value": "a"}]}, "chosen is missing"),
        ("llamafactory", "PROMPT", {"conversations": []}, "conversations is not a non-empty list"),
        ("llava", "DEMONSTRATION", {"conversations": [{"from": "human", "value": "a"}]}, "conversations does not end"),
        ("openai", "PREFERENCE", {"messages": CHAT}, "preferred_output is missing"),
        ("openai", "PROMPT", {"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "type is 'file'"),
        (
            "openai",
            "PROMPT",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"uri": "a"}}]}]},
            "image_url is not an address",
        ),
        ("openai", "DEMONSTRATION", {"messages": CHAT}, "an assistant message at the end of messages is missing"),
        ("rlaif_v", "PREFERENCE", {"question": "a", "chosen": "b"}, "rejected is missing"),
        ("rlaif_v", "PREFERENCE", {"text": "{}", "image": "a"}, "text is no JSON with question"),
        ("rlaif_v", "PREFERENCE", PAIR | {"question": 3}, "question is a int"),
        ("align_anything", "PREFERENCE", {"prompt": "a", **RESPONSES, "overall_response": 0}, "overall_response is 0"),
        ("align_anything", "PREFERENCE", {"prompt": "a", **RESPONSES}, "overall_response and more_helpful"),
        ("align_anything", "PROMPT", {"prompt": "a", "question": "b", **RESPONSES}, "got question and prompt"),
        ("ultrafeedback", "RANKING", {"prompt": "a", "completions": []}, "completions is not a non-empty list"),
        ("ultrafeedback", "RANKING", {"prompt": "a", "completions": [{"model": "b"}]}, r"completions\[0\] has no resp"),
        (
            "ultrafeedback",
            "RANKING",
            {"prompt": "a", "completions": [{"response": "b", "annotations": {"x": {"Rating": "five"}}}]},
            r"annotations\.x\.Rating is 'five'",
        ),
        ("ultrafeedback", "PREFERENCE", {"prompt": "a", "completions": OVERALL[:1]}, "no completion is better"),
        ("ultrafeedback", "PREFERENCE", {"prompt": "a", "completions": [{"response": "b"}]}, "has no rating"),
        (
            "align_anything",
            "PREFERENCE",
            {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 2},
            "better_response_id is 2, expected 0 or 1",
        ),
        (
            "align_anything",
            "PREFERENCE",
            {"prompt": "a", **RESPONSES, "better_response_id": 0},
            "is 0, expected 1 or 2",
        ),
        ("captions", "DEMONSTRATION", {"image": ["a.png", "b.png"], "caption": "c"}, "2 images, expected one"),
        ("captions", "DEMONSTRATION", {"caption": "c"}, "0 images, expected one"),
        ("captions", "DEMONSTRATION", {"image": "a.png", "caption": 3}, "caption is a int"),
        ("transcripts", "DEMONSTRATION", {"audio_filepath": "a.wav", "text": "b", "offset": 1.5}, "offset cannot be"),
        ("squad", "DEMONSTRATION", {"context": "a", "question": "b", "answers": []}, "answers is empty"),
        ("squad", "DEMONSTRATION", {"context": "a", "question": "b", "answers": [3]}, r"answers\[0\] is a int"),
        (
            "verl",
            "PROMPT",
            {"data_source": "a", "prompt": CHAT, "videos": [{"type": "video", "video": "a.mp4", "fps": 2.0}]},
            "a video has fps, which cannot be expressed",
        ),
        ("verl", "PROMPT", {"prompt": CHAT}, "data_source is missing"),
        ("verl", "PROMPT", {"prompt": CHAT, "data_source": "a", "reward_model": "b"}, "reward_model is a str"),
    ],
)
def test_what_cannot_be_read_names_the_key(name: str, kind: Kind, row: Row, said: str) -> None:
    with pytest.raises(RowError, match=said):
        as_raw_row(row, format_named(name), kind)


JUNK: tuple[Any, ...] = (None, True, 3, -1.5, "", "x", "<image>", b"x", [], {}, [None], [3], ["x"], {"x": None}, {3: 4})


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def test_keys_of_an_answer_that_say_nothing_are_left_out() -> None:
    said = ONE[0] | {"tool_calls": [], "name": "", "refusal": None}
    row = as_raw_row({"messages": [*CHAT, said]}, format_named("trl"), "DEMONSTRATION")
    assert row["response"] == as_raw_row({"messages": [*CHAT, *ONE]}, format_named("trl"), "DEMONSTRATION")["response"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_junk_anywhere_is_refused_or_read(number: int) -> None:
    """Nothing but RowError and DataError comes out of rows that hold anything anywhere."""
    row = EXAMPLES[number].values[2]
    rng = random.Random(0)
    for place in range(len(_places(row))):
        for junk in JUNK:
            broken = copy.deepcopy(row)
            container, key = _places(broken)[place]
            container[key] = copy.deepcopy(junk)
            if rng.random() < 0.3:
                container, key = rng.choice(_places(broken))
                container[key] = copy.deepcopy(rng.choice(JUNK))
            _read_every_way(broken)


def _read_every_way(row: Row) -> None:
    for form in FORMATS:
        form.matches(row)
        for kind in KINDS:
            with contextlib.suppress(RowError):
                as_raw_row(row, form, kind)
    with contextlib.suppress(DataError):
        format_of([row])


def test_one_bad_row_does_not_make_the_others_rows_of_another_format() -> None:
    good, bad = {"prompt_id": "one", "prompt": "What?"}, {"prompt": "What?", "task": 3}
    assert format_of([good, bad]).name == "mmrlhf"
    for form in FORMATS:
        if "PROMPT" in form.reads and form.matches(bad):
            raw = as_raw_row(bad, form, "PROMPT")
            assert raw["task"] == 3, "left for the check that names it, not hidden in the extras"
