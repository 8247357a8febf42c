"""Whether the place or the length of a response decides: over all, by task and by annotator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.labels.agreement import by_annotators


@dataclass(frozen=True)
class Bias:
    """Shares of decided pairs and rankings, with Wilson's 95 % interval; without bias 0.5, None where nothing counts.

    One comparison of each annotation, so that they are independent: of a ranking the response shown first with the one
    shown last, and its longest with its shortest. Ties, both bad and equal lengths are left out.
    """

    annotator_id: str
    """"" = all."""
    task: str
    """"" = all."""
    first: Interval | None
    """The response shown first, in pairs the left one, is better."""
    first_votes: int
    longer: Interval | None
    """The one with more characters is better. Longer responses may well be better ones: compare people, or tasks."""
    longer_votes: int


def leans(share: Interval | None) -> bool:
    """Whether the interval leaves 0.5 out."""
    return share is not None and not share.low <= 0.5 <= share.high


def biases(annotations: Sequence[Annotation], tasks: Mapping[str, str]) -> list[Bias]:
    """Of everybody together, then of each task, then of each annotator; reviewers' decisions are left out.

    `tasks`: prompt_id → task.
    """
    ranked = [annotation for annotation in by_annotators(annotations) if annotation.ranks]
    by_task = {tasks[annotation.prompt_id] for annotation in ranked}
    found = [_bias("", "", ranked)]
    for task in sorted(by_task):
        found.append(_bias("", task, [a for a in ranked if tasks[a.prompt_id] == task]))
    for who in sorted({annotation.annotator_id for annotation in ranked}):
        found.append(_bias(who, "", [a for a in ranked if a.annotator_id == who]))
    return found


def _bias(who: str, task: str, ranked: Sequence[Annotation]) -> Bias:
    first = [won for annotation in ranked if (won := _better(annotation, *_ends(annotation))) is not None]
    longer = [won for annotation in ranked if (won := _longer_is_better(annotation)) is not None]
    return Bias(who, task, _share(first), len(first), _share(longer), len(longer))


def _share(won: Sequence[bool]) -> Interval | None:
    return wilson_interval(sum(won), len(won)) if won else None


def _ends(annotation: Annotation) -> tuple[int, int]:
    """The responses shown first and last."""
    return annotation.order_shown[0], annotation.order_shown[-1]


def _better(annotation: Annotation, one: int, other: int) -> bool | None:
    """Whether response `one` is better than `other`; None for a tie."""
    a, b = annotation.ranks[one], annotation.ranks[other]
    return None if a == b else a < b


def _longer_is_better(annotation: Annotation) -> bool | None:
    lengths = [len(text) for text in annotation.responses]
    longest, shortest = lengths.index(max(lengths)), lengths.index(min(lengths))
    return None if lengths[longest] == lengths[shortest] else _better(annotation, longest, shortest)
