"""Every family with an adapter, on a small real model and its own processor. (Against vLLM: mmrlhf parity.)"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmrlhf_ray.data.batches.collate import TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder, Features, RawMedia, processor_arguments
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.models import HeadedModel, checkpoint_tensors, export_model, load_policy
from mmrlhf_ray.pipelines.parity.cases import MAKERS
from tests.unit.tiny import encode, token_rows


def clip(kind: str, seed: int, version: int = 0) -> RawMedia:
    """Clips of other seeds differ in size and length; videos of one prompt do not, which some processors want. Other
    versions are other files."""
    data = MAKERS[kind](np.random.default_rng((seed, version)), 0 if kind == "video" else seed)
    return RawMedia(media_id(data), kind, data)


Shown = list[tuple[str, int]]
"""Kind and seed of each clip of a prompt."""


def layouts(encoder: Encoder) -> list[Shown]:
    """Nothing, each kind alone, several of a kind, all kinds together."""
    kinds = list(encoder.adapter.placeholders)
    alone = [[(kind, 1)] for kind in kinds]
    several = [[(kind, 2), (kind, 3)] for kind in kinds]
    return [[], *alone, *several, [(kind, seed) for seed in (4, 5) for kind in kinds]]


def prompts(encoder: Encoder) -> list[list[RawMedia]]:
    return [[clip(*of_clip) for of_clip in shown] for shown in layouts(encoder)]


def rows_of(encoder: Encoder, shown: Sequence[Sequence[RawMedia]]) -> tuple[list[TokenRow], dict[str, Features]]:
    first = len(encoder.tokenizer) - 20
    return token_rows(encoder, shown, [[first + (3 * i + k) % 20 for k in range(2 + i % 3)] for i in range(len(shown))])


@torch.no_grad()
def logprobs(model: HeadedModel, rows: Sequence[TokenRow], features: dict[str, Features]) -> list[Tensor]:
    """Of each row's response tokens, all rows in one batch."""
    batch = collate(rows, [], features, 0)
    output = model(batch.response_positions, **batch.inputs).log_softmax(-1)
    flat = output.gather(1, batch.response_tokens[:, None])[:, 0]
    return list(flat.split([len(row.response) for row in rows]))


def test_names_and_values_are_those_of_the_checkpoint(
    family_dir: Path, family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    saved = load_file(family_dir / "model.safetensors")
    adapter = family_encoder.adapter
    named = {n: t for k, p in family_policy.named_parameters() for n, t in checkpoint_tensors(adapter, k, p.detach())}
    assert set(named) == set(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in named.items())


def test_the_architecture_is_the_model_without_weights(family_dir: Path, family_encoder: Encoder) -> None:
    empty = family_encoder.adapter.architecture(family_dir)
    whole = family_encoder.adapter.load(family_dir, torch.float32)
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert all(p.is_meta for p in empty.parameters())


def test_features_of_clips_joined_are_the_processors_batch(family_encoder: Encoder) -> None:
    kinds = list(family_encoder.adapter.placeholders)
    for shown in (
        [clip(kind, seed) for seed in (4, 5) for kind in kinds],
        [clip(kinds[0], seed) for seed in (1, 2, 3)],
    ):
        encoded = encode(family_encoder, shown)
        chat = [{"role": "user", "content": [{"type": m.kind} for m in shown]}]
        text = family_encoder.processor.apply_chat_template(chat, tokenize=False)
        given = processor_arguments(family_encoder, shown)
        whole = family_encoder.processor(text=[text], **given, return_tensors="pt")
        rows = [TokenRow(encoded.token_ids, [0], [m.media_id for m in shown])]
        joined = collate(rows, [], encoded.features, 0).inputs
        for key in {k for kind in kinds for k in family_encoder.adapter.feature_keys[kind]} & joined.keys():
            want = torch.as_tensor(whole[key])
            # The extractor pads sounds to its whole window, which the model reads as nothing.
            got = torch.zeros_like(want)
            got[..., : joined[key].shape[-1]] = joined[key].to(want.dtype)
            silent = (
                want if key != "input_features" else want * torch.as_tensor(whole["feature_attention_mask"])[:, None]
            )
            torch.testing.assert_close(got, silent, msg=key)


def test_every_clip_has_placeholders_for_what_the_tower_gives(
    family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    # transformers' classes refuse another number of features than placeholders.
    for shown in prompts(family_encoder)[1:]:
        (row,), features = rows_of(family_encoder, [shown])
        logprobs(family_policy, [row], features)
        encoded = encode(family_encoder, shown)
        written = Counter(encoded.token_ids)
        written.subtract(encoded.collapsed_token_ids)
        placeholder = written.most_common(1)[0][0]
        one_more = TokenRow([placeholder, *row.context], row.response, row.media_ids)
        with pytest.raises((ValueError, RuntimeError, IndexError, StopIteration)):
            logprobs(family_policy, [one_more], features)


def test_a_batch_of_mixed_rows_is_one_row_after_the_other(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    rows, features = rows_of(family_encoder, prompts(family_encoder))
    together = logprobs(family_policy, rows, features)
    for row, of_row in zip(rows, together, strict=True):
        (alone,) = logprobs(family_policy, [row], features)
        torch.testing.assert_close(of_row, alone, atol=5e-5, rtol=0)


def test_another_file_changes_the_rows_that_show_it_and_no_other(
    family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    shown = prompts(family_encoder)
    before = logprobs(family_policy, *rows_of(family_encoder, shown))
    for number, layout in enumerate(layouts(family_encoder)):
        for place, (kind, seed) in enumerate(layout):
            other = [list(media) for media in shown]
            other[number][place] = clip(kind, seed, version=1)
            after = logprobs(family_policy, *rows_of(family_encoder, other))
            for row, (was, now) in enumerate(zip(before, after, strict=True)):
                if row == number:
                    assert float((was - now).abs().max()) > 1e-3, (number, kind)
                else:
                    assert float((was - now).abs().max()) < 1e-5, (number, row, kind, was - now)


@torch.no_grad()
def test_an_export_is_the_same_model(
    family_dir: Path, family_encoder: Encoder, family_policy: HeadedModel, tmp_path: Path
) -> None:
    tensors = {name: parameter.detach() for name, parameter in family_policy.named_parameters()}
    export_model(family_encoder.adapter, family_dir, tmp_path / "model", tensors, scalar=False)
    assert (
        load_file(tmp_path / "model" / "model.safetensors").keys() == load_file(family_dir / "model.safetensors").keys()
    )
    again = load_policy(family_encoder.adapter, tmp_path / "model", torch.float32)
    rows, features = rows_of(family_encoder, prompts(family_encoder)[:2])
    for was, now in zip(logprobs(family_policy, rows, features), logprobs(again, rows, features), strict=True):
        assert torch.equal(was, now)
