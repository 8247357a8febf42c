"""Which tokens a correction changed."""

import random

import pytest

from mmrlhf_ray.algorithms.preference_loss import changed_tokens
from tests.golden.support import mutant


@pytest.mark.parametrize(
    ("chosen", "rejected", "want_chosen", "want_rejected"),
    [
        ([1, 2, 3], [1, 2, 3], "000", "000"),
        ([1, 2, 3], [1, 9, 3], "010", "010"),
        ([1, 2, 3, 4], [1, 4], "0110", "00"),  # left out: nothing of what is left differs
        ([1, 4], [1, 2, 3, 4], "00", "0110"),
        ([5, 1, 2], [1, 2, 7], "100", "001"),
        ([1, 2], [8, 9, 7], "11", "111"),
        ([], [1], "", "1"),
        ([1, 1], [1, 1, 1], "00", "001"),  # beginning and end may not overlap
        ([1, 1, 1], [1, 1], "001", "00"),
    ],
)
def test_by_hand(chosen, rejected, want_chosen, want_rejected):
    got = changed_tokens(chosen, rejected)
    assert ["".join("01"[on] for on in side) for side in got] == [want_chosen, want_rejected]


def test_what_is_unchanged_reads_the_same_on_both_sides():
    rng = random.Random(0)
    for _ in range(200):
        sides = [[rng.randrange(6) for _ in range(rng.randrange(12))] for _ in range(2)]
        common = [
            [token for token, on in zip(side, flags, strict=True) if not on]
            for side, flags in zip(sides, changed_tokens(*sides), strict=True)
        ]
        assert common[0] == common[1]


@pytest.mark.parametrize("wrong", [0, 1, 200, 448, 449])
def test_one_wrong_token_in_repetitive_text_is_all_that_changed(wrong):
    text = [0, 7, 1] * 150
    for flags in changed_tokens(text, [*text[:wrong], 99, *text[wrong + 1 :]]):
        assert [i for i, on in enumerate(flags) if on] == [wrong]


def _two_corrections() -> tuple[list[int], list[int]]:
    """450 tokens of a vocabulary of five, so that every one is frequent."""
    rng = random.Random(1)
    text = [rng.randrange(5) for _ in range(450)]
    return text, [*text[:100], 98, *text[101:350], 99, *text[351:]]


def test_frequent_tokens_are_no_noise():
    for flags in changed_tokens(*_two_corrections()):
        assert [i for i, on in enumerate(flags) if on] == [100, 350]


def test_treating_frequent_tokens_as_noise_would_be_caught():
    broken = mutant(changed_tokens, "autojunk=False", "autojunk=True")
    assert sum(broken(*_two_corrections())[0]) > 2
