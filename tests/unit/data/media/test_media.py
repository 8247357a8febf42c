"""Decoding: right for good bytes, a plain ValueError for bad ones, refused by the header where it is too large."""

import hashlib
import io
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.data.media import (
    MediaLimits,
    decode,
    decode_audio,
    decode_image,
    decode_video,
    media_id,
    media_row,
)


def peak_hertz(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate / len(samples)


# Identity and format


@pytest.mark.parametrize(
    ("form", "mime"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")],
)
def test_image_formats_are_told_by_their_bytes(png, form, mime):
    data = png((0, 0, 255), form=form)
    row = media_row("image", data)
    assert row == {"media_id": hashlib.sha256(data).hexdigest(), "kind": "image", "mime": mime, "data": data}
    image = decode_image(data)
    assert image.mode == "RGB"
    assert image.size == (8, 6)
    assert np.abs(np.asarray(image).astype(int) - (0, 0, 255)).max() <= 3


def test_media_id_is_the_content():
    assert media_id(b"a") == hashlib.sha256(b"a").hexdigest()
    assert media_id(b"a") != media_id(b"b")


def test_media_of_another_kind_are_refused_by_name(png):
    with pytest.raises(ValueError, match=r"expected audio \(audio/wav, .*got image/png"):
        media_row("audio", png())


def test_playlists_are_never_opened():
    with pytest.raises(ValueError, match="expected video"):
        decode_video(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_empty_file(kind):
    with pytest.raises(ValueError, match="got an empty file"):
        decode(kind, b"", 16_000)


# Images


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_image(form):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form)
    data = buffer.getvalue()
    decode_image(data)
    for kept in (0.05, 0.5, 0.9):
        with pytest.raises(ValueError, match=r"cut off|broken header|damaged"):
            decode_image(data[: int(len(data) * kept)])


def test_transparency_lies_on_white(png):
    assert decode_image(png((0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(png((10, 20, 30, 255))).getpixel((0, 0)) == (10, 20, 30)


def test_image_is_turned_upright():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = decode_image(buffer.getvalue())
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(buffer, "PNG")
    assert np.asarray(decode_image(buffer.getvalue()))[0, :, 0].tolist() == [0, 128, 255]


def bomb_png(width, height):
    """A PNG whose header declares width × height, with no pixels behind it."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(ValueError, match="image has 64000000 pixels, the limit is 50000000"):
        decode_image(bomb_png(8_000, 8_000))
    with pytest.raises(ValueError, match="exceeds the limit of 50000000 pixels"):
        decode_image(bomb_png(200_000, 200_000))


def test_encoded_size_is_limited(png):
    with pytest.raises(ValueError, match=r"image has \d+ bytes, the limit is 10"):
        decode_image(png(), MediaLimits(bytes=10))


# Audio


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", None)])
def test_audio_at_its_own_rate_is_what_was_written(wav, tone, form, subtype):
    samples = tone(440, 16_000)
    decoded = decode_audio(wav(samples, form=form, subtype=subtype), 16_000)
    assert decoded.dtype == np.float32
    assert decoded.shape == samples.shape
    assert np.abs(decoded - samples).max() < (0.01 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize(("form", "subtype"), [("OGG", None), ("MP3", None)])
def test_lossy_audio(wav, tone, form, subtype):
    decoded = decode_audio(wav(tone(440, 16_000), form=form, subtype=subtype), 16_000)
    assert abs(len(decoded) - 16_000) < 2_000
    assert peak_hertz(decoded, 16_000) == pytest.approx(440, abs=1)


def test_audio_may_keep_its_own_rate(wav, tone):
    assert decode_audio(wav(tone(440, 8_000), 8_000), None).shape == (8_000,)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_level_length_and_position(wav, tone, rate):
    samples = tone(440, rate)
    decoded = decode_audio(wav(samples, rate), 16_000)
    assert abs(len(decoded) - 16_000) <= 1
    assert peak_hertz(decoded, 16_000) == pytest.approx(440, abs=1)
    expected = tone(440, 16_000)
    assert np.abs(decoded[200:15_800] - expected[200:15_800]).max() < 0.01


def test_resampling_removes_what_the_new_rate_cannot_hold(wav, tone):
    decoded = decode_audio(wav(tone(7_000, 16_000), 16_000), 8_000)
    assert np.abs(decoded[200:-200]).max() < 0.01


@pytest.mark.parametrize("channels", [2, 6, 8, 12])
def test_channels_are_averaged(wav, tone, channels):
    silent = np.zeros((8_000, channels), np.float32)
    silent[:, 0] = tone(440, 8_000)
    decoded = decode_audio(wav(silent, 8_000, subtype="FLOAT"), 8_000)
    assert np.allclose(decoded, tone(440, 8_000) / channels, atol=1e-6)


@pytest.mark.parametrize(("form", "codec", "mime"), [("mp4", "aac", "audio/mp4"), ("webm", "libopus", "audio/webm")])
def test_sound_tracks_are_averaged_too(tone, form, codec, mime):
    stereo = np.stack([tone(440, 48_000), np.zeros(48_000, np.float32)])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(stereo, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        for block in av.AudioResampler(format=stream.format, frame_size=960 if codec == "libopus" else 1024).resample(
            frame
        ):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    assert media_row("audio", data)["mime"] == mime
    decoded = decode_audio(data, 16_000)
    assert abs(len(decoded) - 16_000) < 1_000
    assert peak_hertz(decoded, 16_000) == pytest.approx(440, abs=1)
    assert np.abs(decoded[2_000:14_000]).max() == pytest.approx(0.25, abs=0.02)


def test_zero_length_audio(wav):
    with pytest.raises(ValueError, match="audio has no samples"):
        decode_audio(wav(np.zeros(0, np.float32)), 16_000)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_audio_that_is_not_finite(wav, tone, bad):
    samples = tone(440, 8_000)
    samples[123] = bad
    with pytest.raises(ValueError, match="audio sample 123 is NaN or infinite"):
        decode_audio(wav(samples, 8_000, subtype="FLOAT"), 16_000)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_truncated_audio(wav, tone, form):
    data = wav(tone(440, 16_000), form=form, subtype="PCM_16" if form == "WAV" else None)
    with pytest.raises(ValueError, match="cut off"):
        decode_audio(data[: len(data) // 2], 16_000)


def test_audio_length_is_limited_by_header_and_by_count(wav, tone):
    data = wav(tone(440, 8_000, seconds=2), 8_000)
    with pytest.raises(ValueError, match=r"audio.wav has 2 seconds, the limit is 1"):
        decode_audio(data, 8_000, MediaLimits(seconds=1))
    # A header that tells no length: as writers leave it that stream.
    unknown = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]
    assert len(decode_audio(unknown, 8_000)) == 16_000
    with pytest.raises(ValueError, match=r"audio.wav has 2 seconds, the limit is 1"):
        decode_audio(unknown, 8_000, MediaLimits(seconds=1))


def test_audio_without_a_declared_length_is_counted(tone):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(440, 48_000, seconds=2)[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        for block in av.AudioResampler(format=stream.format, frame_size=960).resample(frame):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    assert abs(len(decode_audio(buffer.getvalue(), 16_000)) - 32_000) < 1_000
    with pytest.raises(ValueError, match=r"audio/webm has 1\.\d+ seconds, the limit is 1"):
        decode_audio(buffer.getvalue(), 16_000, MediaLimits(seconds=1))


def test_absurd_sampling_rate(wav, tone):
    data = wav(tone(440, 8_000), 8_000)
    with pytest.raises(ValueError, match="expected 1 to 64 of 1 to 768000 Hz"):
        decode_audio(data[:24] + struct.pack("<I", 2_000_000_000) + data[28:], 16_000)


def test_picture_track_alone_is_no_audio(clip):
    with pytest.raises(ValueError, match="has no sound track"):
        decode_audio(clip(np.zeros((2, 16, 16, 3), np.uint8)), 16_000)


# Video


@pytest.fixture
def colours():
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]):
        frames[i] = colour
    return frames


@pytest.mark.parametrize(
    ("form", "codec", "mime"),
    [
        ("webm", "libvpx-vp9", "video/webm"),
        ("mp4", "mpeg4", "video/mp4"),
        ("avi", "mpeg4", "video/x-msvideo"),
    ],
)
def test_video_frames_and_colours(clip, colours, form, codec, mime):
    data = clip(colours, form, codec)
    assert media_row("video", data)["mime"] == mime
    decoded = decode_video(data).frames
    assert decoded.dtype == np.uint8
    assert decoded.shape == colours.shape
    assert np.abs(decoded.astype(int) - colours).max() <= 12  # the way through YUV


@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx-vp9"), ("mp4", "mpeg4"), ("avi", "mpeg4")])
def test_truncated_video(clip, form, codec):
    noise = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    data = clip(noise, form, codec)
    with pytest.raises(ValueError, match="cut off"):
        decode_video(data[: int(len(data) * 0.7)])


def test_video_without_frames():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.pix_fmt = "yuv420p"
        stream.width = stream.height = 16
        container.start_encoding()
    with pytest.raises(ValueError, match="video has zero frames"):
        decode_video(buffer.getvalue())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(frames=4), "video has 5 frames, the limit is 4"),
        (MediaLimits(pixels=1_000), "video frame has 1536 pixels, the limit is 1000"),
        (MediaLimits(clip_pixels=5_000), "pixels over all frames, the limit is 5000"),
        (MediaLimits(seconds=1), "seconds, the limit is 1"),
    ],
)
@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx-vp9"), ("avi", "mpeg4")])
def test_video_limits(clip, colours, limits, message, form, codec):
    # A webm header tells no number of frames, so there the decoder counts.
    with pytest.raises(ValueError, match=message):
        decode_video(clip(colours, form, codec), limits)


def test_video_is_refused_by_its_header_before_a_frame_is_decoded(clip, colours):
    data = bytearray(clip(colours, "avi", "mpeg4"))
    frames = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    data[frames : frames + 4] = struct.pack("<I", 5_000)
    with pytest.raises(ValueError, match="video has 5000 frames, the limit is 1024"):
        decode_video(bytes(data), MediaLimits(seconds=1e6))


def test_one_table_serves_every_kind(png, wav, clip, tone, colours):
    assert decode("image", png(), 16_000).size == (8, 6)
    assert decode("audio", wav(tone(440, 8_000), 8_000), 16_000).shape == (16_000,)
    assert decode("video", clip(colours), 16_000).frames.shape == colours.shape
