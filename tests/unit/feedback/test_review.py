"""How far answers are apart, and the order of the reviewers' queue."""

import pytest

from mmrlhf_ray.feedback.collect.review import item_disagreement, review_queue
from tests.unit.feedback.people import A, answered, pair


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([pair("left", who="a"), pair("right", who="b")], 1.0),
        ([pair("left", who="a"), pair("right", who="b", order=(1, 0))], 0.0),
        ([pair("left", who="a"), pair("tie", who="b")], 0.5),
        ([pair("tie", who="a"), pair("both_bad", who="b")], 1.0),
        ([pair("left", who="a"), pair("left", who="b"), pair("right", who="c")], 2 / 3),
        ([pair("left", who="a")], 0.0),
        (
            [answered("rate", {"ratings": [{"safe": r}]}, who=w, responses=(A,)) for w, r in (("a", 1), ("b", 3))],
            0.5,
        ),
    ],
)
def test_disagreement_by_hand(votes, expected):
    assert item_disagreement(votes) == pytest.approx(expected)


def test_the_queue_begins_with_the_most_disputed():
    votes = [pair("left", who=w, prompt_id="agreed") for w in "ab"]
    votes += [pair(c, who=w, prompt_id="half") for w, c in (("a", "left"), ("b", "tie"))]
    votes += [pair(c, who=w, prompt_id="open") for w, c in (("a", "left"), ("b", "right"))]
    votes += [pair("left", who="bad", prompt_id="weak")]
    votes += [pair(c, who=w, prompt_id="gold", gold=True) for w, c in (("a", "left"), ("b", "right"))]
    votes += [pair(c, who=w, prompt_id="done") for w, c in (("a", "left"), ("b", "right"))]
    votes += [pair("left", who="r", role="reviewer", prompt_id="done")]
    queue = review_queue(votes, {"a": 0.9, "b": 0.8, "bad": 0.4})
    assert [(i.item_id, i.disagreement) for i in queue] == [("item-open", 1.0), ("item-half", 0.5), ("item-weak", 0.0)]
    assert queue[0].reasons == ("annotators disagree",)
    assert queue[0].reliability == pytest.approx(0.85)
    assert queue[2].reasons == ("annotators of low reliability",)
    assert [i.item_id for i in review_queue(votes, max_disagreement=0.6)] == ["item-open"]
