"""Random batches, comparison, and mutants: the real source with one piece changed, which a golden test must catch."""

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """[B, T] tensors in float64 with a ragged mask; entries outside the mask are deliberately large."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    values: Tensor
    old_values: Tensor
    returns: Tensor
    rewards: Tensor
    mask: Tensor

    @property
    def tokens(self) -> float:
        return float(self.mask.sum())

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, int64 [B]."""
        return self.mask.sum(1)


def batch(seed: int = 0, lengths: tuple[int, ...] = (7, 1, 4, 5, 3, 6)) -> Batch:
    """Ragged rows: the mask starts at a different place in each row, and one row has a hole."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 9)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, row % 3 : row % 3 + length] = True
    mask[-1, 4] = False

    def draw(scale: float, shift: float = 0.0) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift
        return torch.where(mask, x, x * 3 + 5)

    old = draw(1.0, -2.0)
    old_values = draw(1.0)
    return Batch(
        logprobs=old + draw(0.3),
        old_logprobs=old,
        advantages=draw(1.0),
        values=old_values + draw(0.4),
        old_values=old_values,
        returns=draw(1.0),
        rewards=draw(1.0),
        mask=mask,
    )


def flat(x: Tensor, mask: Tensor) -> Tensor:
    """Tokens of [B, T] that the mask has, [N]."""
    return x[mask]


def grid(x: Tensor, mask: Tensor) -> Tensor:
    """The inverse of flat(), zero where the mask is false."""
    out = torch.zeros(mask.shape, dtype=x.dtype)
    out[mask] = x
    return out


def close(got: Tensor, want: Any) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def mutant(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """`function` with the one place in its source that reads `old` reading `new`."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__name__}: {old!r} occurs {source.count(old)} times, expected once"
    namespace = dict(vars(sys.modules[function.__module__]))
    exec(compile(source.replace(old, new), f"<mutant of {function.__name__}>", "exec"), namespace)
    return namespace[function.__name__]


def assert_caught(check: Callable[[Callable[..., Any]], None], broken: Callable[..., Any]) -> None:
    """The check passes for the real function (tested elsewhere) and must fail for the broken one."""
    with pytest.raises(AssertionError):
        check(broken)
