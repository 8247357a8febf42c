"""Compares our losses, advantages, KL estimators and log-probabilities with those of other installed systems.

    pip install trl          # and, where they can be imported, verl and openrlhf
    python -m benchmarks.cross_check

The peers' own functions are called, as they were published, on random ragged rows in float64 and float32, and values
and gradients are compared. Peers are needed by this script alone: install them into an environment of their own that
has this package's requirements as well (verl wants an older transformers; OpenRLHF wants flash_attn and so a GPU). One
that cannot be imported is named and left out.

A line of the table is one function against one peer: the largest difference of a value or gradient, relative where the
peer's number is above 1. `agree` and `DIFFER` compare it with the tolerance, which is rounding, or the peer's own
epsilon where the line says so. Lines whose definitions differ are `by definition`, with the reason. Exit status 0: all
that should agree does; 1: something differs, or a peer's function can no longer be called; 2: no peer was found.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LENGTHS = (17, 1, 4, 9, 3, 12, 7, 2, 16, 5, 8, 11)
GROUP = 3
SEEDS = range(5)
ROUNDING = {torch.float64: 1e-12, torch.float32: 5e-6}

Values = Sequence[Tensor]

_CHANGED = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""Raised by a peer that is no longer called as this script calls it; the other lines are still compared."""


@dataclass(frozen=True)
class Rows:
    """Random responses, padded at the right; [B, T] unless stated otherwise. Groups of GROUP rows share a prompt."""

    mask: Tensor
    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    rollout_logprobs: Tensor
    advantages: Tensor
    values: Tensor
    old_values: Tensor
    returns: Tensor
    rewards: Tensor
    logits: Tensor
    """[B·T, 40]"""
    token_ids: Tensor
    """[B·T]"""
    groups: Tensor
    """[B]"""

    @property
    def tokens(self) -> float:
        return float(self.mask.sum())

    @property
    def longest(self) -> int:
        return self.mask.shape[1]

    def sums(self, values: Tensor) -> Tensor:
        """[B] over each response."""
        return (values * self.mask).sum(dim=1)

    def means(self, values: Tensor) -> Tensor:
        """[B] over each response."""
        return self.sums(values) / self.mask.sum(dim=1)


def random_rows(seed: int, dtype: torch.dtype) -> Rows:
    """The same numbers in both dtypes, but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))

    def draw(scale: float, size: tuple[int, ...] = shape) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64) * scale

    old = -draw(1.0).abs() - 0.1
    old_values = draw(1.0)
    return Rows(
        mask=torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None],
        logprobs=(old + draw(0.3)).clamp(max=-0.01).to(dtype),
        old_logprobs=old.to(dtype),
        ref_logprobs=(old + draw(0.4)).to(dtype),
        rollout_logprobs=(old + draw(0.5)).to(dtype),
        advantages=draw(1.0).to(dtype),
        values=(old_values + draw(0.4)).to(dtype),
        old_values=old_values.to(dtype),
        returns=draw(1.0).to(dtype),
        rewards=draw(1.0).to(dtype),
        logits=draw(3.0, (shape[0] * shape[1], 40)).to(dtype),
        token_ids=torch.randint(40, (shape[0] * shape[1],), generator=generator),
        groups=torch.arange(shape[0]) // GROUP,
    )


def with_gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """Value of `function(*leaves)`, and the gradient of its sum at each leaf."""
    own = [leaf.clone().requires_grad_() for leaf in leaves]
    value = function(*own)
    return [value.detach(), *torch.autograd.grad(value.sum(), own)]


@dataclass(frozen=True)
class Line:
    """One function of ours against a peer's."""

    peer: str
    name: str
    ours: Callable[[Rows], Values]
    theirs: Callable[[Rows], Values]
    epsilon: float = 0.0
    """Of the peer's, where it is more than rounding."""
    reason: str = ""
    """Why definitions differ; empty = they should agree."""


@dataclass(frozen=True)
class Outcome:
    """Largest difference in each dtype, and what it means."""

    line: Line
    gaps: dict[torch.dtype, float]
    error: str = ""

    @property
    def exact(self) -> bool:
        """To rounding."""
        return all(gap <= ROUNDING[dtype] for dtype, gap in self.gaps.items())

    @property
    def word(self) -> str:
        within = all(gap <= max(ROUNDING[dtype], self.line.epsilon) for dtype, gap in self.gaps.items())
        if self.error:
            return "ERROR"
        if self.line.reason:
            return "by definition" if not within else "agree by now"
        return "agree" if within else "DIFFER"

    @property
    def failed(self) -> bool:
        return self.word in ("ERROR", "DIFFER")


def gap(ours: Values, theirs: Values) -> float:
    """Largest difference, relative where the peer's number is above 1; infinite where something is not a number."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference = ((a.double() - b.double()).abs() / b.double().abs().clamp(min=1.0)).max().item()
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def compare(line: Line) -> Outcome:
    """Over all seeds and dtypes. A peer that can no longer be called is an outcome, not the end."""
    gaps = {}
    for dtype in ROUNDING:
        try:
            rows = [random_rows(seed, dtype) for seed in SEEDS]
            gaps[dtype] = max(gap(line.ours(r), line.theirs(r)) for r in rows)
        except _CHANGED as error:
            return Outcome(line, gaps, f"{type(error).__name__}: {error}")
    return Outcome(line, gaps)


def table(outcomes: Iterable[Outcome]) -> str:
    """For a terminal, one line each, reasons after it."""
    out = [f"{'peer':<9} {'function':<38} {'float64':>9} {'float32':>9}  outcome"]
    for o in outcomes:
        numbers = " ".join(f"{o.gaps[d]:>9.1e}" if d in o.gaps else f"{'':>9}" for d in ROUNDING)
        note = o.error or o.line.reason or ("within the peer's epsilon" if o.word == "agree" and not o.exact else "")
        out.append(f"{o.line.peer:<9} {o.line.name:<38} {numbers}  {o.word}{': ' + note if note else ''}")
    return "\n".join(out)


def main() -> int:
    from benchmarks.cross_check_peers import PEERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)}; all by default")
    chosen = parser.parse_args().peers or list(PEERS)
    if unknown := [name for name in chosen if name not in PEERS]:
        parser.error(f"peers expects some of {', '.join(PEERS)}, got {', '.join(unknown)}")
    outcomes = []
    for name in chosen:
        try:
            lines = PEERS[name]()
        except ImportError as error:
            print(f"{name}: left out, it cannot be imported: {error}")
            continue
        outcomes += [compare(line) for line in lines]
    if not outcomes:
        print("no peer can be imported; pip install trl")
        return 2
    print(table(outcomes))
    failed = sum(o.failed for o in outcomes)
    print(f"{len(outcomes)} lines: {sum(o.word == 'agree' for o in outcomes)} agree, {failed} should and do not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
