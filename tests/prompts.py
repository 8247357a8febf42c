"""An encoder without a pool around it."""

from typing import Any


def check_prompts(encoder: Any) -> int:
    """Have it check all prompts and serve those that are right; how many there are."""
    return int(encoder.begin(encoder.find_bad(0, 1), 1, True).rows)
