"""A judge with a rubric, with labels, with pairs and with several samples, asked over real HTTP."""

import math
import threading
from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import JudgeReward
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.rewards.judge import JudgeScores
from mmrlhf_ray.rewards.judge_pairs import comparisons, win_rates
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from tests.unit.rewards.servers import HANG, Answer, serve
from tests.unit.rewards.support import make_batch
from tests.unit.tiny import picture

RUBRIC = {"correct": {"description": "the answer is right", "weight": 3}, "brief": {"description": "no filler"}}
PAIRS = {"pairs": {}, "prompt": "{prompt}\nA: {first}\nB: {second}\nWhich is better, A, B or tie?"}


def judge(url, **keys):
    defaults = {"kind": "judge", "name": "judge", "model": "m", "prompt": "{prompt}|{response}", "backoff_s": 0.01}
    return JudgeScores(JudgeReward(base_url=url + "/v1", **defaults | keys))


def says(text, finish_reason="stop", **choice):
    message = {"role": "assistant", "content": text}
    return Answer(body={"choices": [{"message": message, "finish_reason": finish_reason, **choice}]})


def asked(request):
    content = request.body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def candidates(**logprobs):
    """A first token with these probabilities."""
    top = [{"token": token, "logprob": math.log(p)} for token, p in logprobs.items()]
    return says("x", "length", logprobs={"content": [{"token": "x", "logprob": -1.0, "top_logprobs": top}]})


def grouped(*groups):
    """Responses of several groups, each its own prompt."""
    texts = [text for group in groups for text in group]
    batch = make_batch(texts)
    numbers = [number for number, group in enumerate(groups) for _ in group]
    columns = dict(batch.columns) | {"prompt_id": [f"p{number}" for number in numbers]}
    return replace(batch, columns=columns, groups=tuple(numbers))


def test_a_rubric_is_the_weighted_mean_of_its_aspects():
    with serve(lambda request: says("correct: 1?\nIt is so.\n- **Correct**: 8/10\n* brief: 4")) as server:
        scores = judge(server.url, aspects=RUBRIC, prompt="{aspects}\n{response}").score(make_batch(["a"]))
    assert scores.values == (pytest.approx((3 * 0.8 + 0.4) / 4),)
    assert asked(server.requests[0]) == "- correct: the answer is right\n- brief: no filler\na"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("correct: 8", "gave no grade for 'brief'"),
        ("correct: 8\nbrief: very", "gave no grade for 'brief'"),
        ("correct: 11\nbrief: 3", "'correct': gave the grade 11, expected 0 … 10"),
        ("incorrect: 8\nbrief: 3", "gave no grade for 'correct'"),
    ],
)
def test_a_rubric_with_a_gap_is_no_score(text, problem):
    with serve(lambda request: says(text)) as server:
        scores = judge(server.url, aspects=RUBRIC, prompt="{aspects}\n{response}").score(make_batch(["a"]))
    assert (scores.values, scores.problems) == ((None,), (problem,))


def test_a_label_counts_with_its_probability():
    first = candidates(**{"yes": 0.5, " yes": 0.1, "no": 0.2, "maybe": 0.1, "Yes": 0.1})
    with serve(lambda request: first) as server:
        scores = judge(server.url, labels={"yes": 1.0, "maybe": 0.4, "no": 0.0}).score(make_batch(["a"]))
    assert scores.values == (pytest.approx((0.6 * 1.0 + 0.1 * 0.4) / 0.9),)
    body = server.requests[0].body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (candidates(The=0.9, yes=0.1), "gave yes, no a probability of 0.1 together, expected 0.5 or more"),
        (candidates(yes=math.nan), "gave yes, no a probability of nan together, expected 0.5 or more"),
        (says("yes"), "answered without choices[0].logprobs.content[0].top_logprobs"),
        (says("yes", logprobs=None), "answered without choices[0].logprobs.content[0].top_logprobs"),
        (says("yes", logprobs={"content": []}), "answered without choices[0].logprobs.content[0].top_logprobs"),
    ],
)
def test_labels_that_the_judge_did_not_mean_are_no_score(answer, problem):
    with serve(lambda request: answer) as server:
        scores = judge(server.url, labels={"yes": 1, "no": 0}).score(make_batch(["a"]))
    assert (scores.values, scores.problems) == ((None,), (problem,))


def longer(request):
    """The longer response is better."""
    first, second = (line[3:] for line in asked(request).splitlines()[1:3])
    return says(
        f"Because.\nVerdict: {'tie' if len(first) == len(second) else 'A' if len(first) > len(second) else 'B'}."
    )


def test_win_rates_within_each_group():
    with serve(longer) as server:
        scores = judge(server.url, **PAIRS).score(grouped(["a", "aaa", "aa"], ["b", "c"]))
    assert scores.values == (0.0, 1.0, 0.5, 0.5, 0.5)
    assert scores.problems == (None,) * 5
    assert scores.side_changes == (0.0,) * 5
    assert len(server.requests) == 3 * 2 + 2


def test_a_judge_that_likes_the_first_one_best_prefers_nobody_and_is_found_out():
    batch = grouped(["a", "aaa", "aa"])
    with serve(lambda request: says("A")) as server:
        scores = judge(server.url, **PAIRS).score(batch)
    assert scores.values == (0.5,) * 3
    assert scores.side_changes == (1.0,) * 3
    reward = JudgeReward(kind="judge", name="judge", model="m", base_url="http://h", **PAIRS)
    mixed = mix([reward], {"judge": scores}, batch.rows, MixtureState.start([reward]))
    assert mixed.metrics == {"reward_judge": 0.5, "missing_judge": 0.0, "side_changes_judge": 1.0}


def test_probabilities_of_both_orders_are_averaged():
    def half_sure(request):
        ahead = longer(request).body["choices"][0]["message"]["content"].endswith("A.")
        return candidates(A=0.8 if ahead else 0.4, B=0.1 if ahead else 0.4)

    with serve(half_sure) as server:
        scores = judge(server.url, **PAIRS | {"pairs": {"probabilities": True}}).score(grouped(["aa", "a"]))
    better = (8 / 9 + (1 - 0.5)) / 2
    assert scores.values == (pytest.approx(better), pytest.approx(1 - better))


def test_a_missing_answer_is_missing_for_both():
    def silent(request):
        return Answer(status=400) if "B: aaa" in asked(request) and "A: a\n" in asked(request) else longer(request)

    with serve(silent) as server:
        scores = judge(server.url, **PAIRS).score(grouped(["a", "aaa", "aa"]))
    assert scores.values == (None, None, 0.5)
    assert scores.problems[0] == "1 of 2 comparisons have no answer; the first: answered HTTP 400: null"


def test_a_response_without_another_has_nothing_to_be_compared_with():
    with serve(longer) as server:
        scores = judge(server.url, **PAIRS).score(grouped(["a"], ["b", "bb"]))
        assert "no groups here" in judge(server.url, **PAIRS).score(make_batch(["a"])).problems[0]
    assert scores.values == (None, 0.0, 1.0)
    assert scores.problems == (None,) * 3, "the judge does not apply to it"


@pytest.mark.parametrize("answer", ["Both are bad.", "", "neither A nor C", None])
def test_neither_is_no_score(answer):
    with serve(lambda request: says(answer)) as server:
        scores = judge(server.url, **PAIRS).score(grouped(["a", "b"]))
    assert scores.values == (None, None)
    assert "expected one of A, B, tie at the end of its last line" in scores.problems[0]


def test_each_has_as_many_opponents_as_asked_for():
    groups = [0] * 7 + [1] * 2 + [2]
    assert len(comparisons(groups, None)) == 21 + 1
    for opponents in (2, 4, 6, 8):
        found = comparisons(groups, opponents)
        counts = Counter(row for pair in found for row in pair)
        assert all(counts[row] == min(opponents, 6) for row in range(7))
        assert (7, 8) in found
    assert comparisons([5, 6, 5], None) == [(0, 2)]


def test_swapped_sides_by_hand():
    answers = {(0, 1): (0.9, None), (1, 0): (0.6, None), (0, 2): (0.7, None), (2, 0): (0.2, None)}
    scores = win_rates(3, answers)
    assert scores.values == pytest.approx(((0.65 + 0.75) / 2, 0.35, 0.25))
    assert scores.side_changes == (0.5, 1.0, 0.0)


def test_clips_are_shown_once_to_a_comparison():
    clip = media_row("image", picture(1))
    batch = replace(grouped(["a", "aa"]), media=((clip,), (clip,)))
    with serve(longer) as server:
        judge(server.url, media=["image"], **PAIRS).score(batch)
    for request in server.requests:
        assert [part["type"] for part in request.body["messages"][0]["content"]] == ["image_url", "text"]


@pytest.mark.parametrize(("aggregate", "score"), [("mean", 0.4), ("median", 0.2)])
def test_samples_are_aggregated(aggregate, score):
    with serve(lambda request: says(f"{(1, 2, 9)[request.body['seed']]}")) as server:
        keys = {"samples": 3, "temperature": 0.7, "aggregate": aggregate}
        assert judge(server.url, **keys).score(make_batch(["a"])).values == (pytest.approx(score),)
    assert sorted(request.body["seed"] for request in server.requests) == [0, 1, 2]
    assert {request.body["temperature"] for request in server.requests} == {0.7}


def test_too_few_samples_are_no_score():
    with serve(lambda request: says("4" if request.body["seed"] else "no idea")) as server:
        keys = {"samples": 3, "temperature": 1.0}
        strict = judge(server.url, **keys).score(make_batch(["a"]))
        lenient = judge(server.url, **keys, samples_needed=2).score(make_batch(["a"]))
    assert strict.values == (None,)
    assert strict.problems[0].startswith("1 of 3 samples have no answer; the first: gave no grade")
    assert lenient.values == (0.4,)


def test_what_was_answered_is_not_asked_again():
    def words(request):
        return says(str(len(asked(request).split("|")[1])))

    with serve(words) as server:
        own = judge(server.url, cached_answers=3)
        assert own.score(make_batch(["a", "bb", "a"])).values == (0.1, 0.2, 0.1)
        assert len(server.requests) == 2, "the same question twice"
        assert own.score(make_batch(["bb", "ccc"])).values == (0.2, 0.3)
        assert len(server.requests) == 3
        own.score(make_batch(["dddd", "eeeee"]))
        assert own.score(make_batch(["a"])).values == (0.1,)
        assert len(server.requests) == 6, "the longest unused made room"
        picture_shown = replace(make_batch(["a", "a"]), media=tuple((media_row("image", picture(n)),) for n in (1, 2)))
        sees = judge(server.url, media=["image"])
        sees.score(picture_shown)
        assert len(server.requests) == 8, "media are part of the question"


def test_no_answer_is_not_kept():
    answers = [says("none"), says("7")]
    with serve(lambda request: answers.pop(0)) as server:
        own = judge(server.url)
        assert own.score(make_batch(["a"])).values == (None,)
        assert own.score(make_batch(["a"])).values == (0.7,)


@pytest.mark.parametrize("attempts", [1, 4])
def test_errors_and_hangs_invent_no_score(attempts):
    """Of the requests one in ten fails and one in twenty hangs: a response with a question that nobody answered has no
    score, and all others have the right one."""
    lock, seen = threading.Lock(), Counter()

    def unreliable(request):
        with lock:
            seen["all"] += 1
            number = seen["all"]
        if number % 20 == 0:
            return HANG
        if number % 10 == 5:
            return Answer(status=500)
        return longer(request)

    groups = [[chr(97 + g) * (1 + (7 * g + k) % 11) for k in range(4)] for g in range(8)]
    with serve(unreliable) as server:
        keys = {"timeout_s": 2.0, "attempts": attempts, "deadline_s": 60.0}
        scores = judge(server.url, **PAIRS, **keys).score(grouped(*groups))
    with serve(longer) as server:
        truth = judge(server.url, **PAIRS).score(grouped(*groups))
    assert all(value is not None for value in truth.values)
    for value, problem, right in zip(scores.values, scores.problems, truth.values, strict=True):
        assert (value is None) == (problem is not None)
        assert value in (None, right)
    there = sum(value is not None for value in scores.values)
    assert 0 < there < 32 if attempts == 1 else there == 32
    assert seen["all"] >= 80, "several of them fail and hang"


def test_the_deadline_holds_for_all_questions_together():
    with serve(lambda request: HANG) as server:
        scores = judge(server.url, **PAIRS, timeout_s=0.3, deadline_s=1.0, concurrency=2).score(grouped("abcd"))
    assert scores.values == (None,) * 4
    assert "deadline_s=1" in " ".join(map(str, scores.problems)) or "did not answer" in str(scores.problems[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"aspects": RUBRIC}, "prompt must contain {aspects}"),
        ({"pairs": {}}, "prompt must contain {first}"),
        ({"labels": {"yes": 1}}, "labels expects two or more answers"),
        (PAIRS | {"labels": {"yes": 1, "no": 0}}, "labels and pairs are different ways to answer"),
        (PAIRS | {"pairs": {"labels": ["A", "a"]}}, "expect three different words"),
        (PAIRS | {"pairs": {"opponents": 3}}, "multiple of 2"),
        (PAIRS | {"highest": 5}, "highest has no effect without grades"),
        ({"samples": 2}, "temperature=0 gives the same"),
        ({"samples": 2, "temperature": 1, "labels": {"yes": 1, "no": 0}}, "probabilities are the same each time"),
        ({"aggregate": "median"}, "aggregate has no effect with samples=1"),
        ({"samples": 2, "temperature": 1, "samples_needed": 3}, "samples_needed=3 is more than samples=2"),
        ({"least_probability": 0.1}, "least_probability has no effect without labels"),
        ({"labels": {"yes": 1, "no": 0}, "max_tokens": 3}, "max_tokens has no effect where the first token alone"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        judge("http://h", **keys)
