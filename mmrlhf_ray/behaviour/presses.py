"""Keys pressed while a clip plays, as comparisons of short parts of the clip.

Knox and Stone, "Interactively Shaping Agents via Human Reinforcement: The TAMER Framework" (2009), predict each press;
here a part that was called good is better than one that was not, and that is better than one that was called bad, so
that presses teach the same reward models as votes on pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.behaviour.segments import Clip, Replay, Segment

Range = tuple[float, float]
"""Start and end in seconds of the clip."""


@dataclass(frozen=True)
class Pressed:
    """One annotator's presses on one clip."""

    answer_id: str
    clip: str
    annotator: str
    good: tuple[Range, ...]
    bad: tuple[Range, ...]


def comparisons(pressed: Pressed, clip: Clip, part_s: float, frames_per_second: float) -> list[tuple[Clip, Clip]]:
    """(better, worse) parts of a clip, all of `part_s` seconds. Chance hangs on the answer alone.

    Each good part is compared with a bad one and with one that nothing was pressed on, each bad part with one that
    nothing was pressed on; where both keys were pressed, nothing is.
    """
    steps = len(clip.segment)
    length = min(max(1, round(part_s * frames_per_second)), steps)

    def starts(ranges: Iterable[Range]) -> list[int]:
        ends = (int(np.clip(round(end * frames_per_second), length, steps)) for _, end in ranges)
        return sorted({end - length for end in ends})

    good, bad = starts(pressed.good), starts(pressed.bad)
    plain = [s for s in range(0, steps - length + 1, length) if all(abs(s - p) >= length for p in (*good, *bad))]
    good, bad = [s for s in good if s not in bad], [s for s in bad if s not in good]
    rng = np.random.default_rng(list(pressed.answer_id.encode()))
    chosen = [(s, _any(others, rng)) for s in good for others in (bad, plain) if others]
    chosen += [(_any(plain, rng), s) for s in bad if plain]
    return [(_part(clip, better, length), _part(clip, worse, length)) for better, worse in chosen]


def _any(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]


def _part(clip: Clip, start: int, length: int) -> Clip:
    steps = slice(start, start + length)
    segment = Segment({name: v[steps] for name, v in clip.segment.observations.items()}, clip.segment.actions[steps])
    played = len(clip.replay.actions) - len(clip.segment) + start + length
    return Clip(segment, Replay(clip.replay.seed, clip.replay.actions[:played], length))
