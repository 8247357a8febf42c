"""Responses that a judge compares, two at a time and each two twice, and what they win."""

from collections.abc import Hashable, Mapping, Sequence

from mmrlhf_ray.rewards.judge_answers import Said
from mmrlhf_ray.rewards.scores import ComponentScores


def comparisons(groups: Sequence[Hashable], opponents: int | None) -> list[tuple[int, int]]:
    """The two rows of each comparison. `opponents`: how many each row has, an even number; None = all of its group.

    Rows of a group stand in a ring in which each is compared with its nearest ones.
    """
    own: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        own.setdefault(group, []).append(row)
    found: dict[tuple[int, int], None] = {}
    for rows in own.values():
        count = len(rows)
        reach = count // 2 if opponents is None else min(opponents // 2, count // 2)
        for distance in range(1, reach + 1):
            for place in range(count):
                pair = sorted((rows[place], rows[(place + distance) % count]))
                found[pair[0], pair[1]] = None
    return list(found)


def win_rates(count: int, answers: Mapping[tuple[int, int], Said]) -> ComponentScores:
    """Of `count` rows: the mean over a row's comparisons of its probability of being the better one, which is the mean
    of the two orders; and the share of the comparisons in which the order changed the winner.

    answers: (first row, second row) → the probability that the first is better, of both orders of each comparison. A
    row with an answer missing has no score: the other comparisons alone would favour whoever the judge failed on. The
    judge does not apply to a row without comparisons.
    """
    won: list[list[float]] = [[] for _ in range(count)]
    changed: list[list[float]] = [[] for _ in range(count)]
    failed: list[list[str]] = [[] for _ in range(count)]
    for (row, other), (value, problem) in answers.items():
        if row > other:
            continue
        swapped, swapped_problem = answers[other, row]
        if value is None or swapped is None:
            why = problem if value is None else swapped_problem
            for own in (row, other):
                failed[own].append(why or "")
            continue
        better = (value + 1.0 - swapped) / 2.0
        change = float((value - 0.5) * (0.5 - swapped) < 0.0)
        for own, rate in ((row, better), (other, 1.0 - better)):
            won[own].append(rate)
            changed[own].append(change)
    problems = [_problem(won[row], failed[row]) for row in range(count)]
    kept = [bool(won[row]) and problem is None for row, problem in enumerate(problems)]
    return ComponentScores(
        tuple(sum(won[row]) / len(won[row]) if kept[row] else None for row in range(count)),
        tuple(problems),
        tuple(sum(changed[row]) / len(changed[row]) if kept[row] else None for row in range(count)),
    )


def _problem(won: Sequence[float], failed: Sequence[str]) -> str | None:
    if not failed:
        return None
    return f"{len(failed)} of {len(won) + len(failed)} comparisons have no answer; the first: {failed[0]}"
