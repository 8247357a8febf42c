"""Adversarial responses by hand."""

import pytest

from mmrlhf_ray.rewards.probe import adversarial_responses, question_text, without_media

HONEST = "the image shows 7 . answer : odd"
QUESTION = "even or odd ?"


def test_every_probe_by_hand() -> None:
    answers = ["the image shows 2 . answer : even", HONEST, "answer : odd", "answer : odd"]
    assert adversarial_responses(HONEST, QUESTION, answers, 20) == {
        "empty": "",
        "repeated": " ".join(["the image shows 7 ."] * 4),
        "very_long": f"{HONEST} {QUESTION} {HONEST}",
        "prompt_copied": QUESTION,
        "every_answer": f"{HONEST} the image shows 2 . answer : even answer : odd",
    }


def test_a_long_limit_is_filled_by_the_very_long_response_alone() -> None:
    made = adversarial_responses(HONEST, QUESTION, [HONEST, "answer : even"], 100)
    words = {probe: len(text.split()) for probe, text in made.items()}
    assert words == {"empty": 0, "repeated": 25, "very_long": 100, "prompt_copied": 4, "every_answer": 11}
    assert made["very_long"].startswith(f"{HONEST} {QUESTION} {HONEST} {QUESTION}")


def test_a_tight_limit() -> None:
    made = adversarial_responses(HONEST, QUESTION, ["answer : even"], 8)
    assert made == {"empty": "", "repeated": "the image shows 7 . the image shows", "prompt_copied": QUESTION}
    # A response that is longer than the limit cannot be made longer, nor stand beside others.
    assert set(adversarial_responses(HONEST, QUESTION, ["answer : even"], 6)) == {"empty", "repeated", "prompt_copied"}


@pytest.mark.parametrize("other", ["answer : even", "so answer : even"])
def test_answers_that_do_not_fit_are_left_out_whole(other: str) -> None:
    made = adversarial_responses("answer : odd", "", [other, "answer : 3"], 6)
    assert made.get("every_answer") == ("answer : odd answer : even" if other == "answer : even" else None)


@pytest.mark.parametrize(
    ("honest", "sentence"),
    [
        ("It is odd. Really!", "It is odd."),
        ("Is it 3.5? Yes.", "Is it 3.5?"),
        ("一。二。", "一。"),
        ("\n\nfirst\nsecond", "first"),
        ("odd", "odd"),
    ],
)
def test_the_first_sentence_is_repeated(honest: str, sentence: str) -> None:
    assert adversarial_responses(honest, "", [], 100)["repeated"] == " ".join([sentence] * 5)


def test_what_is_the_honest_response_itself_is_left_out() -> None:
    assert adversarial_responses("say it", "say  it", ["say it"], 2) == {"empty": ""}


def test_blank_texts_end() -> None:
    assert adversarial_responses(" ", "", [], 10) == {}


def test_the_question_is_the_last_message_without_media() -> None:
    part = {"type": "text", "text": "which ?"}
    earlier = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    shown = [*earlier, {"role": "user", "content": [{"type": "image"}, part, {"type": "text", "text": "left ?"}]}]
    assert question_text(shown) == "which ? left ?"
    assert question_text(earlier) == "hi"
    bare = without_media(shown)
    assert bare == [*earlier, {"role": "user", "content": [part, {"type": "text", "text": "left ?"}]}]
    assert without_media([{"role": "user", "content": [{"type": "audio"}]}]) is None
