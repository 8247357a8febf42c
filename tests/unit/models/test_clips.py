"""Each clip goes through its tower once per pass, and nothing else changes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder, Features, RawMedia
from mmrlhf_ray.models import HeadedModel
from tests.unit.models.test_families import clip
from tests.unit.tiny import token_rows


def repeated(encoder: Encoder, kind: str) -> tuple[list[TokenRow], dict[str, Features]]:
    """Rows that show two clips of a kind again and again: in samples of one prompt, in other prompts, twice in one."""
    first, second = clip(kind, 2), clip(kind, 3)
    shown = [[first], [first], [second, first], [first, first], [second]]
    token = len(encoder.tokenizer) - 20
    return token_rows(encoder, shown, [[token + (3 * i + k) % 20 for k in range(2 + i % 3)] for i in range(5)])


Passed = tuple[Tensor, dict[str, Tensor]]


def passed(model: HeadedModel, batch: Batch) -> Passed:
    """Log-probabilities of the response tokens, and the gradients of their sum weighed by place."""
    model.zero_grad(set_to_none=True)
    values = model(batch.response_positions, **batch.inputs).log_softmax(-1)
    values = values.gather(1, batch.response_tokens[:, None])[:, 0]
    (values * torch.linspace(1.0, 2.0, len(values))).sum().backward()
    return values.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(model: HeadedModel, one: Batch, other: Batch, atol: float = 1e-5) -> None:
    """The same values and gradients."""
    alike(passed(model, one), passed(model, other), atol)


def alike(one: Passed, other: Passed, atol: float = 1e-5) -> None:
    """Values by themselves; gradients, which are sums over all tokens, by the size of the largest."""
    (values, gradients), (others, of_other) = one, other
    torch.testing.assert_close(values, others, atol=atol, rtol=0)
    assert gradients.keys() == of_other.keys()
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        gap = float((gradient - of_other[name]).abs().max()) / max(1.0, largest)
        assert gap < atol, f"{name}: {gap} of {largest}"


def kinds(encoder: Encoder) -> Sequence[str]:
    return list(encoder.adapter.placeholders)


def numbers_seen(model: HeadedModel, batch: Batch, key: str) -> list[int]:
    """How many numbers each call of a tower reads."""
    seen: list[int] = []

    def note(module: torch.nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append((named[key] if key in named else given[0]).numel())

    towers = [
        m for n, m in model.backbone.base_model.named_children() if n in ("visual", "vision_tower", "audio_tower")
    ]
    handles = [tower.register_forward_pre_hook(note, with_kwargs=True) for tower in towers]
    with torch.no_grad():
        model(batch.response_positions, **batch.inputs)
    for handle in handles:
        handle.remove()
    return seen


def test_values_and_gradients_are_those_of_every_place(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    towers = family_encoder.adapter.towers
    for kind in kinds(family_encoder):
        rows, features = repeated(family_encoder, kind)
        same(family_policy, collate(rows, [], features, 0), collate(rows, [], features, 0, towers))


def test_kinds_of_media_do_not_mix(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    of_kinds = [clip(kind, 2) for kind in kinds(family_encoder)]
    shown: list[list[RawMedia]] = [of_kinds, [], of_kinds[::-1], of_kinds[:1], [clip("image", 3), of_kinds[-1]]]
    token = len(family_encoder.tokenizer) - 20
    rows, features = token_rows(family_encoder, shown, [[token + i, token + 5] for i in range(5)])
    towers = family_encoder.adapter.towers
    same(family_policy, collate(rows, [], features, 0), collate(rows, [], features, 0, towers))


def test_a_tower_runs_once_on_each_clip_once(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    for kind in kinds(family_encoder):
        key = family_encoder.adapter.feature_keys[kind][0]
        rows, features = repeated(family_encoder, kind)
        apart = [rows[0], rows[4]]
        (of_two,) = numbers_seen(family_policy, collate(apart, [], features, 0), key)
        (once,) = numbers_seen(family_policy, collate(rows, [], features, 0, family_encoder.adapter.towers), key)
        (everywhere,) = numbers_seen(family_policy, collate(rows, [], features, 0), key)
        assert once == of_two < everywhere / 3


def test_without_repetition_nothing_changes(family_encoder: Encoder) -> None:
    rows, features = repeated(family_encoder, "image")
    once = rows[::4]
    plain, shared = collate(once, [], features, 0), collate(once, [], features, 0, family_encoder.adapter.towers)
    assert plain.inputs.keys() == shared.inputs.keys()
    assert all(torch.equal(plain.inputs[key], shared.inputs[key]) for key in plain.inputs)


def test_clips_are_numbered_as_they_are_shown_first(family_encoder: Encoder) -> None:
    rows, features = repeated(family_encoder, "image")
    inputs = collate(rows, [], features, 0, family_encoder.adapter.towers).inputs
    assert inputs["clips_of_pixel_values"].tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert inputs["rows_of_pixel_values"].tolist() == [len(of_clip["pixel_values"]) for of_clip in features.values()]
