"""User functions and the redaction of personal data, on every text of a row and on nothing else."""

import psutil
import pytest

from mmrlhf_ray.config.data import TextHooks
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records import text_hooks
from mmrlhf_ray.data.records.pii import mask_pii
from mmrlhf_ray.data.records.text_hooks import TextHookRunner
from mmrlhf_ray.errors import ConfigError

HOOKS = """
import os, sys, time

def upper(text):
    return text.upper()

def mark(text):
    print("hooks may print")
    return text + "!"

def hide(text):
    return text.replace("SECRET", "[SECRET]")

def number(text):
    return 3

def fail(text):
    raise KeyError("no such word")

def hang(text):
    time.sleep(60)

def leave(text):
    os._exit(3)

def leave_once(text):
    if "poison" in text:
        os._exit(3)
    return text
"""


@pytest.fixture
def runner(tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    made = []

    def make(clean=(), redact=()):
        named = [tuple(n if ":" in n else f"{tmp_path}/hooks.py:{n}" for n in names) for names in (clean, redact)]
        made.append(TextHookRunner(TextHooks(clean=named[0], redact=named[1])))
        return made[-1]

    yield make
    for one in made:
        one.close()


ROW = {
    "prompt_id": "id",
    "task": "t",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "image", "image": "pics/a.png"}, {"type": "text", "text": "look"}]},
    ],
    "images": ["pics/b.png"],
    "audios": [{"bytes": b"x", "path": "s.wav"}],
    "media_ids": ["m"],
    "chosen": "yes",
    "rejected": "no",
    "responses": ["a", "b"],
    "ranks": [1, 2],
    "extras": {"truth": "cat", "boxes": [1, 2], "nested": [{"deep": "dog"}]},
    "topic": "animals",
    "margin": 0.5,
}


def test_every_text_is_changed_and_no_name_number_or_reference(runner):
    row, counts = runner(clean=["upper"]).apply(ROW)
    assert row == {
        "prompt_id": "id",
        "task": "t",
        "messages": [
            {"role": "system", "content": "BE BRIEF"},
            {"role": "user", "content": [{"type": "image", "image": "pics/a.png"}, {"type": "text", "text": "LOOK"}]},
        ],
        "images": ["pics/b.png"],
        "audios": [{"bytes": b"x", "path": "s.wav"}],
        "media_ids": ["m"],
        "chosen": "YES",
        "rejected": "NO",
        "responses": ["A", "B"],
        "ranks": [1, 2],
        "extras": {"truth": "CAT", "boxes": [1, 2], "nested": [{"deep": "DOG"}]},
        "topic": "ANIMALS",
        "margin": 0.5,
    }
    assert counts == {}
    assert ROW["chosen"] == "yes"


def test_hooks_run_in_order_and_redaction_counts_the_texts_it_changed(runner, tmp_path):
    hooks = runner(clean=["upper", "mark"], redact=["hide"])
    row, counts = hooks.apply({"prompt": "a secret", "response": "no", "chosen": "secret secret"})
    assert row == {"prompt": "A [SECRET]!", "response": "NO!", "chosen": "[SECRET] [SECRET]!"}
    assert counts == {f"{tmp_path}/hooks.py:hide": 2}


def test_json_text_is_looked_into(runner):
    row, _ = runner(clean=["upper"]).apply(
        {"messages": '[{"role": "user", "content": "hi"}]', "extras": '{"truth": "cat"}', "response": "ok"}
    )
    assert row["messages"] == [{"role": "user", "content": "HI"}]
    assert row["extras"] == {"truth": "CAT"}


def test_no_hooks_no_process(runner):
    hooks = runner()
    hooks.start()
    assert hooks.apply(ROW) == (ROW, {})
    assert hooks._child is None


def test_rows_of_any_shape_pass_through(runner):
    hooks = runner(clean=["upper"])
    for odd in ({}, {"messages": 3}, {"messages": [7, None, {"role": 1}]}, {"prompt": None}, {"messages": "{"}):
        row, _ = hooks.apply(odd)
        assert row.keys() == odd.keys()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("number", "raised TypeError: returned a int, expected text"),
        ("fail", r"raised KeyError: 'no such word' \(hooks.py, line 18\)"),
        ("leave", "ended its process with status 3"),
    ],
)
def test_a_hook_that_fails_costs_its_row(runner, function, reason):
    hooks = runner(clean=[function])
    for _ in range(2):
        with pytest.raises(RowError, match=reason):
            hooks.apply({"prompt": "a"})


def test_the_next_row_is_served(runner):
    hooks = runner(clean=["leave_once"])
    with pytest.raises(RowError, match="status 3"):
        hooks.apply({"prompt": "poison"})
    assert hooks.apply({"prompt": "fine"})[0] == {"prompt": "fine"}


def test_a_hook_that_hangs_is_stopped(runner, monkeypatch):
    monkeypatch.setattr(text_hooks, "ROW_S", 0.3)
    hooks = runner(clean=["hang"])
    hooks.start()
    with pytest.raises(RowError, match="did not answer by its deadline"):
        hooks.apply({"prompt": "a"})


def test_hooks_that_cannot_be_loaded_are_errors_of_the_configuration(runner, tmp_path):
    for name, reason in (("absent", "has no function 'absent'"), (f"{tmp_path}/none.py:f", "No such file")):
        with pytest.raises(ConfigError, match=reason):
            runner(clean=[name]).start()
    for name in ("hooks.py:", ":f", "builtin:other"):
        with pytest.raises(ConfigError, match="expected path/to/file.py:function or builtin:pii"):
            runner(redact=[name])


def test_their_process_ends_when_closed(runner):
    hooks = runner(clean=["upper"])
    hooks.start()
    pids = [
        p.pid for p in psutil.Process().children(recursive=True) if "mmrlhf_ray.sandbox.text_process" in p.cmdline()
    ]
    assert len(pids) == 2  # with its guard
    hooks.close()
    assert not psutil.pid_exists(pids[0])


def test_personal_data_are_counted_by_kind(runner):
    row, counts = runner(redact=["builtin:pii"]).apply(
        {"prompt": "ask a@b.org or c@d.org", "response": "call +1 202-555-0143"}
    )
    assert row == {"prompt": "ask [EMAIL] or [EMAIL]", "response": "call [PHONE]"}
    assert counts == {"EMAIL": 2, "PHONE": 1}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail first.last+tag@sub.example.co.uk.", "mail [EMAIL]."),
        ("jürgen@müller.de", "[EMAIL]"),
        ("call +49 (0)30 1234567 today", "call [PHONE] today"),
        ("030/1234567", "[PHONE]"),
        ("(555) 123-4567", "[PHONE]"),
        ("555-123-4567 or 555.123.4567", "[PHONE] or [PHONE]"),
        ("card 4111 1111 1111 1111!", "card [CARD]!"),
        ("378282246310005", "[CARD]"),
        ("1234-5678-9012-3456", "[CARD]"),
        ("DE89 3704 0044 0532 0130 00", "[IBAN]"),
        ("GB82WEST12345698765432,", "[IBAN],"),
        ("GB82 WEST 1234 5698 7654 32 IS MINE", "[IBAN] IS MINE"),
        ("from 192.168.0.1 to 2001:db8::1", "from [IP] to [IP]"),
        ("host ::1.", "host [IP]."),
    ],
)
def test_what_is_masked(text, masked):
    assert mask_pii([text])[0] == [masked]


@pytest.mark.parametrize(
    "text",
    [
        "no data here", "x@y", "a @ b.c", "@name", "2024-05-06", "01.02.2024", "at 12:30:45", "3.14159265358979",
        "0.123456789", "version 1.2.3.4.5", "999.999.999.999", "std::vector and a::b", "10 20 30 40 50 60 70",
        "1234567890123", "DE00 1234", "GB00WEST12345698765432", "<image> 7 + 5 = 12", "2 000 000 000",
    ],
)  # fmt: skip
def test_what_is_not(text):
    assert mask_pii([text]) == ([text], {})


@pytest.mark.parametrize("unit", ["a", "a@", "1 ", "1.1.", ":", "A1", "+1 (", "0 ", "-", "@a."])
def test_long_texts_of_nothing_take_no_time_to_speak_of(unit):
    """A pattern that goes back and forth would take hours for so much."""
    text = unit * (400_000 // len(unit))
    assert mask_pii([text])[0][0].count("[") < len(text)
