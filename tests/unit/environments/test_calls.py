"""What a turn calls: every format, and what is neither a call nor an answer."""

import pytest

from mmrlhf_ray.environments.calls import Answer, Call, Unparsable, format_of, parse, with_format
from tests.unit.environments.support import tools


def schema(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


NUMBER, WHOLE, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
BOX = {"type": "array", "prefixItems": [NUMBER] * 4, "minItems": 4, "maxItems": 4}
TOOLS = [
    schema("crop", ["box"], box=BOX, image=WHOLE),
    schema("frames", ["start", "end"], start=NUMBER, end=NUMBER, clip={"anyOf": [WHOLE, {"type": "null"}]}),
    schema("search", ["query"], query=TEXT),
    schema("now"),
]
CROP = Call("crop", {"box": [1, 2, 3, 4]})
HERMES = '<tool_call>\n{"name": "crop", "arguments": {"box": [1, 2, 3, 4]}}\n</tool_call>'
JSON = '{"name": "crop", "arguments": {"box": [1, 2, 3, 4]}}'


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("hermes", HERMES, (CROP,)),
        ("hermes", f"I look closer.\n{HERMES}\n{HERMES}", (CROP, CROP)),
        ("hermes", f"<think>{HERMES}</think>It is a 7.", Answer(f"<think>{HERMES}</think>It is a 7.")),
        ("hermes", f"<think>Well.</think>{HERMES}", (CROP,)),
        ("hermes", "It is a 7.", Answer("It is a 7.")),
        ("hermes", JSON, Answer(JSON)),
        ("hermes", '<tool_call>{"name": "now"}</tool_call>', (Call("now", {}),)),
        ("hermes", '<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}</tool_call>',
         (Call("search", {"query": "x"}),)),
        ("hermes", "<tool_call><function=crop>\n<parameter=box>\n[1, 2, 3, 4]\n</parameter>\n</function></tool_call>",
         (CROP,)),
        ("hermes", "<tool_call><function=search><parameter=query>\n12\n</parameter></function></tool_call>",
         (Call("search", {"query": "12"}),)),
        ("json", JSON, (CROP,)),
        ("json", f"First:\n```json\n{JSON}\n```", (CROP,)),
        ("json", f"{JSON}\n{JSON}", (CROP, CROP)),
        ("json", '{"name": "crop", "parameters": {"box": [1, 2, 3, 4]}}', (CROP,)),
        ("json", f'{{"type": "function", "function": {JSON}}}', (CROP,)),
        ("json", '{"name": "Alice", "age": 3}', Answer('{"name": "Alice", "age": 3}')),
        ("json", "The set {1, 2}.", Answer("The set {1, 2}.")),
        ("words", "crop 1 2 3 4", (CROP,)),
        ("words", " crop 1, 2, 3, 4\n", (CROP,)),
        ("words", "crop(1, 2, 3, 4)", (CROP,)),
        ("words", "crop [1, 2, 3, 4] 2", (Call("crop", {"box": [1, 2, 3, 4], "image": 2}),)),
        ("words", "crop a 2 3 4", (Call("crop", {"box": ["a", 2, 3, 4]}),)),
        ("words", "crop 1 2 3 4\nfrom here\nframes 0.5 1 2",
         (CROP, Call("frames", {"start": 0.5, "end": 1, "clip": 2}))),
        ("words", "search who, and when\ncrop it", (Call("search", {"query": "who, and when\ncrop it"}),)),
        ("words", "now", (Call("now", {}),)),
        ("words", "I crop 1 2 3 4", Answer("I crop 1 2 3 4")),
        ("words", "7", Answer("7")),
        ("words", "", Answer("")),
    ],
)  # fmt: skip
def test_a_turn_is_read(form, text, expected):
    assert parse(text, TOOLS, form) == expected


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        ("hermes", HERMES.removesuffix("</tool_call>"), "has no </tool_call>"),
        ("hermes", HERMES + '<tool_call>{"name', "has no </tool_call>"),
        ("hermes", JSON + "</tool_call>", "has no <tool_call>"),
        ("hermes", '<tool_call>{"name": "crop", "arg</tool_call>', "not JSON"),
        ("hermes", '<tool_call>{"name": "crp", "arguments": {}}</tool_call>', "no tool 'crp'; there are crop, frames"),
        ("hermes", "<tool_call>[1]</tool_call>", 'a call is {"name"'),
        ("hermes", '<tool_call>{"name": "crop", "arguments": [1]}</tool_call>', "must be an object"),
        ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON"),
        ("hermes", "<tool_call><function=crop><parameter=box></tool_call>", "is not closed"),
        ("json", JSON[:-1], "does not end"),
        ("json", JSON[:-9], "does not end"),
        ("json", '{"name": "crp", "arguments": {}}', "no tool 'crp'"),
        ("words", "crop 1 2 3", "box of crop needs 4 values, got 3"),
        ("words", "crop", "box is missing"),
        ("words", "frames 1", "end is missing"),
        ("words", "crop 1 2 3 4 5 6", "'6' is too much"),
        ("words", "now or never", "now takes nothing"),
    ],
)
def test_what_cannot_be_read_says_why(form, text, why):
    found = parse(text, TOOLS, form)
    assert isinstance(found, Unparsable)
    assert why in found.why


@pytest.mark.parametrize("text", ["{" * 20_000, '{"a":' * 20_000, "<tool_call>" * 5000, "crop " * 20_000])
@pytest.mark.parametrize("form", ["hermes", "json", "words"])
def test_rubbish_is_read_in_time(form, text):
    assert not isinstance(parse(text, TOOLS, form), tuple)


def test_the_chat_template_decides_the_format():
    assert format_of("{% if tools %}<tools>…</tools> … <tool_call>{% endif %}") == "hermes"
    assert format_of("{% if tools %}Use {{ tools | tojson }}{% endif %}") == "json"
    assert format_of("{% for message in messages %}…{% endfor %}") == "words"
    auto = tools("crop").model_copy(update={"call_format": "auto"})
    assert with_format(auto, "<tool_call>").call_format == "hermes"
    assert with_format(tools("crop"), "<tool_call>").call_format == "words"
