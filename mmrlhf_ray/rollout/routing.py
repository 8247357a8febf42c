"""Which generator a group goes to: of those that serve, the one with the least to do, media counted."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from mmrlhf_ray.data.batches.ragged import row_lengths

_FIRST_GUESS = 128.0
"""Tokens of a response, before any has been seen."""
_MEMORY = 0.99
"""Weight of what is known when another response comes in."""


class Routing:
    """Tokens that each generator is at work on. A group is counted when it starts and given back when it ends."""

    def __init__(self, generators: int, serving: int):
        """`generators`: that there may be; `serving`: of them, the first so many take groups from the start."""
        self._load = np.zeros(generators)
        self._serving = np.arange(generators) < serving
        self.response_tokens = _FIRST_GUESS
        """Expected length of a response: a moving mean of those that came."""

    @property
    def load(self) -> tuple[float, ...]:
        """Tokens by generator."""
        return tuple(self._load.tolist())

    @property
    def serving(self) -> tuple[int, ...]:
        """Numbers of the generators that take groups."""
        return tuple(np.flatnonzero(self._serving).tolist())

    def open(self, generators: Collection[int]) -> None:
        """These take groups from now on."""
        self._serving[list(generators)] = True

    def close(self, generators: Collection[int]) -> None:
        """These take no groups any more, until open()."""
        self._serving[list(generators)] = False

    def start(self, tokens: float, generator: int | None = None) -> int:
        """Count a group's tokens and return its generator: the given one, or the first of those that serve with the
        least load. Raises ValueError where none serves."""
        if generator is None and not self._serving.any():
            raise ValueError("no generator serves")
        chosen = int(np.where(self._serving, self._load, np.inf).argmin()) if generator is None else generator
        self._load[chosen] += tokens
        return chosen

    def finish(self, generator: int, tokens: float, lengths: np.ndarray) -> None:
        """Give back what start() counted. lengths [responses]: tokens of each response, none where it failed."""
        self._load[generator] = max(0.0, self._load[generator] - tokens)
        for length in lengths.tolist():
            self.response_tokens += (1.0 - _MEMORY) * (length - self.response_tokens)


def group_tokens(prompts: pa.Table, n_samples: int, response_tokens: float) -> float:
    """What these ENCODED_PROMPT rows cost in tokens: the prompt once, its media once more (they go through an encoder
    first), and each expected response."""
    expanded, collapsed = (row_lengths(prompts, name) for name in ("prompt_token_ids", "collapsed_token_ids"))
    return float((expanded + (expanded - collapsed)).sum() + len(prompts) * n_samples * response_tokens)
