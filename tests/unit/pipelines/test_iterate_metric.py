"""The primary reward: a mixture of functions, paired gains, and how often the reward model agrees with it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config.rounds import RoundPaths
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.evaluate.job import RESPONSES_FILE
from mmrlhf_ray.pipelines.iterate.metric import (
    MixtureMetric,
    by_prompt,
    gain,
    keep_primary,
    kept_primary,
    metric_of,
    pair_accuracy,
)
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.unit.pipelines.loop import loop_config
from tests.unit.tiny import filled_responses

FUNCTION = """
def worth(prompts, completions, answer, response_tokens, prompt_id, **columns):
    return [None if text == "?" else (text == right) - 0.1 * tokens + (prompt_id == "q")
            for text, right, tokens, prompt_id in zip(completions, answer, response_tokens, prompt_id)]
"""


def heldout() -> Records:
    message = json.dumps([{"role": "user", "content": "which ?"}])
    rows = [
        {"prompt_id": i, "messages": message, "media_ids": [], "task": "t", "modality": "text", "extras": extras}
        for i, extras in (("p", '{"answer": "1"}'), ("q", '{"answer": "2"}'))
    ]
    return Records(pa.Table.from_pylist(rows, schema=PROMPT), MEDIA.empty_table(), 0, "heldout", (0, 1))


def answers(*given: tuple[str, str, int]) -> pa.Table:
    rows = [
        {
            "step": 0, "policy": "policy", "media": "own", "prompt_id": prompt_id, "task": "t", "modality": "text",
            "text": text, "finish_reason": "stop", "response_tokens": tokens, "score": 0.0, "kl": 0.0,
        }
        for prompt_id, text, tokens in given
    ]  # fmt: skip
    return filled_responses(rows)


@pytest.fixture
def reward(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    return {"name": "mine", "kind": "function", "function": f"{tmp_path}/mine.py:worth", "weight": 2.0}


def test_functions_see_texts_and_the_prompts_truth(reward, tmp_path):
    right = {"name": "right", "kind": "function", "function": "exact_match", "weight": 1.0}
    cfg = loop_config(evaluate={"data": {"path": "heldout"}, "rewards": [reward, right]})
    metric = metric_of(cfg, heldout(), tmp_path)
    assert isinstance(metric, MixtureMetric)
    assert metric.fixed
    given = answers(("q", "2", 1), ("p", "2", 3), ("p", "1", 1))
    assert metric.scores(given, 5) == pytest.approx([2 * 1.9 + 1, 2 * -0.3, 2 * 0.9 + 1])


def test_a_missing_score_ends_the_run(reward, tmp_path):
    cfg = loop_config(evaluate={"data": {"path": "heldout"}, "rewards": [reward]})
    with pytest.raises(RunError, match="mine"):
        metric_of(cfg, heldout(), tmp_path).scores(answers(("p", "?", 1)), 1)
    cfg = loop_config(evaluate={"data": {"path": "heldout"}, "rewards": [reward | {"on_missing": "drop"}]})
    with pytest.raises(RunError, match="1 of 2 responses have no score"):
        metric_of(cfg, heldout(), tmp_path).scores(answers(("p", "?", 1), ("p", "1", 1)), 1)


def test_what_is_kept_is_read_by_prompt(tmp_path):
    paths = RoundPaths(tmp_path, 1)
    paths.evaluation.mkdir(parents=True)
    table = answers(("p", "a", 1), ("q", "b", 1), ("p", "c", 1))
    others = filled_responses([row | {"policy": "reference"} for row in table.to_pylist()])
    pq.write_table(pa.concat_tables([others, table]), paths.evaluation / RESPONSES_FILE)
    keep_primary(paths, [1.0, 0.25, 2.0])
    assert kept_primary(paths) == {"p": 1.5, "q": 0.25}


def test_gains_are_paired_by_prompt():
    before, after = {"p": 1.0, "q": 5.0, "gone": 9.0}, {"q": 5.5, "p": 2.0, "new": 9.0}
    found = gain(before, after)
    assert found.estimate == 0.75
    assert 0.5 <= found.low <= found.high <= 1.0
    with pytest.raises(RunError, match="no held-out prompt"):
        gain({"p": 1.0}, {"q": 1.0})


def test_values_of_a_prompt_are_averaged():
    assert by_prompt(["p", "q", "p"], [1.0, 5.0, 2.0]) == {"p": 1.5, "q": 5.0}


def test_pair_accuracy_counts_pairs_of_one_prompt_that_differ_in_truth():
    ids = ["p", "p", "p", "q", "q", "r"]
    primary = [1.0, 0.0, 0.0, 1.0, 2.0, 7.0]
    scores = [0.5, 0.1, 0.5, 3.0, 1.0, 0.0]  # right, tie, (equal truth), wrong, (alone)
    found = pair_accuracy(ids, scores, primary)
    assert found is not None
    assert found.estimate == 0.5
    assert pair_accuracy(["p", "q"], [1.0, 2.0], [1.0, 2.0]) is None
