"""Which frames of a clip are kept, and when they are said to be on display."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import clip_metadata
from mmrlhf_ray.data.media import (
    MediaLimits,
    VideoSampling,
    decode_audio,
    decode_sound_track,
    decode_video,
    media_row,
)

SIDE = 16


def shade(number):
    """A frame that says which it is."""
    return np.full((SIDE, SIDE, 3), 10 * number, np.uint8)


def numbers(clip):
    return np.rint(clip.frames.mean((1, 2, 3)) / 10).astype(int).tolist()


def timed(starts, form="matroska", codec="ffv1", pix_fmt="bgr0"):
    """A clip whose frame i is shown from `starts[i]` milliseconds on."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)  # how long the last frame is shown
        stream.width = stream.height = SIDE
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, start in enumerate(starts):
            frame = av.VideoFrame.from_ndarray(shade(number), format="rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def animation(form, milliseconds):
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(shade(i)) for i in range(len(milliseconds)))
    options = {"lossless": True} if form == "WEBP" else {}
    first.save(buffer, form, save_all=True, append_images=others, duration=milliseconds, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def even():
    """20 frames, 10 a second."""
    return timed(range(0, 2_000, 100))


def test_all_frames_are_told_the_clips_own_rate(even):
    clip = decode_video(even)
    assert numbers(clip) == list(range(20))
    assert clip.indices == tuple(range(20))
    assert clip.fps == pytest.approx(10)
    assert clip.total == 20
    about = clip_metadata(clip)
    assert about["frames_indices"] == list(range(20))
    assert about["duration"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("fps", "kept"),
    [(1, [0, 10]), (2, [0, 5, 10, 15]), (5, list(range(0, 20, 2))), (3, [0, 3, 6, 10, 13, 16]), (10, list(range(20)))],
)
def test_frames_by_rate(even, fps, kept):
    clip = decode_video(even, sampling=VideoSampling(fps=fps))
    assert numbers(clip) == kept
    assert clip.fps == fps
    assert clip.seconds.tolist() == [i / fps for i in range(len(kept))]
    assert clip.total == len(kept)


def test_a_rate_above_the_clips_own_keeps_frames_as_long_as_they_are_shown(even):
    clip = decode_video(even, sampling=VideoSampling(fps=20))
    assert numbers(clip) == [i // 2 for i in range(40)]


@pytest.mark.parametrize(
    ("most", "kept"), [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (20, range(20)), (99, range(20))]
)
def test_at_most_so_many_evenly(even, most, kept):
    clip = decode_video(even, sampling=VideoSampling(max_frames=most))
    assert numbers(clip) == list(kept)
    assert clip.seconds == pytest.approx([i / 10 for i in kept])
    assert clip.total == 20


def test_rate_and_number_together(even):
    clip = decode_video(even, sampling=VideoSampling(fps=5, max_frames=2))
    assert numbers(clip) == [4, 14]  # of 0, 2, 4, … 18 the third and the eighth
    assert clip.seconds == pytest.approx([0.4, 1.4])


def test_variable_frame_rate_goes_by_time_stamps():
    data = timed([0, 100, 200, 1_200, 1_300, 2_000])
    clip = decode_video(data, sampling=VideoSampling(fps=2))
    assert numbers(clip) == [0, 2, 2, 4, 5]  # on display at 0, 0.5, 1, 1.5 and 2 seconds
    every = decode_video(data)
    assert numbers(every) == list(range(6))
    assert every.seconds == pytest.approx([0, 0.1, 0.2, 1.2, 1.3, 2.0], abs=0.01)


def test_time_stamps_need_not_begin_at_zero():
    late, prompt = timed([5_000, 5_500, 6_000]), timed([0, 500, 1_000])
    for sampling in (VideoSampling(), VideoSampling(fps=2), VideoSampling(max_frames=2)):
        a, b = decode_video(late, sampling=sampling), decode_video(prompt, sampling=sampling)
        assert (numbers(a), a.indices, a.fps) == (numbers(b), b.indices, b.fps)


@pytest.mark.parametrize(
    ("form", "codec", "pix_fmt"),
    [("mp4", "mpeg4", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("mp4", "libx264", "yuv420p")],
)
def test_other_containers_and_frames_stored_out_of_order(form, codec, pix_fmt):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = pix_fmt
        stream.codec_context.bit_rate = 4_000_000
        stream.codec_context.max_b_frames = 0 if form == "avi" else 2
        for number in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade(number), format="rgb24")))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    assert numbers(decode_video(data)) == list(range(20))
    assert numbers(decode_video(data, sampling=VideoSampling(fps=2))) == [0, 5, 10, 15]
    assert numbers(decode_video(data, sampling=VideoSampling(max_frames=4))) == [2, 7, 12, 17]


def test_limits_count_the_frames_that_are_kept(even):
    limits = MediaLimits(frames=4, clip_pixels=4 * SIDE * SIDE)
    assert len(decode_video(even, limits, VideoSampling(fps=2))) == 4
    with pytest.raises(ValueError, match="video has 6 frames, the limit is 4"):
        decode_video(even, limits, VideoSampling(fps=3))
    with pytest.raises(ValueError, match="pixels over all frames"):
        decode_video(even, MediaLimits(clip_pixels=3 * SIDE * SIDE), VideoSampling(fps=2))
    with pytest.raises(ValueError, match=r"2 seconds, the limit is 1\.5"):
        decode_video(even, MediaLimits(seconds=1.5), VideoSampling(max_frames=1))


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_animations_are_clips(form):
    data = animation(form, [100, 100, 800, 200])
    assert media_row("video", data)["mime"] == f"image/{form.lower()}"
    every = decode_video(data)
    assert numbers(every) == [0, 1, 2, 3]
    assert every.seconds == pytest.approx([0, 0.1, 0.2, 1.0], abs=0.02)
    clip = decode_video(data, sampling=VideoSampling(fps=2.5))
    assert numbers(clip) == [0, 2, 2]  # at 0, 0.4 and 0.8 of 1.2 seconds
    assert numbers(decode_video(data, sampling=VideoSampling(max_frames=2))) == [1, 3]


def test_animations_that_say_no_time_are_shown_as_browsers_show_them():
    assert decode_video(animation("GIF", [0, 0, 0])).fps == pytest.approx(10)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_a_still_is_a_clip_of_one_frame(form):
    buffer = io.BytesIO()
    Image.fromarray(shade(3)).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    clip = decode_video(buffer.getvalue())
    assert numbers(clip) == [3]
    assert len(decode_video(buffer.getvalue(), sampling=VideoSampling(max_frames=8))) == 1


def test_clips_of_one_frame_have_a_rate():
    for sampling in (VideoSampling(), VideoSampling(fps=4), VideoSampling(max_frames=3)):
        about = clip_metadata(decode_video(timed([0]), sampling=sampling))
        assert about["fps"] > 0
        assert about["total_num_frames"] >= len(about["frames_indices"]) == 1


def with_sound(tone, seconds=1.0, rate=44_100):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="stereo")
        for number in range(int(10 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(shade(number), format="rgb24")))
        container.mux(video.encode(None))
        both = np.repeat(tone(440, rate, seconds)[None], 2, axis=0)
        frame = av.AudioFrame.from_ndarray(both, format="fltp", layout="stereo")
        frame.sample_rate = rate
        for block in av.AudioResampler(format=audio.format, frame_size=1024).resample(frame):
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return buffer.getvalue()


def test_the_sound_track_becomes_a_wav_of_its_own(tone):
    data = with_sound(tone)
    wav = decode_sound_track(data)
    assert wav == decode_sound_track(data)
    assert media_row("audio", wav)["mime"] == "audio/wav"
    samples = decode_audio(wav, None)
    assert abs(len(samples) - 44_100) < 3_000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * 44_100 / len(samples) == pytest.approx(440, abs=2)


def test_a_clip_without_sound_has_none(even):
    assert decode_sound_track(even) is None
    assert decode_sound_track(animation("GIF", [100, 100])) is None


def test_sampling_is_configured_with_the_data():
    config = DataConfig(path="x", video={"fps": 2, "max_frames": 8})
    assert config.video == VideoSampling(fps=2, max_frames=8)
