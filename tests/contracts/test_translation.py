"""README.zh-CN.md says what README.md says: the same blocks but for comments, the same headings, links and figures."""

import re
from collections import Counter

import pytest

from tests.contracts.pages import ROOT, blocks

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
_MESSAGE = "README.md and README.zh-CN.md differ; a change of one belongs into the other"


def _commands(text: str) -> list[str]:
    return [re.sub(r"\s+#.*$", "", line) for line in text.splitlines()]


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def test_blocks_are_the_same() -> None:
    english, chinese = blocks(ENGLISH), blocks(CHINESE)
    assert len(english) == len(chinese) > 8, _MESSAGE
    for one, other in zip(english, chinese, strict=True):
        assert one.language == other.language, f"{one} and {other}: {_MESSAGE}"
        assert _commands(one.text) == _commands(other.text), f"{one} and {other}: {_MESSAGE}"


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("headings by level", r"^(#+) "),
        ("links", r"\]\(((?!README)[^)]+)\)"),
        ("figures", r"−?\d+\.\d+"),
        ("commands and keys in the text", r"`((?:\.venv/bin/)?(?:mmrlhf|make|python|pip|source|tensorboard)[^`]*)`"),
    ],
)
def test_the_text_names_the_same(what: str, pattern: str) -> None:
    found = [Counter(re.findall(pattern, _prose(page.read_text()), re.M)) for page in (ENGLISH, CHINESE)]
    assert found[0], what
    assert found[0] - found[1] == found[1] - found[0] == Counter(), f"{what}: {_MESSAGE}"


def test_it_is_in_chinese_and_the_pages_lead_to_each_other() -> None:
    assert len(re.findall(r"[\u4e00-\u9fff]", CHINESE.read_text())) > 2500
    assert "(README.zh-CN.md)" in ENGLISH.read_text()
    assert "(README.md)" in CHINESE.read_text()
