"""Which prompts are sampled when their turn comes, by how often they were solved."""

import json
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import PPOConfig, SelectionConfig
from mmrlhf_ray.rollout.selection import PassRates, Selection, draw_probability

REWARD = {"name": "r", "kind": "function", "function": "accuracy"}


def settings(**keys: Any) -> SelectionConfig:
    return SelectionConfig.model_validate({"solved_at": 1.0, **keys})


@pytest.mark.parametrize(
    ("keys", "rate", "progress", "probability"),
    [
        ({"order": "frontier"}, None, 0.0, 1.0),
        ({"order": "frontier"}, 0.5, 0.0, 1.0),
        ({"order": "frontier"}, 0.25, 0.9, 0.75),
        ({"order": "frontier"}, 0.75, 0.0, 0.75),
        ({"order": "frontier"}, 0.0, 0.0, 0.1),
        ({"order": "frontier", "solved_rate": 0.5}, 1.0, 0.0, 0.05),
        ({"order": "frontier", "at_least": 0.9}, 0.25, 0.0, 0.9),
        ({"solved_rate": 0.25}, 1.0, 0.0, 0.25),
        ({"solved_rate": 0.25}, 0.875, 0.0, 1.0),
        # c₀ = 0.3: at first failures of up to 0.3, all from half of the run on; √(0.5 · 0.91 + 0.09) = 0.738 between.
        ({"order": "easy_first"}, 0.7, 0.0, 1.0),
        ({"order": "easy_first"}, 0.65, 0.0, 0.1),
        ({"order": "easy_first"}, 0.27, 0.25, 1.0),
        ({"order": "easy_first"}, 0.26, 0.25, 0.1),
        ({"order": "easy_first"}, 0.0, 0.5, 1.0),
        ({"order": "easy_first"}, 0.0, 1.0, 1.0),
    ],
)
def test_the_probability_of_a_prompt(
    keys: dict[str, Any], rate: float | None, progress: float, probability: float
) -> None:
    assert draw_probability(rate, settings(**keys), progress) == pytest.approx(probability)


def test_prompts_are_taken_as_often_as_their_probability_says() -> None:
    rates = {"easy": 1.0, "half": 0.5, "hard": 0.0, "quarter": 0.25}
    selection = Selection(settings(order="frontier", solved_rate=0.5), 3, 10_000, PassRates(rates))
    taken = Counter[str]()
    for position in range(8000):
        name = [*rates, "new"][position % 5]
        taken[name] += selection.takes(name, position, 0.0)
    assert taken["half"] == taken["new"] == 1600
    shares = {name: count / 1600 for name, count in taken.items()}
    assert shares == pytest.approx({"easy": 0.05, "half": 1, "hard": 0.1, "quarter": 0.75, "new": 1}, abs=0.03)


def test_the_dice_hang_on_seed_and_position_alone() -> None:
    def decisions(seed: int, positions: list[int]) -> dict[int, bool]:
        selection = Selection(settings(order="frontier"), seed, 10_000, PassRates({"p": 0.2}))
        return {position: selection.takes("p", position, 0.0) for position in positions}

    forward = decisions(1, list(range(100)))
    assert decisions(1, list(range(99, -1, -1))) == forward
    assert decisions(2, list(range(100))) != forward


def test_the_last_visit_counts_and_what_has_no_score_does_not() -> None:
    selection = Selection(settings(solved_at=0.5, solved_rate=0.5), 0, 10, PassRates())
    selection.note("a", [0.5, 0.4, 1.0, 0.0])
    selection.note("b", [0.9, 0.5])
    selection.note("b", [])
    selection.note("c", [0.0])
    assert selection.known.rates == {"a": 0.5, "b": 1.0, "c": 0.0}
    selection.note("b", [0.0, 0.5])
    assert selection.known.rates["b"] == 0.5


def test_when_everything_is_solved_an_epoch_is_skipped_and_no_more() -> None:
    selection = Selection(settings(solved_rate=0.0), 0, 3, PassRates(dict.fromkeys("abc", 1.0)))
    taken = [selection.takes("abc"[position % 3], position, 0.0) for position in range(9)]
    assert taken == [False, False, False, True, False, False, False, True, False]
    assert selection.exhausted == 2
    again = Selection(settings(solved_rate=0.0), 0, 3, PassRates.from_dict(json.loads(saved(selection))))
    assert [again.takes("a", position, 0.0) for position in range(9, 12)] == [False, False, True]


def saved(selection: Selection) -> str:
    return json.dumps(selection.known.to_dict())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "takes every prompt"),
        ({"at_least": 0.2, "solved_rate": 0.5}, "at_least has no effect with order=as_it_comes"),
        ({"competence": 0.2, "order": "frontier"}, "competence has no effect with order=frontier"),
        ({"order": "hard_first"}, "easy_first"),
    ],
)
def test_settings_without_an_effect_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**keys)


@pytest.mark.parametrize(
    ("rewards", "selection", "message"),
    [
        ([REWARD], {"reward": "x"}, r"selection.reward expects one of \['r'\], got 'x'"),
        ([{"name": "f", "kind": "fluency"}], {}, "needs a reward other than fluency"),
        ([REWARD | {"normalise": True}], {}, r"whose scale moves with r"),
        ([REWARD | {"normalise": True}], {"reward": "r"}, None),
    ],
)
def test_solved_at_is_compared_with_numbers_that_stay_what_they_are(
    rewards: list[dict[str, Any]], selection: dict[str, Any], message: str | None
) -> None:
    keys = {
        "name": "x",
        "policy": {"path": "p"},
        "data": {"path": "d"},
        "rewards": rewards,
        "selection": {"solved_at": 1.0, "order": "frontier"} | selection,
    }
    if message is None:
        assert PPOConfig.model_validate(keys).selection is not None
    else:
        with pytest.raises(ValidationError, match=message):
            PPOConfig.model_validate(keys)
