"""From the queue through the export to records: whatever order was shown, the record says what the person meant."""

import random
import uuid
from datetime import UTC, datetime
from itertools import permutations

import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.export import annotations_table, prompts_table
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.queue import NewVote, lease_next, submit
from mmrlhf_ray.feedback.labels.derive import derive_preferences, derive_rankings
from mmrlhf_ray.feedback.labels.quality import annotator_quality, gold_answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORTH = {"gamma": 1, "alpha": 2, "beta": 3}
"""What people think of the texts: rank."""


def _rank(shown):
    return {"ranks": [WORTH[text] for text in shown]}


def _rate(shown):
    return {"ratings": [{"safe": 6 - WORTH[text]} for text in shown]}


def _pair(shown):
    return {"choice": "left" if WORTH[shown[0]] < WORTH[shown[1]] else "right"}


@pytest.mark.parametrize(
    ("question", "responses", "answer", "gold"),
    [
        ("pair", ("alpha", "gamma"), _pair, {"choice": "right"}),
        ("rank", ("alpha", "beta", "gamma"), _rank, {"ranks": [2, 3, 1]}),
        ("rate", ("alpha", "beta", "gamma"), _rate, None),
    ],
)
def test_everybody_means_the_same(tmp_path, question, responses, answer, gold):
    """Annotators who see the responses in every possible order, until each order has come."""
    config = FeedbackConfig(data_dir=str(tmp_path), overlap=60)
    database = open_database(config)
    rng, seen = random.Random(0), set()
    with database.write() as session:
        row = {"prompt": "Which?", "prompt_id": "p", "question": question, "responses": list(responses), "item_id": "i"}
        add_items(session, [row], config, NOW)
        for number in range(60):
            annotator, _ = add_annotator(session, f"a{number}", "annotator", "test", NOW)
            leased = lease_next(session, annotator.id, config, NOW, rng)
            shown = [responses[index] for index in leased.order_shown]
            seen.add(tuple(leased.order_shown))
            submit(session, annotator.id, NewVote(str(uuid.UUID(int=number)), "i", answer(shown), 5000), config, NOW)
        made, prompts = annotations_of(annotations_table(session)), prompts_table(session)
    database.close()
    assert seen == set(permutations(range(len(responses))))
    (ranking,) = derive_rankings(made, prompts).to_pylist()
    if question != "rate":
        order = sorted(responses, key=WORTH.__getitem__)
        assert dict(zip(ranking["responses"], ranking["ranks"])) == {text: order.index(text) + 1 for text in order}
    for row in derive_preferences(made, prompts).to_pylist():
        assert WORTH[row["chosen"]] < WORTH[row["rejected"]]
        assert row["margin"] == 1.0
    if gold is not None:
        known = {"i": gold_answer(question, gold, len(responses))}
        assert all(q.gold.estimate == 1.0 for q in annotator_quality(made, known))
