"""A cost as a user would write it: how long a response is. It runs in a process of its own, as users' functions do."""

from collections.abc import Sequence
from typing import Any


def response_length(
    prompts: Sequence[str], completions: Sequence[str], response_tokens: Sequence[int], **columns: Any
) -> list[float]:
    """Tokens of each response, the one that ends it counted."""
    return [float(tokens) for tokens in response_tokens]
