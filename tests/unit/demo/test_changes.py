"""What the demo's report says changed."""

import pytest

from mmrlhf_ray.demo.changes import group_changes, headline, overall_change, signed
from mmrlhf_ray.demo.gold import GoldScore
from mmrlhf_ray.demo.scoring import ScoredResponse


def responses(task: str, rights: list[bool]) -> list[ScoredResponse]:
    return [
        ScoredResponse(
            0, "p", "own", f"{task}{i}", task, "text", "", "stop", 1, 0.0, 0.0,
            GoldScore(correct=right, grounded=False, length_penalty=0.0, unfinished=0.0),
        )
        for i, right in enumerate(rights)
    ]  # fmt: skip


def test_differences_are_taken_prompt_by_prompt() -> None:
    before = responses("a", [True, False] * 20)
    after = responses("a", [True, True] * 20)
    change = overall_change(before, after).changes["accuracy"]
    assert (change.before, change.after, change.delta.estimate, change.direction) == (0.5, 1.0, 0.5, "better")
    assert change.delta.low > 0.3
    assert change.text.startswith("+0.500 [+0.")


def test_what_got_worse_comes_first_and_is_in_the_headline() -> None:
    before = responses("fine", [False] * 30) + responses("left_right", [True] * 30) + responses("as_before", [True] * 9)
    after = responses("fine", [True] * 30) + responses("left_right", [False] * 30) + responses("as_before", [True] * 9)
    tasks = group_changes(before, after, lambda response: response.task)
    assert [task.name for task in tasks] == ["left_right", "as_before", "fine"]
    assert [(task.n, len(task.worse)) for task in tasks] == [(30, 2), (9, 0), (30, 0)]
    said = headline(overall_change(before, after), tasks)
    assert said.startswith("PPO left the gold reward about where it was, from 0.565 to 0.565 (0.000 [")
    assert said.endswith("It got worse at left right (gold reward 1.000 → 0.000).")


def test_a_headline_without_regressions() -> None:
    before, after = responses("a", [False] * 9), responses("a", [True] * 9)
    tasks = group_changes(before, after, lambda response: response.task)
    assert headline(overall_change(before, after), tasks) == (
        "PPO raised the gold reward from 0.000 to 1.000 (+1.000 [+1.000, +1.000]); accuracy went from 0.000 to 1.000 "
        "(+1.000 [+1.000, +1.000]). No task got worse beyond chance."
    )


@pytest.mark.parametrize(("value", "text"), [(0.25, "+0.250"), (-0.25, "−0.250"), (-0.0001, "0.000")])
def test_signs(value: float, text: str) -> None:
    assert signed(value) == text
