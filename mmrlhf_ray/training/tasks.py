"""Tasks of Ray Train jobs, and the first of them: a policy on demonstrations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.losses import feedback_loss, sft_loss
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.data.batches.collate import Batch, pad_rows
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import HeadedModel, ScalarHead, load_policy
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.passes import Reader, Trainable

PassLoss = Callable[[Tensor, Batch, pa.Table], tuple[Tensor, Stats]]
"""(what was read at the selected positions, batch, the pass's TRAINING_ROW rows) → (loss, statistics to be summed).

The sequences of the batch are the rows' responses, one row's after the other's. A pass without rows adds nothing, and
its statistics have the same keys."""
PassSums = Callable[[Tensor, Batch, pa.Table], Stats]
"""Statistics of a pass without a loss."""


PassRecord = Callable[[Tensor, pa.Table], pa.Table]
"""(what was read, the pass's rows) → what is written down of each response: columns `row`, `response` and others."""


class ReferencePoint(Protocol):
    """A statistic of the entire batch, or of all so far, that a loss takes as a constant.

    The worker runs the batch once without gradient and merges the sums over passes and ranks, so that neither sharding
    nor micro-batching changes it.
    """

    @property
    def running(self) -> bool:
        """Whether the loss takes it over this and all past batches of training, or of the batch alone."""

    def measured(self, rows: pa.Table) -> pa.Table:
        """The rows with the responses that are run for it only."""

    def trained(self, rows: pa.Table) -> pa.Table:
        """The rows with the responses that are learnt from."""

    def sums(self, encoder: Encoder) -> PassSums:
        """Sums over the measured responses; a loss gets it as `measured`."""


class SupervisedTask(Trainable, Protocol):
    """One kind of supervised training. A row may have any number of responses; they go through the model together, and
    a scalar head is read at the last token of each."""

    @property
    def layout(self) -> ScalarHead | None:
        """Of a scalar head's outputs."""

    @property
    def at_responses(self) -> bool:
        """Whether the head is read at the response tokens; behind the last ones, where it is a scalar one."""

    @property
    def record(self) -> PassRecord | None:
        """The records kept of held-out responses when training has ended."""

    @property
    def reference_point(self) -> ReferencePoint | None:
        """Quantities to measure before the loss."""

    def reader(self, encoder: Encoder) -> Reader | None:
        """How the head's output is read, for the loss and for all else; None = as it is."""

    def weights(self, rows: pa.Table) -> dict[str, float]:
        """These rows' contribution to each of the loss's denominators; the same keys for all rows."""

    def loss(self, encoder: Encoder, denominators: Mapping[str, float], measured: Mapping[str, float]) -> PassLoss:
        """`denominators`: weights() over all ranks and passes; a term whose denominator is 0 has no rows and adds
        nothing. `measured`: the reference point's sums, empty without one."""

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        """Metrics from statistics merged over passes and ranks."""


def response_lengths(rows: pa.Table) -> list[int]:
    """Tokens of each response, one row's after the other's."""
    return [len(response) for of_row in rows.column("responses_token_ids").to_pylist() for response in of_row]


def feedback_of(rows: pa.Table, device: torch.device) -> Tensor:
    """Feedback on each response [R], one row's after the other's."""
    flat = [value for of_row in rows.column("feedback").to_pylist() for value in of_row]
    return torch.tensor(flat, dtype=torch.float32, device=device)


def mean(stats: Mapping[str, float], key: str, count: str) -> float:
    """A sum over what it is a sum of; 0 for an empty sum."""
    return stats[key] / stats[count] if stats[count] else 0.0


@dataclass(frozen=True)
class SFTTask:
    """L′ = L + λH: negative log-likelihood of demonstrations, and λ = feedback_coef times the human-feedback loss.

    Rows with feedback 0 are demonstrations and make L, a mean over tokens; the others make H, a mean over responses.
    """

    feedback_coef: float = 0.0
    scalar = False
    at_responses = True
    layout = None
    record = None
    reference_point = None

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        return load_policy(encoder.adapter, path, dtype)

    def reader(self, encoder: Encoder) -> Reader:
        return ResponseLogprobs(encoder)

    def weights(self, rows: pa.Table) -> dict[str, float]:
        feedback = feedback_of(rows, torch.device("cpu")).tolist()
        lengths = response_lengths(rows)
        tokens = sum(length for length, judged in zip(lengths, feedback, strict=True) if not judged)
        return {"tokens": tokens, "feedback_rows": sum(judged != 0 for judged in feedback)}

    def loss(self, encoder: Encoder, denominators: Mapping[str, float], measured: Mapping[str, float]) -> PassLoss:
        def loss(output: Tensor, batch: Batch, rows: pa.Table) -> tuple[Tensor, Stats]:
            lengths, feedback = response_lengths(rows), feedback_of(rows, output.device)
            logprobs, mask = pad_rows(output, lengths), pad_rows(torch.ones_like(output, dtype=torch.bool), lengths)
            feedback = feedback if lengths else feedback.new_zeros(1)  # as pad_rows() makes a row where there is none
            # Without a row in the entire batch a term is an empty sum, whatever it is divided by.
            imitated, stats = sft_loss(logprobs, mask & (feedback == 0)[:, None], denominators["tokens"] or 1.0)
            judged, judged_stats = feedback_loss(logprobs, mask, feedback, denominators["feedback_rows"] or 1.0)
            return imitated + self.feedback_coef * judged, stats | judged_stats

        return loss

    def metrics(self, stats: Mapping[str, float]) -> dict[str, float]:
        nll = mean(stats, "nll", "tokens")
        if not stats["feedback_rows"]:
            return {"loss": nll, "response_tokens": stats["tokens"]}
        judged = mean(stats, "feedback_loss", "feedback_rows")
        sides = {f"{s}_logprobs": mean(stats, f"{s}_logprobs", s) for s in ("liked", "disliked") if stats[s]}
        parts = {"loss": nll + self.feedback_coef * judged, "nll": nll, "feedback_loss": judged}
        return parts | sides | {"response_tokens": stats["tokens"]}
