"""Everything that people read in the feedback pages is in every catalogue, and nothing else is."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from mmrlhf_ray.feedback.app.templating import environment
from mmrlhf_ray.feedback.app.wording import ACTIONS
from tests.contracts.catalogue import LANGUAGES, ROOM, placeholders, said, texts, translated

TEMPLATES = sorted((ROOM / "app" / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOM / "app" / "static").glob("*.js"))
_UPDATE = "run: python -m tests.contracts.catalogue, then translate what is new"
_READ_OUT = ("aria-label", "title", "alt", "placeholder")
"""Attributes whose values people read or hear."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_message_is_missing_and_none_is_left_over(language: str) -> None:
    wanted, found = (
        {message.id for message in catalogue if message.id} for catalogue in (said(), translated(language))
    )
    assert wanted - found == set(), _UPDATE
    assert found - wanted == set(), _UPDATE
    assert len(wanted) > 250


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_is_translated_with_its_placeholders(language: str) -> None:
    for message in translated(language):
        original = message.id if isinstance(message.id, tuple) else (message.id,)
        for text in texts(message) if message.id else ():
            assert text.strip(), f"{message.id!r} has no translation"
            assert placeholders(text) == placeholders(original[-1]), message.id
            assert re.findall(r"</?\w+>", text) == re.findall(r"</?\w+>", original[-1]), message.id
        assert not message.fuzzy, message.id


class _Bare(HTMLParser):
    """Collects texts and attributes with letters in them. Keys are called the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside.append(tag)
        self.found += [value for name, value in attrs if name in _READ_OUT and value and _letters(value)]

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if _letters(data) and "kbd" not in self._inside:
            self.found.append(data.strip())


def _letters(text: str) -> bool:
    return any(char.isalpha() for char in text)


def bare_strings(source: str, templates: Environment) -> list[str]:
    """Texts of a template that no catalogue could translate: in its HTML, and in the expressions that it prints."""
    html, printed = [], []
    for output in templates.parse(source).find_all(nodes.Output):
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                html.append(node.data)
            else:
                html.append("0")
                printed += [text for text in _constants(node) if _letters(text)]
    parser = _Bare()
    parser.feed("".join(html))
    return parser.found + [text for text in printed if text not in ("left", "right")]


def _constants(node: nodes.Node) -> Iterator[str]:
    """Strings that an expression may print as they are."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, nodes.CondExpr | nodes.Concat | nodes.BinExpr):
        parts = [node.expr1, node.expr2] if isinstance(node, nodes.CondExpr) else list(node.iter_child_nodes())
        for part in parts:
            if part is not None:
                yield from _constants(part)
    elif isinstance(node, nodes.Filter | nodes.Getitem) and node.node is not None:
        yield from _constants(node.node)
    elif isinstance(node, nodes.Tuple):
        for item in node.items:
            yield from _constants(item)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_no_text_outside_the_catalogue(path: Path) -> None:
    assert bare_strings(path.read_text(), environment()) == []


@pytest.mark.parametrize(
    "source",
    [
        "<p>Hello</p>",
        '<button aria-label="Close it">×</button>',
        '{{ "item is" if left == 1 else "items are" }}',
        '{{ ("Good", "Bad")[place] }}',
        '{% if left %}<b title="Left {{ left }}"></b>{% endif %}',
    ],
)
def test_a_text_outside_the_catalogue_is_found(source: str) -> None:
    assert bare_strings(source, environment()) != []
    assert bare_strings("{% trans %}Hello{% endtrans %} <kbd>Enter</kbd> {{ name }}", environment()) == []


_SENTENCE = re.compile(r"""(?<![\w"'`])(["'`])([A-Z][^"'`\n]* [^"'`\n]*|[A-Z][\w ]*[.…!?])\1""")
_SHOWN = re.compile(
    r"""(?:textContent(?::| =)|say\(|Problem\(|"aria-label",)\s*(["'`])([^"'`\n]*[A-Za-z][^"'`\n]*)\1"""
)


def bare_script_strings(source: str) -> list[str]:
    """Sentences, and what is put into the page, that do not go through `_`."""
    code = re.sub(r"^\s*(?://|/?\*).*$|(?<=[\s;])// .*$", "", source, flags=re.M)
    code = re.sub(r"""\b_\(\s*(["'`]).*?\1""", "_(0", code)
    return [match[2] for pattern in (_SENTENCE, _SHOWN) for match in pattern.finditer(code)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_text_outside_the_catalogue(path: Path) -> None:
    assert bare_script_strings(path.read_text()) == []


@pytest.mark.parametrize(
    "source", ['say("Saved.");', 'make("a", { textContent: "Note" });', "const words = `No connection to ${it}`;"]
)
def test_a_text_of_a_script_outside_the_catalogue_is_found(source: str) -> None:
    assert bare_script_strings(source) != []
    assert bare_script_strings('say(_("Saved.")); // Never said\nfind("Escape");') == []


def test_every_action_of_the_audit_log_has_words() -> None:
    sources = "".join(path.read_text() for path in ROOM.rglob("*.py"))
    noted = set(re.findall(r"""\bnote\(session, [^"\n]*?"([a-z ]+)\"""", sources)) | {"login failed"}
    assert noted == set(ACTIONS)
