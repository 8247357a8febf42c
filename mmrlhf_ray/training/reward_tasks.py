"""Objectives of reward-model training: pairs, rankings or ratings, by one head or by an ensemble of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.algorithms.losses import (
    bradley_terry_loss,
    ensemble_weights,
    language_term,
    plackett_luce_loss,
    rating_loss,
)
from mmrlhf_ray.algorithms.score_fit import FORM
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.config.supervised import RewardModelConfig
from mmrlhf_ray.data.batches.collate import Batch
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import HeadedModel, ScalarHead, load_scalar
from mmrlhf_ray.schema import EVAL_SCORE
from mmrlhf_ray.training.passes import Reader
from mmrlhf_ray.training.tasks import PassLoss, mean

_Loss = Callable[[RewardModelConfig, Tensor, pa.Table, Tensor | None, float], tuple[Tensor, Stats]]
"""(configuration, one member's outputs [R, width], the pass's rows, how often the member counts each row [rows] or
None, denominator) → (loss, statistics). R: responses, one row's after the other's."""


@dataclass(frozen=True)
class _Objective:
    """A loss of reward models."""

    loss: _Loss
    count: str
    """Statistic that says what the loss is a mean over."""
    denominator: Callable[[pa.Table], float]
    """The same of some rows."""
    ranks: Callable[[RewardModelConfig, dict[str, Any]], list[int]]
    """People's rank of each response of a row, 1 = best; 0 = not ranked."""


@dataclass(frozen=True)
class RewardModelTask:
    """Every member of the ensemble minimises the objective's loss on its own resampling of the rows; the loss is the
    mean over them. Statistics are of the score, the members' mean, on the rows as they are."""

    cfg: RewardModelConfig
    scalar = True
    reference_point = None

    @property
    def layout(self) -> ScalarHead:
        return ScalarHead(self.cfg.ensemble, self.cfg.aspects)

    @property
    def at_responses(self) -> bool:
        return self.cfg.lm_coef > 0

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_scalar(
            encoder.adapter,
            path,
            dtype,
            new_head=True,
            layout=self.layout,
            seed=self.cfg.seed,
            speaking=self.at_responses,
        )

    def reader(self, encoder: Encoder) -> Reader | None:
        """Next to the scalar outputs, the log-probability of the token that comes next."""
        return partial(_with_logprobs, self.layout.outputs) if self.at_responses else None

    def weights(self, rows: pa.Table) -> dict[str, float]:
        objective = _OBJECTIVES[self.cfg.objective]
        own = {objective.count: objective.denominator(rows)}
        return own | ({"language_tokens": float(sum(self._preferred(rows)))} if self.at_responses else {})

    def loss(self, encoder: Encoder, denominators: Mapping[str, float], measured: Mapping[str, float]) -> PassLoss:
        objective = _OBJECTIVES[self.cfg.objective]
        denominator = denominators[objective.count] or 1.0

        def loss(read: Tensor, batch: Batch, rows: pa.Table) -> tuple[Tensor, Stats]:
            output = self._scalars(read, rows)
            members = self.layout.by_member(output.float())
            counts = self._resampled(rows, output.device)
            parts = [
                objective.loss(self.cfg, members[:, k], rows, None if counts is None else counts[k], denominator)[0]
                for k in range(self.cfg.ensemble)
            ]
            with torch.no_grad():
                _, stats = objective.loss(self.cfg, members.mean(1), rows, None, denominator)
                score, uncertainty = self.layout.score(output.float())
                stats |= self._agreement(score, rows)
                if self.cfg.ensemble > 1:
                    stats |= {"uncertainty": uncertainty.sum(), "responses": score.new_tensor(float(len(score)))}
            ranking = torch.stack(parts).mean()
            if not self.at_responses:
                return ranking, stats
            preferred = torch.tensor(self._preferred(rows), dtype=torch.bool, device=read.device)
            spoken, more = language_term(read[len(output) :, -1], preferred, denominators["language_tokens"] or 1.0)
            return ranking + self.cfg.lm_coef * spoken, stats | more

        return loss

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        reported = {
            "loss": mean(stats, "reward_loss", _OBJECTIVES[self.cfg.objective].count),
            "pair_accuracy": mean(stats, "pair_accuracy", "pairs"),
        }
        if self.at_responses:
            reported["language_loss"] = mean(stats, "language_nll", "language_tokens")
        for aspect in self.cfg.aspects:
            reported[f"error_{aspect}"] = mean(stats, f"error_{aspect}", f"rated_{aspect}")
        if self.cfg.ensemble > 1:
            reported["uncertainty"] = mean(stats, "uncertainty", "responses")
        return reported

    def record(self, output: Tensor, rows: pa.Table) -> pa.Table:
        """EVAL_SCORE of a pass's responses."""
        outputs = self._scalars(output, rows).float().cpu()
        score, uncertainty = self.layout.score(outputs)
        said = self.layout.by_member(outputs).mean(1).tolist() if self.cfg.aspects else [[]] * len(outputs)
        members, responses = self.layout.member_scores(outputs).tolist(), iter(range(len(outputs)))
        ranks_of, records = _OBJECTIVES[self.cfg.objective].ranks, []
        for row in rows.to_pylist():
            for number, rank in enumerate(ranks_of(self.cfg, row)):
                k = next(responses)
                records.append(
                    {name: row[name] for name in ("row", "prompt_id", "task", "modality")}
                    | {
                        "response": number,
                        "score": score[k].item(),
                        "uncertainty": uncertainty[k].item(),
                        "members": members[k],
                        "rank": rank,
                        "aspects": said[k],
                        "ratings": row["ratings"][number] if self.cfg.aspects else [],
                        "form": [FORM[name](row["responses_token_ids"][number]) for name in self.cfg.debias],
                    }
                )
        return pa.Table.from_pylist(records, schema=EVAL_SCORE)

    def _scalars(self, output: Tensor, rows: pa.Table) -> Tensor:
        """The head's outputs [R, outputs], of what was read in the pass."""
        return output[: len(_owners(rows, output.device)), : self.layout.outputs] if self.at_responses else output

    def _preferred(self, rows: pa.Table) -> list[bool]:
        """Of each response's tokens, one response after the other: whether no response of its row is ranked higher."""
        found = []
        for row in rows.to_pylist():
            ranks = _OBJECTIVES[self.cfg.objective].ranks(self.cfg, row)
            for rank, response in zip(ranks, row["responses_token_ids"], strict=True):
                found += [rank == 1] * len(response)
        return found

    def _resampled(self, rows: pa.Table, device: torch.device) -> Tensor | None:
        if self.cfg.ensemble == 1:
            return None
        numbers = torch.tensor(rows.column("row").to_pylist(), dtype=torch.int64)
        return ensemble_weights(numbers, self.cfg.ensemble, self.cfg.seed).to(device)

    def _agreement(self, score: Tensor, rows: pa.Table) -> Stats:
        """`pairs` of one row that people ranked differently, and in how many the score agrees."""
        ranks_of = _OBJECTIVES[self.cfg.objective].ranks
        ranks = torch.tensor([r for row in rows.to_pylist() for r in ranks_of(self.cfg, row)], device=score.device)
        ranked = ranks > 0
        _, stats = plackett_luce_loss(score[ranked], ranks[ranked], _owners(rows, score.device)[ranked], 1.0)
        return {name: stats[name] for name in ("pairs", "pair_accuracy")}


def _with_logprobs(outputs: int, output: Tensor, tokens: Tensor) -> Tensor:
    """[N, outputs + 1] of a scalar head's outputs and the logits behind them [N, outputs + V]."""
    logprobs = token_logprobs(output[:, outputs:], tokens)
    return torch.cat([output[:, :outputs].float(), logprobs[:, None]], dim=1)


def _owners(rows: pa.Table, device: torch.device) -> Tensor:
    """Row of each response [R] in the pass."""
    sizes = [len(of_row) for of_row in rows.column("responses_token_ids").to_pylist()]
    return torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, dtype=torch.int64).to(device))


def _pairs(
    cfg: RewardModelConfig, outputs: Tensor, rows: pa.Table, counts: Tensor | None, denominator: float
) -> tuple[Tensor, Stats]:
    margin = None
    if cfg.margin_coef:
        margin = cfg.margin_coef * outputs.new_tensor(rows.column("margin").to_pylist())
    return bradley_terry_loss(
        outputs[0::2, 0],
        outputs[1::2, 0],
        denominator,
        margin=margin,
        label_smoothing=cfg.label_smoothing,
        center_coef=cfg.center_coef,
        weights=counts,
    )


def _rankings(
    cfg: RewardModelConfig, outputs: Tensor, rows: pa.Table, counts: Tensor | None, denominator: float
) -> tuple[Tensor, Stats]:
    owners = _owners(rows, outputs.device)
    flat = [rank for of_row in rows.column("ranks").to_pylist() for rank in of_row]
    ranks = torch.tensor(flat, dtype=torch.int64, device=outputs.device)
    return plackett_luce_loss(outputs[:, 0], ranks, owners, denominator, None if counts is None else counts[owners])


def _ratings(
    cfg: RewardModelConfig, outputs: Tensor, rows: pa.Table, counts: Tensor | None, denominator: float
) -> tuple[Tensor, Stats]:
    flat = [of_response for of_row in rows.column("ratings").to_pylist() for of_response in of_row]
    ratings = outputs.new_tensor(flat).reshape(outputs.shape)
    weights = None if counts is None else counts[_owners(rows, outputs.device)]
    loss, stats = rating_loss(outputs, ratings, denominator, weights)
    error = (outputs.detach() - ratings).abs()
    for number, aspect in enumerate(cfg.aspects):
        rated = ~ratings[:, number].isnan()
        stats |= {f"error_{aspect}": error[rated, number].sum(), f"rated_{aspect}": rated.sum().to(error.dtype)}
    return loss, stats


def _rated_entries(rows: pa.Table) -> float:
    given = rows.column("ratings").to_pylist()
    return float(sum(not np.isnan(value) for of_row in given for of_response in of_row for value in of_response))


def _given_ranks(cfg: RewardModelConfig, row: dict[str, Any]) -> list[int]:
    return list(row["ranks"])


def _ranks_by_rating(cfg: RewardModelConfig, row: dict[str, Any]) -> list[int]:
    """By the ratings that are asked for, weighted as in the score; responses that lack one are not ranked."""
    totals = np.array(row["ratings"], np.float64) @ np.array(list(cfg.aspects.values()))
    return [0 if np.isnan(own) else 1 + int((totals > own).sum()) for own in totals]


_OBJECTIVES: dict[str, _Objective] = {
    "bradley_terry": _Objective(_pairs, "pairs", lambda rows: float(len(rows)), lambda cfg, row: [1, 2]),
    "plackett_luce": _Objective(_rankings, "rankings", lambda rows: float(len(rows)), _given_ranks),
    "rating": _Objective(_ratings, "ratings", _rated_entries, _ranks_by_rating),
}
