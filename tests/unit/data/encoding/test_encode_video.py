"""What the processor is told of sampled clips, and that everybody who decodes samples alike."""

from dataclasses import replace

import numpy as np
import pytest

from mmrlhf_ray.config.data import DataConfig, VideoSampling
from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    RawMedia,
    load_encoder,
    media_arguments,
    processor_arguments,
    processor_kwargs,
)
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions
from mmrlhf_ray.data.encoding.training_rows import _encoder as encoder_of_rows
from mmrlhf_ray.workers.roles.engine_input import vllm_input
from tests.unit.tiny import encode, picture, raw

CLIP = raw("video", 1)  # 4 frames, 4 a second


def sampling(encoder: Encoder, **video) -> Encoder:
    return replace(encoder, decoding=replace(encoder.decoding, video=VideoSampling(**video)))


@pytest.mark.parametrize("family", ["omni", "vl"])
def test_the_configuration_reaches_the_decoder(family, request):
    path = request.getfixturevalue(family)
    configured = load_encoder(path, DataConfig(path="x", video={"max_frames": 2}, limits={"pixels": 300}))
    assert len(media_arguments(configured, [CLIP])["video"][0]) == 2
    with pytest.raises(ValueError, match="image has 1024 pixels, the limit is 300"):
        media_arguments(configured, [RawMedia("i", "image", picture(1, (32, 32)))])
    assert len(media_arguments(load_encoder(path), [CLIP])["video"][0]) == 4


def test_training_rows_decode_as_configured(omni):
    data = DataConfig(path="x", video={"fps": 2})
    options = EncodeOptions(str(omni), None, 64, 128, data=data)
    assert encoder_of_rows(
        options.model_path, options.data, options.allowed, options.tools
    ).decoding.video == VideoSampling(fps=2)


def test_fewer_frames_are_fewer_tokens(encoder):
    assert len(encode(sampling(encoder, max_frames=2), [CLIP]).token_ids) < len(encode(encoder, [CLIP]).token_ids)


@pytest.mark.parametrize(
    ("video", "seconds"), [({}, 0.5), ({"fps": 2}, 1.0), ({"fps": 8}, 0.25), ({"max_frames": 2}, 1.0)]
)
def test_the_processor_knows_how_long_a_frame_lasts(vl_encoder, video, seconds):
    """Two frames make one step of the model's time."""
    features = encode(sampling(vl_encoder, **video), [CLIP]).features[CLIP.media_id]
    assert features["second_per_grid_ts"].tolist() == pytest.approx([seconds])


def test_a_family_with_one_rate_for_all_clips_is_told_the_configured_one(omni_encoder):
    assert "fps" not in processor_kwargs(omni_encoder)["videos_kwargs"]
    asked = sampling(omni_encoder, fps=4)
    assert processor_kwargs(asked)["videos_kwargs"]["fps"] == 4
    features = encode(asked, [CLIP]).features[CLIP.media_id]
    assert features["video_second_per_grid"].tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("video", [{}, {"fps": 2}, {"fps": 2, "max_frames": 1}])
def test_the_sampler_gets_the_same_frames_and_times(vl_encoder, video):
    encoder = sampling(vl_encoder, **video)
    row = {"collapsed_token_ids": [1], "media_ids": [CLIP.media_id]}
    request = vllm_input(encoder, row, {CLIP.media_id: CLIP})
    ((frames, told),) = request["multi_modal_data"]["video"]
    given = processor_arguments(encoder, [CLIP])
    assert np.array_equal(frames, given["videos"][0])
    assert told == given["video_metadata"][0]
