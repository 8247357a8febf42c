"""Rows whose JSON, types, placeholders or answers are wrong."""

import json
from collections.abc import Iterator
from typing import Any

RowCase = tuple[str, Any, str, str]
"""(name, object or bytes of a line, regular expression of the reason, schema)."""

_NO_TEXT: dict[str, Any] = {"number": 3, "list": ["a"], "object": {"a": 1}, "true": True, "float": 0.5}


def row_cases() -> Iterator[RowCase]:
    yield from _json()
    yield from _types()
    yield from _messages()
    yield from _placeholders()
    yield from _answers()
    yield from _judgements()


def _json() -> Iterator[RowCase]:
    no_json = "the line is not JSON"
    for name, line in {
        "cut off": b'{"prompt": "a',
        "text": b"hello",
        "two objects": b'{"prompt": "a"} {"prompt": "b"}',
        "comma too many": b'{"prompt": "a",}',
        "single quotes": b"{'prompt': 'a'}",
        "NaN": b'{"prompt": "a", "x": NaN}',
        "Infinity": b'{"prompt": "a", "x": Infinity}',
        "-Infinity": b'{"prompt": "a", "x": -Infinity}',
        "NUL bytes": b'{"prompt": "a"}\x00\x00',
        "control character": b'{"prompt": "a\x01"}',
        "unknown escape": b'{"prompt": "\\q"}',
        "comment": b'{"prompt": "a"} // why',
    }.items():
        yield f"JSON {name}", line, no_json, "PROMPT"
    for depth in (500, 900, 990, 100_000):
        line = b'{"prompt": "a", "x": ' + b"[" * depth + b"]" * depth + b"}"
        yield f"JSON nested {depth} deep", line, "the line is nested more than 256 deep", "PROMPT"
    extras = json.dumps("[" * 900 + "]" * 900).encode()
    yield "JSON text nested too deep", b'{"prompt": "a", "extras": ' + extras + b"}", "extras is nested more", "PROMPT"
    for name, value in {"list": b"[1]", "number": b"7", "text": b'"a"', "null": b"null", "true": b"true"}.items():
        yield f"JSON {name} for an object", value, r"the line is a JSON \w+, expected an object", "PROMPT"
    for name, raw in {
        "byte ff": b"\xff",
        "half a character": b"\xc3",
        "overlong": b"\xc0\xaf",
        "surrogate": b"\xed\xa0\x80",
        "Latin-1": "é".encode("latin-1"),
        "UTF-16": "prompt".encode("utf-16"),
    }.items():
        yield (
            f"not UTF-8: {name}",
            b'{"prompt": "' + raw + b'"}',
            "the line is not UTF-8|the line is not JSON",
            "PROMPT",
        )


def _types() -> Iterator[RowCase]:
    for name, value in _NO_TEXT.items():
        yield f"prompt is {name}", {"prompt": value}, "prompt is a .*expected text", "PROMPT"
        yield f"task is {name}", {"prompt": "a", "task": value}, "task is a .*expected text", "PROMPT"
        yield f"prompt_id is {name}", {"prompt": "a", "prompt_id": value}, "prompt_id is a .*expected text", "PROMPT"
    for key in ("images", "audios", "videos"):
        for name, value in {"text": "a.png", "number": 3, "object": {"path": "a"}, "true": True}.items():
            yield f"{key} is {name}", {"prompt": "a", key: value}, f"{key} is a .*expected a list", "PROMPT"
        for name, value in {"number": 3, "list": ["a"], "null": None}.items():
            yield (
                f"{key} holds {name}",
                {"prompt": "a", key: [value]},
                rf"{key}\[0\] is .*expected (text|media)",
                "PROMPT",
            )
    for name, value in {"text": "a", "number": 3, "list": [1]}.items():
        yield f"extras is {name}", {"prompt": "a", "extras": value}, "extras is", "PROMPT"
    yield (
        "extras twice",
        {"prompt": "a", "truth": 1, "extras": {"truth": 2}},
        "stands in the row and in its extras",
        "PROMPT",
    )
    yield "modality of another kind", {"prompt": "a", "modality": "image"}, "modality is 'image' but", "PROMPT"
    yield (
        "media_ids without media.parquet",
        {"prompt": "a", "media_ids": ["x"]},
        "media_ids needs a media.parquet",
        "PROMPT",
    )
    yield "prompt_id empty", {"prompt": "a", "prompt_id": ""}, "prompt_id is empty", "PROMPT"
    yield "prompt_id twice", {"prompt": "another question", "prompt_id": "good"}, "names another prompt in", "PROMPT"
    half = "half a character"
    yield "surrogate in prompt", {"prompt": "a \ud800 b"}, half, "PROMPT"
    yield "surrogate in task", {"prompt": "a", "task": "\udfff"}, half, "PROMPT"
    yield "surrogate in prompt_id", {"prompt": "a", "prompt_id": "\ud83d"}, half, "PROMPT"
    yield "surrogate in extras", {"prompt": "a", "truth": ["\ud800"]}, half, "PROMPT"
    yield "surrogate in a key", {"prompt": "a", "\ud800": 1}, half, "PROMPT"
    yield "surrogate in response", {"prompt": "a", "response": "\ude00"}, half, "DEMONSTRATION"
    yield "surrogate in chosen", {"prompt": "a", "chosen": "\ude00", "rejected": "b"}, half, "PREFERENCE"


def _messages() -> Iterator[RowCase]:
    def case(name: str, messages: Any, reason: str) -> RowCase:
        return f"messages: {name}", {"messages": messages}, reason, "PROMPT"

    user = {"role": "user", "content": "hi"}
    yield "neither messages nor prompt", {"task": "a"}, "expected messages or prompt, got neither", "PROMPT"
    yield "messages and prompt", {"messages": [user], "prompt": "a"}, "expected messages or prompt, got both", "PROMPT"
    yield case("text", "hello", "messages is not JSON")
    yield case("number", 3, "messages is a int, expected a non-empty list")
    yield case("object", user, "messages is a dict")
    yield case("none", [], "messages is empty")
    yield case("text for a message", ["hi"], r"messages\[0\] is")
    yield case("no content", [{"role": "user"}], r"messages\[0\] is")
    yield case("keys too many", [user | {"name": "x"}], r"messages\[0\] is")
    yield case("unknown role", [{"role": "tool", "content": "a"}], "role is 'tool'")
    yield case("role of another type", [{"role": 3, "content": "a"}], "role is 3")
    yield case("system late", [user, {"role": "system", "content": "a"}, user], "role is 'system'")
    yield case("answer last", [user, {"role": "assistant", "content": "a"}], "the last message is from assistant")
    yield case("content number", [{"role": "user", "content": 3}], "content is a int")
    yield case("content empty", [{"role": "user", "content": ""}], "content is empty")
    yield case("content of no parts", [{"role": "user", "content": []}], "content is empty")

    def part(name: str, value: Any, reason: str, role: str = "user") -> RowCase:
        first = [{"role": role, "content": [value]}]
        return case(f"part {name}", first if role == "user" else [*first, user], reason)

    yield part("text alone", "hi", "has no type")
    yield part("no type", {"text": "hi"}, "has no type")
    yield part("unknown type", {"type": "smell"}, "has type 'smell'")
    yield part("type of another type", {"type": ["text"]}, "has type")
    yield part("text without text", {"type": "text"}, "has keys")
    yield part("text of another type", {"type": "text", "text": 3}, "expected text")
    yield part("text with more", {"type": "text", "text": "a", "image": "b"}, "has keys")
    yield part("image with text", {"type": "image", "text": "a"}, "has keys")
    yield part("image of a number", {"type": "image", "image": 3}, "expected text")
    yield part("image of the system", {"type": "image", "image": "a.png"}, r"\(system\) shows a image", "system")
    yield part("surrogate", {"type": "text", "text": "\udc00"}, "half a character")


def _placeholders() -> Iterator[RowCase]:
    lists = {"image": "images", "audio": "audios", "video": "videos"}
    for kind, key in lists.items():
        few, many = f"1 {kind} placeholder.*for 0 file", f"1 {kind} placeholder.*for 2 file"
        yield f"<{kind}> without a file", {"prompt": f"<{kind}> a"}, few, "PROMPT"
        yield f"<{kind}> with two files", {"prompt": f"<{kind}> a", key: ["a", "b"]}, many, "PROMPT"
        yield (
            f"two <{kind}> with one file",
            {"prompt": f"<{kind}><{kind}>", key: ["a"]},
            f"2 {kind} .*for 1 file",
            "PROMPT",
        )
        part = [{"role": "user", "content": [{"type": kind}]}]
        yield f"{kind} part without a file", {"messages": part}, few, "PROMPT"
        yield f"{kind} part with two files", {"messages": part, key: ["a", "b"]}, many, "PROMPT"
        text = [{"role": "user", "content": "a"}]
        yield f"{key} without a part", {"messages": text, key: ["a"]}, f"0 {kind} placeholder.*for 1 file", "PROMPT"
        named = [{"role": "user", "content": [{"type": kind, kind: "a"}]}]
        yield f"{kind} named twice", {"messages": named, key: ["a"]}, f"0 {kind} placeholder.*for 1 file", "PROMPT"
        for other, other_key in lists.items():
            if other != kind:
                row = {"prompt": f"<{kind}> a", other_key: ["a"]}
                yield f"<{kind}> for {other_key}", row, "1 .*for 0 file|0 .*for 1 file", "PROMPT"
    yield (
        "media in an answer",
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]},
                {"role": "user", "content": "b"},
            ]
        },
        r"\(assistant\) shows a image",
        "PROMPT",
    )


def _answers() -> Iterator[RowCase]:
    ask = {"prompt": "a"}
    yield "no response", ask, "response is missing", "DEMONSTRATION"
    yield "response empty", ask | {"response": ""}, "response is empty", "DEMONSTRATION"
    for name, value in _NO_TEXT.items():
        yield f"response is {name}", ask | {"response": value}, "response is a .*expected text", "DEMONSTRATION"
        yield f"chosen is {name}", ask | {"chosen": value, "rejected": "b"}, "chosen is a .*expected text", "PREFERENCE"
    yield "no chosen", ask | {"rejected": "b"}, "chosen is missing", "PREFERENCE"
    yield "no rejected", ask | {"chosen": "b"}, "rejected is missing", "PREFERENCE"
    yield "chosen as rejected", ask | {"chosen": "b", "rejected": "b"}, "the same text", "PREFERENCE"
    for key, row, schema in (
        ("feedback", ask | {"response": "b"}, "DEMONSTRATION"),
        ("margin", ask | {"chosen": "b", "rejected": "c"}, "PREFERENCE"),
    ):
        for name, value in {"text": "1", "list": [1], "true": True, "1e300": 1e300, "10⁴⁰": 10**40}.items():
            yield f"{key} is {name}", row | {key: value}, f"{key} is .*expected a finite number", schema
    line = b'{"prompt": "a", "chosen": "b", "rejected": "c", "margin": NaN}'
    yield "margin is NaN", line, "the line is not JSON: NaN is no JSON number", "PREFERENCE"
    yield "margin overflows", line.replace(b"NaN", b"1e999"), "margin is inf, expected a finite number", "PREFERENCE"


def _judgements() -> Iterator[RowCase]:
    def case(name: str, reason: str, **more: Any) -> RowCase:
        row = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]} | more
        return f"ranking: {name}", row, reason, "RANKING"

    yield case("no responses", "responses has 0", responses=[])
    yield case("one response", "responses has 1", responses=["b"])
    yield case("text for responses", "responses is a str", responses="b")
    yield case("number among responses", r"responses\[1\] is a int", responses=["b", 3])
    yield case("a response twice", "more than once", responses=["b", "b"])
    yield case("surrogate", "half a character", responses=["b", "\ud800"])
    wrong = {"few": [1], "many": [1, 2, 3], "zero": [0, 1], "text": ["1", "2"], "half": [1.5, 2], "true": [True, 2]}
    for name, ranks in (wrong | {"huge": [1, 2**31], "number": 1}).items():
        yield case(f"ranks {name}", "ranks is .*expected a whole number", ranks=ranks)
    yield case("no judgement", "neither ranks nor a rating", ranks=[])
    yield case("aspects list", "aspects is a list", aspects=[1])
    yield case("aspects text", "aspects is not JSON", aspects="wit")
    yield case("ratings number", r"aspects\['wit'\] is", aspects={"wit": 3})
    yield case("ratings few", r"aspects\['wit'\] is 1 entries", aspects={"wit": [3]})
    yield case("rating text", r"aspects\['wit'\]\[0\] is '3'", aspects={"wit": ["3", 4]})
    yield case("nothing rated", "neither ranks nor a rating", ranks=[], aspects={"wit": [None, None]})
