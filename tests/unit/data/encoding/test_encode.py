"""Messages and media to ids and features, and what is refused."""

import json

import numpy as np
import pytest

from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    RawMedia,
    decode_response,
    encode_facts,
    encode_prompt,
    encode_response,
)
from tests.unit.tiny import encode, messages, mixed_media, noise, raw


def test_ids_are_the_processors_and_collapse_to_one_placeholder_a_clip(encoder: Encoder) -> None:
    for media in mixed_media(encoder):
        encoded = encode(encoder, media)
        placeholders = {
            kind: encoder.tokenizer.convert_tokens_to_ids(getattr(encoder.processor, attribute))
            for kind, attribute in encoder.adapter.placeholders.items()
        }
        kinds = [m.kind for m in media]
        for kind, token in placeholders.items():
            assert encoded.collapsed_token_ids.count(token) == kinds.count(kind)
        # Collapsing runs of a placeholder in the expanded ids gives the ids that the sampler gets.
        ids, media_ids = encoded.token_ids, set(placeholders.values())
        collapsed = [t for i, t in enumerate(ids) if t not in media_ids or i == 0 or ids[i - 1] != t]
        assert collapsed == encoded.collapsed_token_ids
        assert set(encoded.features) == {m.media_id for m in media}


def test_features_of_a_clip_do_not_depend_on_its_company(encoder: Encoder) -> None:
    kinds = list(encoder.adapter.placeholders)
    together = [raw(kind, seed) for seed in (1, 2) for kind in kinds]
    encoded = encode(encoder, together)
    for clip in together:
        alone = encode(encoder, [clip]).features[clip.media_id]
        assert set(alone) == set(encoder.adapter.feature_keys[clip.kind])
        for key, value in alone.items():
            assert np.array_equal(value, encoded.features[clip.media_id][key]), (clip.kind, key)


def test_a_clip_shown_twice_has_its_features_once(encoder: Encoder) -> None:
    clip = raw("image", 1)
    twice = encode(encoder, [clip, clip])
    assert list(twice.features) == [clip.media_id]
    once = encode(encoder, [clip]).features[clip.media_id]
    assert np.array_equal(twice.features[clip.media_id]["pixel_values"], once["pixel_values"])


def test_sounds_are_trimmed_to_their_own_frames(omni_encoder: Encoder) -> None:
    clips = [RawMedia(str(s), "audio", noise(1, s)) for s in (0.2, 0.4)]
    features = encode(omni_encoder, clips).features
    frames = [features[c.media_id]["input_features"].shape[-1] for c in clips]
    assert frames[0] < frames[1]
    for clip, length in zip(clips, frames, strict=True):
        assert features[clip.media_id]["feature_attention_mask"].tolist() == [[1] * length]


@pytest.mark.parametrize("seconds", [1.02, 1.1, 31.0])
def test_a_sound_longer_than_the_processor_takes_is_refused(omni_encoder: Encoder, seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"audio has {seconds:g} s, of which the model's processor takes 1 s"):
        encode(omni_encoder, [RawMedia("a", "audio", noise(1, seconds))])


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.03])
@pytest.mark.parametrize("others", [(), (0.5,)])
def test_a_sound_that_becomes_no_token_is_refused(
    omni_encoder: Encoder, seconds: float, others: tuple[float, ...]
) -> None:
    clips = [RawMedia(str(s), "audio", noise(1, s)) for s in (seconds, *others)]
    with pytest.raises(ValueError, match=rf"audio of {seconds:g} s is so short that it becomes no token"):
        encode(omni_encoder, clips)


def test_sounds_of_every_length_in_between_are_taken(omni_encoder: Encoder) -> None:
    for samples in (800, 801, 959, 1_600, 8_001, 15_999, 16_000):
        assert encode(omni_encoder, [RawMedia("a", "audio", noise(1, samples / 16_000))]).features


@pytest.mark.parametrize("where", ["part", "string"])
def test_control_tokens_in_text_are_refused(encoder: Encoder, where: str) -> None:
    token = encoder.processor.image_token
    text = f"look at {token} this"
    content = text if where == "string" else [{"type": "text", "text": text}]
    with pytest.raises(ValueError, match="text contains the control token") as error:
        encode_prompt(encoder, json.dumps([{"role": "user", "content": content}]), [])
    assert token in str(error.value)


def test_a_response_may_be_closed_by_the_template_only(encoder: Encoder) -> None:
    end = encoder.tokenizer.convert_ids_to_tokens(encoder.eos_token_ids[0])
    with pytest.raises(ValueError, match="control token"):
        encode_prompt(encoder, messages([], f"hello {end}"), [])


@pytest.mark.parametrize(
    ("parts", "shown", "words"),
    [
        (["image"], [], "1 image placeholder(s) for 0 image clip(s)"),
        ([], ["image"], "0 image placeholder(s) for 1 image clip(s)"),
        (["image"], ["image", "image"], "1 image placeholder(s) for 2 image clip(s)"),
        (["image"], ["video"], "1 image placeholder(s) for 0 image clip(s)"),
    ],
)
def test_placeholders_must_match_media(encoder: Encoder, parts: list[str], shown: list[str], words: str) -> None:
    with pytest.raises(ValueError, match="give one media part per clip") as error:
        encode_prompt(encoder, messages(parts), [raw(kind, i) for i, kind in enumerate(shown)])
    assert words in str(error.value)


def test_a_kind_the_family_lacks_is_named(vl_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="model family qwen2_5_vl takes image, video, got audio"):
        encode_prompt(vl_encoder, messages(["audio"]), [raw("audio", 1)])


def test_broken_media_is_a_value_error(encoder: Encoder) -> None:
    good = raw("image", 1)
    with pytest.raises(ValueError, match="image"):
        encode_prompt(encoder, messages(["image"]), [RawMedia("x", "image", good.data[: len(good.data) // 2])])


def test_responses_are_closed_and_read_back(encoder: Encoder) -> None:
    ids = encode_response(encoder, "read the image")
    assert ids[-1] == encoder.eos_token_ids[0]
    assert encoder.eos_token_ids[0] not in ids[:-1]
    assert decode_response(encoder, ids) == "read the image"
    assert len(encode_response(encoder, "read the image", max_tokens=len(ids))) == len(ids)
    with pytest.raises(ValueError, match=f"response has {len(ids)} tokens, expected at most {len(ids) - 1}"):
        encode_response(encoder, "read the image", max_tokens=len(ids) - 1)


def test_facts_end_with_a_line_break(encoder: Encoder) -> None:
    assert encode_facts(encoder, "") == []
    ids = encode_facts(encoder, "image 7")
    assert encoder.tokenizer.decode(ids) == "image 7\n"


def test_the_sampling_rate_is_the_extractors(omni_encoder: Encoder, vl_encoder: Encoder) -> None:
    assert omni_encoder.sampling_rate == omni_encoder.processor.feature_extractor.sampling_rate
    assert vl_encoder.sampling_rate == 16_000
