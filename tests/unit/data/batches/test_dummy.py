"""A dummy for each kind runs its tower."""

import pytest

from mmrlhf_ray.data.batches.dummy import dummy_rows
from mmrlhf_ray.data.encoding.encode import Encoder


def test_each_kind_and_text_has_a_row(encoder: Encoder) -> None:
    kinds = list(encoder.adapter.placeholders)
    rows, features = dummy_rows(encoder, kinds)
    assert list(rows) == ["text", *kinds]
    assert rows["text"].media_ids == []
    for kind in kinds:
        (media_id,) = rows[kind].media_ids
        assert set(features[media_id]) == set(encoder.adapter.feature_keys[kind])
        token = encoder.tokenizer.convert_tokens_to_ids(getattr(encoder.processor, encoder.adapter.placeholders[kind]))
        assert token in rows[kind].context
        assert rows[kind].response == []
    assert len(features) == len(kinds)


def test_dummies_are_short(encoder: Encoder) -> None:
    rows, _ = dummy_rows(encoder, list(encoder.adapter.placeholders))
    assert all(len(row) < 64 for row in rows.values())


def test_a_kind_the_family_lacks_is_refused(vl_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="got audio"):
        dummy_rows(vl_encoder, ["audio"])
