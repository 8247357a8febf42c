"""Tokens of a response with a colour each for its advantage, its KL and its mismatch. Classes are in runs.css.j2."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MEASURES = ("advantage", "kl", "mismatch")
"""What tokens can be coloured by."""
LEVELS = 4
"""Strengths of colour on either side of none."""
_TYPICAL = 0.95
"""Quantile of the sizes that gets the strongest colour, so that one outlier does not make the others pale."""
_FAINT = 1e-6
"""Sizes below are rounding."""


@dataclass(frozen=True)
class Token:
    """One token of a response."""

    text: str
    sampled: bool
    """By the policy, and trained on."""
    levels: tuple[int, int, int]
    """Of each of MEASURES, from -LEVELS to LEVELS."""
    said: str
    """What is known of it, in words."""


Scale = tuple[float, float, float]
"""Size that has the strongest colour, of each of MEASURES."""


def token_scale(rows: Iterable[Mapping[str, Any]]) -> Scale:
    """The scale that RESPONSE rows which are shown together share; 0 where nothing is known of a measure."""
    sizes: tuple[list[np.ndarray], ...] = ([], [], [])
    for row in rows:
        for own, values in zip(sizes, _measured(row), strict=True):
            own.append(np.abs(values[np.isfinite(values)]))
    typical = [np.concatenate([np.empty(0), *own]) for own in sizes]
    first, second, third = (float(np.quantile(one, _TYPICAL)) if len(one) else 0.0 for one in typical)
    return first, second, third


def tokens_of(row: Mapping[str, Any], scale: Scale) -> tuple[Token, ...]:
    """The tokens of a RESPONSE row; none where they were not kept."""
    measured = _measured(row)
    mask = row["response_mask"] or []
    return tuple(
        Token(
            text,
            bool(mask[i]),
            (_level(measured[0][i], scale[0]), _level(measured[1][i], scale[1]), _level(measured[2][i], scale[2])),
            _said(row, [float(values[i]) for values in measured], i),
        )
        for i, text in enumerate(row["tokens"] or [])
    )


def _measured(row: Mapping[str, Any]) -> Sequence[np.ndarray]:
    """Advantage; log p before the update less log p of the reference; the same less the sampler's. [T] each, NaN for
    tokens that were not sampled."""
    names = ("advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs")
    advantages, old, reference, sampled = (np.array(row[name] or [], np.float64) for name in names)
    own = np.array(row["response_mask"] or [], bool)
    measures = (advantages, np.where(np.isfinite(old), old, sampled) - reference, old - sampled)
    return [np.where(own, values, math.nan) for values in measures]


def _level(value: float, scale: float) -> int:
    if not math.isfinite(value) or abs(value) < _FAINT or scale < _FAINT:
        return 0
    return int(math.copysign(min(LEVELS, math.ceil(LEVELS * abs(value) / scale)), value))


def _said(row: Mapping[str, Any], measured: Sequence[float], number: int) -> str:
    parts = [f"p {math.exp(row['rollout_logprobs'][number]):.3g}"] if row["response_mask"][number] else []
    parts += [f"{name} {value:+.3g}" for name, value in zip(MEASURES, measured, strict=True) if math.isfinite(value)]
    if math.isfinite(ratio := row["ratios"][number]):
        parts.append(f"ratio {ratio:.4g}")
    return ", ".join(parts)
