"""What the examples of rows are made of."""

from typing import Any

import pytest

from mmrlhf_ray.data.formats import Kind

Row = dict[str, Any]

ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}]
TAGGED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhich digit?"}]}]
SEVEN = [{"role": "assistant", "content": [{"type": "text", "text": "Seven."}]}]
ONE = [{"role": "assistant", "content": "One."}]
CHAT = [{"role": "user", "content": "a"}]
FILLED = [{"type": "image", "text": None}, {"type": "text", "text": "Which digit?"}]
PNG = {"bytes": b"\x89PNG", "path": "7.png"}


def example(name: str, kind: Kind, row: Row, expected: Row) -> Any:
    return pytest.param(name, kind, row, expected, id=f"{name}-{kind.lower()}-{len(row)}")


RESPONSES = {"response_1": "One.", "response_2": "Seven."}
