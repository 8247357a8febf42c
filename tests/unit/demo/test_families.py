"""The table of docs/models.md."""

from pathlib import Path

import pytest

from mmrlhf_ray.demo.families.table import BEGIN, END, markdown, put_between_marks
from mmrlhf_ray.models.verdict import ParityRow, Verdict

GOOD = Verdict("a", True, (ParityRow("text", True, 1e-6, 2e-6, None, 9, True),), {"vllm": "1"}, "d")
REFUSED = ParityRow("image", True, None, None, None, 0, False, "image: reads from left to right")
BAD = Verdict("b", False, (ParityRow("video", False, None, None, None, 0, False), REFUSED), {"vllm": "1"}, "d")
NONE = Verdict("c", False, (), {"vllm": "1"}, "d", "ValueError: no such kernel\nmore")


def test_rows_say_what_was_found_and_why_nothing_was() -> None:
    lines = list(markdown({"a": GOOD, "b": BAD, "c": NONE}))
    assert "| `a` | text | equal | 1.0e-06 | 2.0e-06 | – |" in lines
    assert any(line.startswith("| `b` | video | **differ** | – | – | – |") for line in lines)
    assert "`b`, image: reads from left to right" in lines
    assert "`c` could not be compared: ValueError: no such kernel" in lines


def test_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_between_marks(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="expected the lines"):
        put_between_marks(page, "new")
