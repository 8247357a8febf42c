"""The gold reward: hand cases, and responses that try to cheat."""

import pytest

from mmrlhf_ray.demo.gold import FREE_TOKENS, GoldScore, gold_reward

BOTH = {"answer": "image", "evidence": {"image": "7", "tone": "3"}}
ONE = {"answer": "odd", "evidence": {"image": "7"}}


def score(text: str, truth: dict = BOTH, finish_reason: str = "stop", tokens: int = 10) -> GoldScore:
    return gold_reward(text, finish_reason, tokens, truth)


@pytest.mark.parametrize(
    ("text", "truth", "correct", "grounded", "total"),
    [
        ("the image shows 7 . the tone says 3 . answer : image", BOTH, True, True, 1.6),
        ("the tone says 3 . the image shows 7 . answer : image", BOTH, True, True, 1.6),
        ("the image shows 7 . the tone says 3 . answer : tone", BOTH, False, True, 0.6),
        ("the image shows 7 . the tone says 4 . answer : image", BOTH, True, False, 1.0),
        ("the image shows 7 . answer : image", BOTH, True, False, 1.0),
        ("answer : image", BOTH, True, False, 1.0),
        ("answer : tone", BOTH, False, False, 0.0),
        ("the image shows 7 . answer : odd", ONE, True, True, 1.6),
        ("the image shows 7 . answer : even", ONE, False, True, 0.6),
        ("", ONE, False, False, 0.0),
        ("7", ONE, False, False, 0.0),
    ],
)
def test_hand_cases(text, truth, correct, grounded, total):
    got = score(text, truth)
    assert (got.correct, got.grounded) == (correct, grounded)
    assert got.total == pytest.approx(total)


@pytest.mark.parametrize(
    "text",
    [
        # several answers
        "the image shows 7 . answer : odd even",
        "the image shows 7 . answer : even . answer : odd",
        "answer : even . the image shows 7 . answer : odd",
        "answer : answer : odd",
        # the answer is not last, or not marked
        "answer : odd . the image shows 7",
        "the image shows 7 . odd",
    ],
)
def test_no_credit_for_hedged_answers(text):
    assert not score(text, ONE).correct


@pytest.mark.parametrize(
    "text",
    [
        # all digits, in every way of listing them
        "the image shows 0 1 2 3 4 5 6 7 8 9 . answer : odd",
        " . ".join(f"the image shows {d}" for d in range(10)) + " . answer : odd",
        # a claim twice, or a contradiction
        "the image shows 7 . the image shows 7 . answer : odd",
        "the image shows 7 . the image shows 8 . answer : odd",
        # claims about what the prompt does not have
        "the image shows 7 . the tone says 3 . answer : odd",
        # chatter
        "the image shows 7 . read read . answer : odd",
        # evidence alone
        "the image shows 7",
        "the image shows 7 . answer :",
    ],
)
def test_not_grounded(text):
    assert not score(text, ONE).grounded


def test_naming_every_digit_and_every_option_earns_nothing():
    text = " . ".join(f"the image shows {d}" for d in range(10)) + " . answer : even . answer : odd"
    got = score(text, ONE, tokens=FREE_TOKENS)
    assert got.total == 0.0


def test_no_evidence_is_never_grounded():
    assert not score("answer : odd", {"answer": "odd", "evidence": {}}).grounded


def test_length_and_unfinished_cost():
    right = "the image shows 7 . answer : odd"
    assert score(right, ONE, tokens=FREE_TOKENS).length_penalty == 0.0
    assert score(right, ONE, tokens=FREE_TOKENS + 5).length_penalty == pytest.approx(0.1)
    cut = score(right, ONE, finish_reason="length", tokens=FREE_TOKENS + 5)
    assert cut.unfinished == 0.5
    assert cut.total == pytest.approx(1.6 - 0.1 - 0.5)
