"""`mmrlhf export --quantize`: weights of eight bits, and what that costs on rows that the user gives."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval
from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, encode_prompt, encode_response, load_encoder
from mmrlhf_ray.data.errors import bad_rows_error
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import HeadedModel, load_policy
from mmrlhf_ray.models.card import CARD_FILE, CardFacts, Result, Results, add_results, base_of, write_card
from mmrlhf_ray.models.quantize import SCHEMES, layers_of, quantize_model, round_layers
from mmrlhf_ray.schema import DEMONSTRATION


@dataclass(frozen=True)
class Loss:
    """A model's responses of given rows under its own weights and under rounded ones. Intervals are over rows."""

    rows: int
    tokens: int
    before: Interval
    """Mean log-probability of a response token, in nats."""
    after: Interval
    difference: Interval
    """Of each row, after − before."""
    largest: float
    """|Δ| of the token that differs most."""
    same_choice: Interval
    """Share of the tokens at which both find the same token most probable."""


@dataclass(frozen=True)
class Quantized:
    """What was written."""

    path: Path
    kind: str
    before_bytes: int
    after_bytes: int
    loss: Loss


def quantize(source: Path, target: Path, kind: str, data: Path, most_rows: int) -> Quantized:
    """Write the model in `source` to `target` with the weights of its language model in eight bits, as SCHEMES[kind]
    says, and measure both on the first `most_rows` demonstrations in `data`, in float32 on the CPU. The card of
    `target` says what was lost.

    Raises as check(), DataError for rows that cannot be used, ModelError for a model that cannot be rounded; all before
    anything is written.
    """
    check(target, kind, data)
    encoder = load_encoder(source)
    layers = layers_of(encoder.adapter, source)
    batches = _batches(encoder, data, most_rows)
    model = load_policy(encoder.adapter, source, torch.float32)
    before = [_read(model, encoder, batch) for batch in batches]
    quantize_model(source, target, layers, kind)
    round_layers(model.backbone, encoder.adapter, target, layers, kind)
    after = [_read(model, encoder, batch) for batch in batches]
    found = Quantized(target, kind, _size(source), _size(target), _loss(before, after))
    _write_card(source, found, data)
    return found


def check(target: Path, kind: str, data: Path) -> None:
    """Raise ConfigError for what cannot be: another kind, a target that is there, data that are not."""
    if kind not in SCHEMES:
        raise ConfigError(f"--quantize {kind}: expected one of {', '.join(SCHEMES)}")
    if target.exists():
        raise ConfigError(f"{target}: expected a directory that is not there yet; remove it or choose another")
    if not data.exists():
        raise ConfigError(f"--data {data}: expected a file or directory of demonstrations, found none")


@dataclass(frozen=True)
class _Seen:
    """Of the tokens of one response."""

    logprobs: Tensor
    choices: Tensor
    """The most probable token at each position."""


def _batches(encoder: Encoder, data: Path, most_rows: int) -> list[Batch]:
    """One row each: rows of several lengths would be padded, and a model of one size fits in memory as it is."""
    with tempfile.TemporaryDirectory() as nowhere:
        read = read_records(DataConfig(path=str(data)), DEMONSTRATION, Path(nowhere))
    clips = {row["media_id"]: RawMedia.of(row) for row in read.media.to_pylist()}
    batches = []
    for number, row in enumerate(read.records.slice(0, most_rows).to_pylist()):
        try:
            prompt = encode_prompt(encoder, row["messages"], [clips[media_id] for media_id in row["media_ids"]])
            response = encode_response(encoder, row["response"])
        except ValueError as error:
            problem = read.bad_row(number, row["prompt_id"], str(error), "leave the row out or correct it")
            raise bad_rows_error([problem], f"{data}: a row cannot be used") from error
        tokens = TokenRow(prompt.token_ids, response, row["media_ids"])
        batches.append(collate([tokens], [], prompt.features, encoder.eos_token_ids[0]))
    return batches


@torch.no_grad()
def _read(model: HeadedModel, encoder: Encoder, batch: Batch) -> _Seen:
    logits = model(batch.response_positions, **batch.inputs).float()
    logprobs = logits.log_softmax(-1).gather(1, batch.response_tokens[:, None])[:, 0]
    return _Seen(logprobs, logits.argmax(-1))


def _loss(before: Sequence[_Seen], after: Sequence[_Seen]) -> Loss:
    own, other = ([float(seen.logprobs.mean()) for seen in side] for side in (before, after))
    same = [float((a.choices == b.choices).float().mean()) for a, b in zip(before, after, strict=True)]
    largest = max(float((b.logprobs - a.logprobs).abs().max()) for a, b in zip(before, after, strict=True))
    return Loss(
        rows=len(before),
        tokens=sum(len(seen.logprobs) for seen in before),
        before=mean_interval(own),
        after=mean_interval(other),
        difference=mean_interval(np.subtract(other, own)),
        largest=largest,
        same_choice=mean_interval(same),
    )


def _write_card(source: Path, found: Quantized, data: Path) -> None:
    """The model's own card, with what rounding its weights has cost."""
    if (source / CARD_FILE).is_file():
        shutil.copyfile(source / CARD_FILE, found.path / CARD_FILE)
    else:
        write_card(found.path, CardFacts(found.path.name, "Weights of eight bits.", [base_of(source)]))
    loss = found.loss
    rows = [
        Result(name, interval.estimate, interval.low, interval.high)
        for name, interval in (
            ("logprob_before", loss.before),
            ("logprob_after", loss.after),
            ("logprob_difference", loss.difference),
            ("same_choice", loss.same_choice),
        )
    ]
    note = (
        f"The language model's linear layers are in eight bits ({found.kind}, compressed-tensors); "
        f"{found.before_bytes / 1e6:.1f} MB became {found.after_bytes / 1e6:.1f} MB. Log-probabilities in nats per "
        f"response token: {loss.rows} rows, {loss.tokens} tokens, float32; brackets are 95 % intervals over rows. The "
        f"largest difference of one token is {loss.largest:.3g}."
    )
    add_results(found.path, Results("Quantisation", data.name, rows, note))


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
