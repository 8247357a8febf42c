"""What reward-model training minimises, reports and writes down, against sums by hand."""

import math
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.losses import bradley_terry_loss, ensemble_weights
from mmrlhf_ray.config import DataConfig, ModelConfig, RewardModelConfig
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.schema import EVAL_SCORE, TRAINING_ROW
from mmrlhf_ray.training.reward_tasks import RewardModelTask

NAN = math.nan


def task(**keys: Any) -> RewardModelTask:
    """Of a configuration with these keys."""
    cfg = RewardModelConfig(name="rm", model=ModelConfig(path="m"), data=DataConfig(path="d"), steps=1, **keys)
    return RewardModelTask(cfg)


def table(*rows: dict[str, Any]) -> pa.Table:
    """TRAINING_ROW of text rows with `count` responses each and whatever else is given."""
    defaults = {
        "task": "sum",
        "modality": "text",
        "context_token_ids": [20],
        "margin": 0.0,
        "feedback": [],
        "ranks": [],
        "ratings": [],
        "ref_logprobs": [],
        "marked": [],
        "media_ids": [],
        "features": b"",
        "problem": "",
    }
    records = [
        defaults | {"row": i, "prompt_id": f"p{i}", "responses_token_ids": [[21]] * row.pop("count", 2)} | row
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=TRAINING_ROW)


def empty_batch() -> Batch:
    return collate([], [TokenRow([20], [], [])], {}, 0)


def run(of: RewardModelTask, encoder: Encoder, output: Tensor, rows: pa.Table) -> tuple[Tensor, dict[str, float]]:
    """Loss and statistics of a batch in one pass."""
    loss, stats = of.loss(encoder, of.weights(rows), {})(output, empty_batch(), rows)
    return loss, {k: float(v) for k, v in stats.items()}


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


SCORES = torch.tensor([2.0, -1.0, 0.0, 1.0])


def test_chosen_and_rejected_alternate(omni_encoder: Encoder) -> None:
    pairs = task()
    loss, stats = run(pairs, omni_encoder, SCORES[:, None], table({}, {}))
    want = (minus_log_sigmoid(3.0) + minus_log_sigmoid(-1.0)) / 2
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert pairs.metrics(stats) == pytest.approx({"loss": want, "pair_accuracy": 0.5}, rel=1e-5)
    assert (stats["score_chosen"], stats["score_rejected"]) == (2.0, 0.0)


def test_smoothing_centring_and_margins_reach_the_loss(omni_encoder: Encoder) -> None:
    rows = table({"margin": 0.5}, {"margin": 2.0})

    def loss_of(**keys: float) -> float:
        return float(run(task(**keys), omni_encoder, SCORES[:, None], rows)[0])

    plain = loss_of()
    # −log σ(−d) = −log σ(d) + d: smoothing adds s times the mean difference.
    assert loss_of(label_smoothing=0.1) - plain == pytest.approx(0.1 * (3.0 - 1.0) / 2, rel=1e-4)
    assert loss_of(center_coef=0.5) - plain == pytest.approx(0.5 * (1.0 + 1.0) / 2, rel=1e-4)
    want = (minus_log_sigmoid(3.0 - 3.0 * 0.5) + minus_log_sigmoid(-1.0 - 3.0 * 2.0)) / 2
    assert loss_of(margin_coef=3.0) == pytest.approx(want, rel=1e-5)


def test_rankings_of_different_lengths(omni_encoder: Encoder) -> None:
    ranking = task(objective="plackett_luce")
    rows = table({"count": 3, "ranks": [2, 1, 3]}, {"count": 2, "ranks": [2, 1]})
    scores = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])
    loss, stats = run(ranking, omni_encoder, scores[:, None], rows)
    first = math.log(math.exp(2.0) + math.exp(0.5) + math.exp(-1.0)) - 2.0
    second = math.log(math.exp(0.5) + math.exp(-1.0)) - 0.5
    want = (first + second + minus_log_sigmoid(-1.0)) / 2
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert ranking.weights(rows) == {"rankings": 2.0}
    assert ranking.metrics(stats) == pytest.approx({"loss": want, "pair_accuracy": 3 / 4}, rel=1e-5)


def test_ratings_have_a_head_and_an_error_per_aspect(omni_encoder: Encoder) -> None:
    rating = task(objective="rating", aspects={"helpful": 1.0, "short": -0.5})
    rows = table(
        {"count": 2, "ratings": [[4.0, 1.0], [2.0, NAN]]}, {"count": 3, "ratings": [[3.0, 0.0], [NAN] * 2, [1.0, 0.0]]}
    )
    outputs = torch.tensor([[3.0, 1.5], [2.0, 9.0], [3.0, 1.0], [7.0, 7.0], [3.0, 0.0]])
    loss, stats = run(rating, omni_encoder, outputs, rows)
    want = 0.5 * (1.0 + 0.25 + 0.0 + 0.0 + 1.0 + 4.0 + 0.0) / 7
    assert rating.weights(rows) == {"ratings": 7.0}
    assert loss.item() == pytest.approx(want, rel=1e-5)
    # Pairs only where both responses have all ratings: 3 − 0 against 1 − 0, by scores 2.5 against 3.
    assert (stats["pairs"], stats["pair_accuracy"]) == (1.0, 0.0)
    assert rating.metrics(stats) == pytest.approx(
        {"loss": want, "pair_accuracy": 0.0, "error_helpful": (1 + 0 + 0 + 2) / 4, "error_short": (0.5 + 1 + 0) / 3}
    )


def test_every_member_learns_from_its_own_resampling(omni_encoder: Encoder) -> None:
    ensemble, heads, pairs = task(ensemble=3, seed=5), 3, 40
    rows = table(*({} for _ in range(pairs)))
    output = torch.randn(2 * pairs, heads, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, stats = run(ensemble, omni_encoder, output, rows)
    counts = ensemble_weights(torch.arange(pairs), heads, 5)
    want = 0.0
    for head in range(heads):
        for pair in range(pairs):
            difference = float(output.detach()[2 * pair, head] - output.detach()[2 * pair + 1, head])
            want += float(counts[head, pair]) * minus_log_sigmoid(difference) / pairs / heads
    assert loss.item() == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert output.grad is not None
    unseen = [(2 * int(pair), int(head)) for head, pair in (counts == 0).nonzero()]
    assert unseen
    assert all(float(output.grad[place]) == 0.0 for place in unseen)
    assert not torch.equal(output.grad[:, 0], output.grad[:, 1])
    # What is reported is the score's, on the rows as they are.
    score = output.detach().mean(1)
    plain, _ = bradley_terry_loss(score[0::2], score[1::2], float(pairs))
    said = ensemble.metrics(stats)
    assert said["loss"] == pytest.approx(float(plain), rel=1e-5)
    assert said["uncertainty"] == pytest.approx(float(output.detach().std(1, correction=0).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ({"center_coef": 0.1, "margin_coef": 1.0}, {"margin": 0.5}),
        ({"objective": "plackett_luce"}, {"count": 3, "ranks": [3, 1, 2]}),
        ({"objective": "rating", "aspects": {"a": 1.0, "b": 2.0}}, {"count": 3, "ratings": [[1, 2], [NAN, 1], [0, 3]]}),
    ],
    ids=["bradley_terry", "plackett_luce", "rating"],
)
@pytest.mark.parametrize("heads", [1, 3])
def test_passes_add_up_to_the_batch(
    heads: int, keys: dict[str, Any], row: dict[str, Any], omni_encoder: Encoder
) -> None:
    of = task(ensemble=heads, **keys)
    rows = table(*(dict(row) for _ in range(6)))
    per_row = len(rows.column("responses_token_ids")[0])
    output = torch.randn(6 * per_row, of.layout.outputs, generator=torch.Generator().manual_seed(1)).double()
    denominators = of.weights(rows)

    def gradient(parts: list[list[int]]) -> tuple[Tensor, dict[str, float]]:
        leaf, sums = output.clone().requires_grad_(), dict[str, float]()
        for part in parts:
            places = list(chain.from_iterable(range(i * per_row, (i + 1) * per_row) for i in part))
            taken = rows.take(pa.array(part, pa.int64()))
            loss, stats = of.loss(omni_encoder, denominators, {})(leaf[places], empty_batch(), taken)
            loss.backward()
            sums = {k: sums.get(k, 0.0) + float(v) for k, v in stats.items()}
        assert leaf.grad is not None
        return leaf.grad, of.metrics(sums)

    whole, said = gradient([[0, 1, 2, 3, 4, 5]])
    cut, said_of_parts = gradient([[3], [], [5, 0, 1], [4, 2]])
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-5)
    assert said_of_parts == pytest.approx(said, rel=1e-5)
    assert float(whole.abs().max()) > 0.0


def test_what_is_written_down_of_pairs_and_rankings() -> None:
    written = task(ensemble=2).record(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), table({"task": "count"}))
    assert written.schema.equals(EVAL_SCORE)
    chosen, rejected = written.to_pylist()
    assert chosen == {
        "row": 0,
        "prompt_id": "p0",
        "task": "count",
        "modality": "text",
        "response": 0,
        "score": 2.0,
        "uncertainty": 1.0,
        "members": [1.0, 3.0],
        "rank": 1,
        "aspects": [],
        "ratings": [],
        "form": [],
    }
    assert (rejected["response"], rejected["rank"], rejected["score"]) == (1, 2, 0.0)
    ranked = task(objective="plackett_luce").record(
        torch.arange(5.0)[:, None], table({"count": 3, "ranks": [2, 1, 2]}, {"count": 2, "ranks": [1, 2]})
    )
    assert ranked.column("rank").to_pylist() == [2, 1, 2, 1, 2]
    assert ranked.column("row").to_pylist() == [0, 0, 0, 1, 1]
    assert ranked.column("score").to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_what_is_written_down_of_ratings() -> None:
    rating = task(objective="rating", aspects={"a": 1.0, "b": 2.0}, ensemble=2)
    rows = table({"count": 4, "ratings": [[1.0, 2.0], [3.0, NAN], [5.0, 0.0], [5.0, 5.0]]})
    written = rating.record(torch.tensor([[1.0, 0.0, 3.0, 1.0]] * 4), rows).to_pylist()
    assert [w["rank"] for w in written] == [2, 0, 2, 1]  # 1 + 4 ties with 5 + 0; one lacks a rating
    assert (written[0]["members"], written[0]["score"], written[0]["aspects"]) == ([1.0, 5.0], 3.0, [2.0, 0.5])
    assert written[2]["ratings"] == [5.0, 0.0]
    assert np.isnan(written[1]["ratings"][1])


@pytest.mark.parametrize(
    "keys", [{}, {"objective": "plackett_luce"}, {"objective": "rating", "aspects": {"a": 1.0}}], ids=str
)
@pytest.mark.parametrize("heads", [1, 2])
def test_a_pass_without_rows_adds_nothing(heads: int, keys: dict[str, Any], omni_encoder: Encoder) -> None:
    of = task(ensemble=heads, **keys)
    output = torch.zeros(0, heads, requires_grad=True)
    loss, stats = run(of, omni_encoder, output, table())
    loss.backward()
    assert loss.item() == 0.0
    assert set(stats.values()) == {0.0}
    row = {"count": 2, "ranks": [1, 2], "ratings": [[1.0], [2.0]]}
    assert run(of, omni_encoder, torch.zeros(2, heads), table(row))[1].keys() == stats.keys()
    assert of.record(output.detach(), table()).num_rows == 0
