"""The reward of both sides of vs_trl; TRL's convention."""

from typing import Any


def vowels(completions: list[Any], **_: Any) -> list[float]:
    """Share of vowels in each response."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]
