"""Preference training: each objective as a function of the responses' log-probabilities, and the task they share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.preference_loss import (
    bco_delta,
    bco_loss,
    changed_tokens,
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_kl,
    margin_beta,
    mpo_loss,
    orpo_loss,
    segment_logprobs,
    simpo_loss,
)
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.config.supervised import PreferenceConfig
from mmrlhf_ray.data.batches.collate import Batch
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import HeadedModel, load_policy
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.passes import Reader
from mmrlhf_ray.training.tasks import (
    PassLoss,
    PassSums,
    ReferencePoint,
    feedback_of,
    mean,
    response_lengths,
)

_SIDES = {"chosen": "liked", "rejected": "disliked"}
"""Which responses a statistic is summed over → the statistic that counts them."""


@dataclass(frozen=True)
class Responses:
    """The responses of a pass, one row's after the other's: R of them with N tokens."""

    rows: pa.Table
    """TRAINING_ROW without features."""
    tokens: Tensor
    """[N] log p of each token under the policy."""
    ref_tokens: Tensor
    """[N] the same under the reference; empty without one."""

    @cached_property
    def lengths(self) -> Tensor:
        """[R] tokens of each response."""
        return torch.tensor(response_lengths(self.rows), dtype=torch.long, device=self.tokens.device)

    @cached_property
    def feedback(self) -> Tensor:
        """[R]"""
        return feedback_of(self.rows, self.tokens.device)

    @cached_property
    def sums(self) -> Tensor:
        """[R] log π(response)."""
        return self._summed(self.tokens)

    @cached_property
    def ref_sums(self) -> Tensor:
        """[R] log π_ref(response)."""
        return self._summed(self.ref_tokens)

    @property
    def means(self) -> Tensor:
        """[R] log π(response) per token."""
        return self.sums / self.lengths

    @property
    def ref_means(self) -> Tensor:
        """[R] log π_ref(response) per token."""
        return self.ref_sums / self.lengths

    def chosen(self, values: Tensor) -> Tensor:
        """[P] of `values` [R], in the order of the pairs."""
        return values[self.feedback > 0]

    def rejected(self, values: Tensor) -> Tensor:
        """[P] of `values` [R], in the order of the pairs."""
        return values[self.feedback < 0]

    def weighted(self, tokens: Tensor, weight: float) -> Tensor:
        """[R] of `tokens` [N]: means in which the tokens that differ within a pair, and those that people marked, count
        `weight`."""
        pairs = self.rows.column("responses_token_ids").to_pylist()
        changed = [flags for pair in pairs for flags in changed_tokens(*pair)]
        marks = [
            flags
            for pair, marked in zip(pairs, self.rows.column("marked").to_pylist(), strict=True)
            for flags in marked or ([False] * len(response) for response in pair)
        ]
        changed = [[c or m for c, m in zip(*of_one, strict=True)] for of_one in zip(changed, marks, strict=True)]
        parts = tokens.split(self.lengths.tolist())
        values = [segment_logprobs(part, c, weight) for part, c in zip(parts, changed, strict=True)]
        return torch.stack(values) if values else tokens.new_zeros(0)

    def _summed(self, tokens: Tensor) -> Tensor:
        owners = torch.arange(len(self.lengths), device=tokens.device).repeat_interleave(self.lengths)
        return tokens.new_zeros(len(self.lengths)).index_add(0, owners, tokens)


def read_responses(logprobs: Tensor, rows: pa.Table) -> Responses:
    """The facts about a pass that the losses need. Rows without `ref_logprobs` give an empty `ref_tokens`."""
    given = rows.column("ref_logprobs").to_pylist()
    ref = [value for of_row in given for response in of_row for value in response]
    return Responses(rows, logprobs, torch.tensor(ref, dtype=torch.float32, device=logprobs.device))


Loss = Callable[[PreferenceConfig, Responses, float, Mapping[str, float]], tuple[Tensor, Stats]]
"""(configuration, responses, denominator, the reference point's sums) → (loss, statistics)."""


def _dpo(cfg: PreferenceConfig, r: Responses, denominator: float, _: Mapping[str, float]) -> tuple[Tensor, Stats]:
    policy, reference = r.sums, r.ref_sums
    if cfg.changed_token_weight is not None:
        policy, reference = (r.weighted(tokens, cfg.changed_token_weight) for tokens in (r.tokens, r.ref_tokens))
    margin = policy.new_tensor(r.rows.column("margin").to_pylist())
    beta = margin_beta(cfg.beta, margin, cfg.margin_scale, cfg.margin_rate) if cfg.margin_scale else cfg.beta
    loss = dpo_loss(
        r.chosen(policy),
        r.rejected(policy),
        r.chosen(reference),
        r.rejected(reference),
        beta,
        denominator,
        cfg.label_smoothing,
    )
    return _with_sft(cfg, r, denominator, *loss)


def _ipo(cfg: PreferenceConfig, r: Responses, denominator: float, _: Mapping[str, float]) -> tuple[Tensor, Stats]:
    policy, reference = r.means, r.ref_means
    loss = ipo_loss(
        r.chosen(policy), r.rejected(policy), r.chosen(reference), r.rejected(reference), cfg.beta, denominator
    )
    return _with_sft(cfg, r, denominator, *loss)


def _simpo(cfg: PreferenceConfig, r: Responses, denominator: float, _: Mapping[str, float]) -> tuple[Tensor, Stats]:
    loss = simpo_loss(r.chosen(r.means), r.rejected(r.means), cfg.beta, cfg.simpo_margin, denominator)
    return _with_sft(cfg, r, denominator, *loss)


def _orpo(cfg: PreferenceConfig, r: Responses, denominator: float, _: Mapping[str, float]) -> tuple[Tensor, Stats]:
    return orpo_loss(r.chosen(r.means), r.rejected(r.means), cfg.beta, denominator)


def _kto(
    cfg: PreferenceConfig, r: Responses, denominator: float, measured: Mapping[str, float]
) -> tuple[Tensor, Stats]:
    kl = kto_reference_kl(measured["log_ratios"], measured["responses"])
    loss, stats = kto_loss(
        r.sums, r.ref_sums, r.feedback, kl, cfg.beta, cfg.desirable_weight, cfg.undesirable_weight, denominator
    )
    return loss, stats | {"reference_kl": kl * stats["responses"]}


def _bco(
    cfg: PreferenceConfig, r: Responses, denominator: float, measured: Mapping[str, float]
) -> tuple[Tensor, Stats]:
    delta = _delta(cfg, measured)
    loss, stats = bco_loss(r.sums, r.ref_sums, r.feedback, delta, cfg.beta, denominator)
    return loss, stats | {"reward_shift": delta * stats["responses"]}


def _mpo(
    cfg: PreferenceConfig, r: Responses, denominator: float, measured: Mapping[str, float]
) -> tuple[Tensor, Stats]:
    delta = _delta(cfg, measured)
    loss, stats = mpo_loss(
        r.chosen(r.sums),
        r.rejected(r.sums),
        r.chosen(r.ref_sums),
        r.rejected(r.ref_sums),
        r.chosen(r.means),
        delta,
        cfg.beta,
        cfg.mpo_weights,
        denominator,
    )
    return loss, stats | {"reward_shift": delta * stats["pairs"]}


def _with_sft(
    cfg: PreferenceConfig, r: Responses, denominator: float, loss: Tensor, stats: Stats
) -> tuple[Tensor, Stats]:
    if not cfg.sft_coef:
        return loss, stats
    nll = -r.chosen(r.means).sum()
    total = stats["preference_loss"] + cfg.sft_coef * nll.detach()
    return loss + cfg.sft_coef * nll / denominator, stats | {"preference_loss": total, "chosen_nll": nll.detach()}


def _delta(cfg: PreferenceConfig, measured: Mapping[str, float]) -> float:
    """The reward shift; from one side alone as long as there was none of the other."""
    liked, disliked = (cfg.beta * mean(measured, f"log_ratio_{side}", count) for side, count in _SIDES.items())
    if not measured["liked"] or not measured["disliked"]:
        return liked + disliked  # one of them is 0
    return bco_delta(liked, disliked)


class MismatchedResponses:
    """KTO's: each row's last response belongs to another prompt and is there only to estimate the KL divergence."""

    running = False

    def measured(self, rows: pa.Table) -> pa.Table:
        return _each(rows, slice(-1, None))

    def trained(self, rows: pa.Table) -> pa.Table:
        return _each(rows, slice(None, -1))

    def sums(self, encoder: Encoder) -> PassSums:
        def sums(output: Tensor, batch: Batch, rows: pa.Table) -> Stats:
            r = read_responses(output, rows)
            return {"log_ratios": (r.sums - r.ref_sums).sum(), "responses": r.sums.new_tensor(float(len(r.lengths)))}

        return sums


class JudgedResponses:
    """BCO's and MPO's: how far the policy was from the reference on liked and on disliked responses so far."""

    running = True

    def measured(self, rows: pa.Table) -> pa.Table:
        return rows

    def trained(self, rows: pa.Table) -> pa.Table:
        return rows

    def sums(self, encoder: Encoder) -> PassSums:
        return lambda output, batch, rows: _drift(read_responses(output, rows))


def _each(rows: pa.Table, kept: slice) -> pa.Table:
    """The rows with some of the responses of each."""
    for name in ("responses_token_ids", "feedback", "ref_logprobs", "marked"):
        field = rows.schema.field(name)
        values = pa.array([of_row[kept] for of_row in rows.column(name).to_pylist()], field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, values)
    return rows


@torch.no_grad()
def _drift(r: Responses) -> Stats:
    """Sums of log π − log π_ref, and counts, of liked and of disliked responses."""
    ratios, one = r.sums - r.ref_sums, torch.ones_like(r.sums)
    return {
        "liked": r.chosen(one).sum(),
        "disliked": r.rejected(one).sum(),
        "log_ratio_chosen": r.chosen(ratios).sum(),
        "log_ratio_rejected": r.rejected(ratios).sum(),
    }


@dataclass(frozen=True)
class Objective:
    """One way to learn from judged responses."""

    loss: Loss
    count: str
    """Statistic that the loss is a mean over: pairs, or responses with feedback."""
    has_reference: bool = True
    reference_point: ReferencePoint | None = None


OBJECTIVES: Mapping[str, Objective] = {
    "dpo": Objective(_dpo, "pairs"),
    "ipo": Objective(_ipo, "pairs"),
    "kto": Objective(_kto, "responses", reference_point=MismatchedResponses()),
    "orpo": Objective(_orpo, "pairs", has_reference=False),
    "simpo": Objective(_simpo, "pairs", has_reference=False),
    "bco": Objective(_bco, "responses", reference_point=JudgedResponses()),
    "mpo": Objective(_mpo, "pairs", reference_point=JudgedResponses()),
}
"""`objective` of the configuration → what it does."""


@dataclass(frozen=True)
class PreferenceTask:
    """A policy on pairs, or on responses with feedback, by one of OBJECTIVES."""

    cfg: PreferenceConfig
    scalar = False
    at_responses = True
    layout = None
    record = None

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.cfg.objective]

    @property
    def reference_point(self) -> ReferencePoint | None:
        return self.objective.reference_point

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_policy(encoder.adapter, path, dtype)

    def reader(self, encoder: Encoder) -> Reader:
        return ResponseLogprobs(encoder)

    def weights(self, rows: pa.Table) -> dict[str, float]:
        judged = sum(value != 0 for of_row in rows.column("feedback").to_pylist() for value in of_row)
        return {self.objective.count: len(rows) if self.objective.count == "pairs" else judged}

    def loss(self, encoder: Encoder, denominators: Mapping[str, float], measured: Mapping[str, float]) -> PassLoss:
        objective = self.objective

        def loss(output: Tensor, batch: Batch, rows: pa.Table) -> tuple[Tensor, Stats]:
            responses = read_responses(output, rows)
            value, stats = objective.loss(self.cfg, responses, denominators[objective.count], measured)
            return value, stats | (_drift(responses) if objective.has_reference else {})

        return loss

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        count = self.objective.count
        means = ("preference_accuracy", "chosen_nll", "dpo_loss", "bco_loss", "reference_kl", "reward_shift")
        out = {"loss": mean(stats, "preference_loss", count)}
        out |= {key: mean(stats, key, count) for key in means if key in stats}
        for side, number in _SIDES.items():
            if judged := stats.get(number, stats[count]):  # a pair has one of each
                out |= {key: stats[key] / judged for key in (f"reward_{side}", f"log_ratio_{side}") if key in stats}
        if {"reward_chosen", "reward_rejected"} <= out.keys():
            out["reward_margin"] = out["reward_chosen"] - out["reward_rejected"]
        return out
