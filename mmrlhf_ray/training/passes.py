"""Rows through a model, pass by pass: the loop that SFT, reward model, PPO learners and servers share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.statistics import Stats, merge_stats
from mmrlhf_ray.data.batches.batching import MicroBatch
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.batches.dummy import dummy_rows
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import Encoder, Features
from mmrlhf_ray.models import HeadedModel, Reading
from mmrlhf_ray.runtime.devices import Held, held, tensor_bytes

Reader = Callable[[Tensor, Tensor], Tensor]
"""(head output [n, ·], the tokens that come next [n]) → [n] or [n, ·], each row by itself. Where a response's last
token is read there is no next one, and the tokens mean nothing."""
Beside = Callable[[Sequence[int]], Tensor]
"""Row numbers of a pass → numbers [n, ·] for a reader, next to each of the rows' response tokens. Given to it as
further columns of the tokens, which are then float32."""
LOGITS_TILE = 1024


class Trainable(Protocol):
    """A model to train, whatever its loss is."""

    @property
    def scalar(self) -> bool:
        """Whether the head is a scalar one."""

    def load(self, encoder: Encoder, path: Path, dtype: torch.dtype) -> HeadedModel:
        """The model in the directory `path`, which `encoder` is of as well."""


class Forward(Protocol):
    """A model that can be run: a TrainEngine, or a HeadedModel that only answers."""

    def forward(self, select: Tensor, reading: Reading | None = None, **inputs: Tensor) -> Tensor: ...


class Learning(Protocol):
    """A model that learns: a TrainEngine. Those who only answer need not import DeepSpeed."""

    def backward(self, loss: Tensor, *, last: bool) -> None: ...


LossFunction = Callable[[Tensor, Batch, Sequence[int]], tuple[Tensor, Stats]]
"""(what was read at the selected positions, batch, row numbers) → (loss, statistics to be summed)."""


class Passes:
    """Runs a model over the passes that plan_shards() laid out. `tile`: positions whose head output is in memory at a
    time. `spread`: ranks that each pass is spread over."""

    def __init__(
        self, model: Forward, encoder: Encoder, device: torch.device, tile: int = LOGITS_TILE, spread: int = 1
    ):
        self._model = model
        self._device = device
        self._tile = tile
        self._spread = spread
        self._towers = encoder.adapter.towers
        self._pad_token_id = encoder.eos_token_ids[0]  # never attended to
        self._dummies, self._dummy_features = dummy_rows(encoder, list(encoder.adapter.placeholders))

    def batches(
        self, rows: Sequence[TokenRow], features: Mapping[str, Features], passes: Sequence[MicroBatch]
    ) -> Iterator[Batch]:
        """Padded tensors of each pass, with the dummy rows it needs."""
        for micro_batch in passes:
            real = [rows[i] for i in micro_batch.rows]
            dummies = [self._dummies[kind] for kind in micro_batch.dummies]
            known = {**features, **self._dummy_features}
            if micro_batch.lines is None and self._spread == 1:
                batch = collate(real, dummies, known, self._pad_token_id)
            else:
                batch = collate_lines(
                    real,
                    micro_batch.lines or (),
                    dummies,
                    known,
                    self._pad_token_id,
                    self._towers,
                    packed=micro_batch.packed,
                    spread=self._spread,
                )
            yield batch.to(self._device)

    def run(
        self,
        batch: Batch,
        read: Reader | None,
        *,
        at_last: bool = False,
        at_responses: bool | None = None,
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The head's output, or what `read` makes of it, at the response positions (or at each row's last token; with
        both, first at the last tokens); and at the anchors. `beside` [responses' tokens, ·]: numbers that `read` is
        given next to the tokens, 0 at the anchors."""
        lasts = batch.last_positions if at_last else batch.last_positions[:0]
        spoken = not at_last if at_responses is None else at_responses
        positions = torch.cat([lasts, batch.response_positions]) if spoken else lasts
        # The anchors keep the selection non-empty on ranks that have no row in this pass.
        select = torch.cat([positions, batch.anchor_positions])
        tokens = torch.full_like(select, self._pad_token_id)
        if spoken:
            tokens[len(lasts) : len(positions)] = batch.response_tokens
        if beside is not None:
            more = beside.new_zeros(len(select), beside.shape[1], device=select.device)
            more[len(lasts) : len(positions)] = beside.to(select.device)
            tokens = torch.cat([tokens[:, None].to(more.dtype), more], dim=1)
        reading = None if read is None else Reading(read, tokens, self._tile)
        output = self._model.forward(select, reading, **batch.inputs)
        return output[: len(positions)], output[len(positions) :]

    @torch.no_grad()
    def infer(
        self,
        rows: Sequence[TokenRow],
        features: Mapping[str, Features],
        passes: Sequence[MicroBatch],
        read: Reader,
        *,
        at_last: bool = False,
    ) -> Iterator[tuple[MicroBatch, Tensor]]:
        """What is read at the response positions (or at each row's last token)."""
        for micro_batch, batch in zip(passes, self.batches(rows, features, passes), strict=True):
            yield micro_batch, self.run(batch, read, at_last=at_last)[0].float().cpu()

    def per_token(
        self,
        rows: Sequence[TokenRow],
        features: Mapping[str, Features],
        passes: Sequence[MicroBatch],
        read: Reader,
    ) -> list[np.ndarray]:
        """One value per response token from `read`, cut into rows; the passes must hold every row."""
        answers: dict[int, np.ndarray] = {}
        for micro_batch, values in self.infer(rows, features, passes, read):
            parts = values.split([len(rows[i].response) for i in micro_batch.rows])
            answers |= {row: part.numpy() for row, part in zip(micro_batch.rows, parts, strict=True)}
        return [answers[row] for row in range(len(rows))]


def train_step(
    engine: Learning,
    passes: Passes,
    rows: Sequence[TokenRow],
    features: Mapping[str, Features],
    step: Sequence[MicroBatch],
    loss_function: LossFunction,
    *,
    read: Reader | None = None,
    at_last: bool = False,
    at_responses: bool | None = None,
    beside: Beside | None = None,
) -> Stats:
    """One optimizer step over its passes, which run `engine`. `read`: what the loss is computed from; None = the
    head's output; where and with what `beside` it, as in Passes.run(). Returns the statistics merged over passes."""
    parts = []
    for number, (micro_batch, batch) in enumerate(zip(step, passes.batches(rows, features, step), strict=True)):
        more = None if beside is None else beside(micro_batch.rows)
        output, anchors = passes.run(batch, read, at_last=at_last, at_responses=at_responses, beside=more)
        loss, stats = loss_function(output, batch, micro_batch.rows)
        engine.backward(loss + anchors.float().sum() * 0.0, last=number == len(step) - 1)
        parts.append(stats)
    return merge_stats(parts)


class Inference:
    """A model that only answers."""

    def __init__(self, model: HeadedModel):
        self._model = model.eval()

    def leave(self) -> Held:
        """The model waits in the host's memory; what is left on its device."""
        device = next(self._model.parameters()).device
        self._model.to("cpu")
        return held(device, 0)

    def enter(self, device: torch.device) -> Held:
        """The model is on `device` again; what is there."""
        self._model.to(device)
        return held(device, tensor_bytes(self._model))

    def forward(self, select: Tensor, reading: Reading | None = None, **inputs: Tensor) -> Tensor:
        output: Tensor = self._model(select, reading, **inputs)
        return output.to(select.device)


def device_map(device: str) -> str | None:
    """How a frozen model is loaded: on GPUs its layers are spread over all that the actor reserved, so that a large one
    need not fit on one."""
    return "auto" if device == "cuda" else None
