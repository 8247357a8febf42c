"""Odd but legitimate pictures and sounds are read right, not merely read."""

import io
import struct
import zlib

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmrlhf_ray.data.media import MediaLimits, decode_audio, decode_image, decode_video, media_row
from tests.unit.data.bad_media import chunk, png

RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(height=24, width=32):
    """An RGB picture in which every place has its own colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width)], -1
    ).astype(np.uint8)


# Pictures


def test_cmyk_is_turned_into_the_colours_it_prints():
    colours = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, rgb in colours.items():
        decoded = decode_image(saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95))
        assert decoded.mode == "RGB"
        assert np.abs(np.asarray(decoded).astype(int) - rgb).max() <= 4, (ink, rgb)


def test_palette_is_looked_up():
    exact = Image.fromarray(gradient()).quantize(64)
    for form in ("PNG", "GIF", "BMP"):
        assert np.array_equal(np.asarray(decode_image(saved(exact, form))), np.asarray(exact.convert("RGB"))), form


def test_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    for form in ("PNG", "GIF"):
        decoded = decode_image(saved(image, form, transparency=0))
        assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_half_transparent_pixels_are_mixed_with_white():
    for mode, colour in (("RGBA", (0, 0, 0, 128)), ("LA", (0, 128))):
        assert decode_image(saved(Image.new(mode, (4, 4), colour), "PNG")).getpixel((1, 1)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_black_and_white(mode):
    image = Image.fromarray(gradient()).convert(mode)
    assert np.array_equal(np.asarray(decode_image(saved(image, "PNG"))), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_the_upper_eight():
    ramp = (np.arange(256, dtype=np.uint16) * 257)[None]
    decoded = np.asarray(decode_image(saved(Image.fromarray(ramp), "PNG")))
    assert np.array_equal(decoded[0, :, 0], np.arange(256))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_white_whatever_the_depth(depth):
    # Samples 0 (transparent) and a grey or white; PNG, 11.3.1.1: tRNS has the depth of the samples.
    other = {1: 1, 2: 2, 4: 10, 8: 170, 16: 43_690}[depth]
    row = (
        (other << (16 - 2 * depth)).to_bytes(2, "big")[: max(1, depth // 4)]
        if depth < 16
        else struct.pack(">HH", 0, other)
    )
    for transparent, expected in ((0, (255, shade(other, depth))), (other, (0, 255))):
        body = zlib.compress(b"\0" + row)
        decoded = decode_image(png(2, 1, body, chunk(b"tRNS", struct.pack(">H", transparent)), depth=depth, colour=0))
        assert tuple(np.asarray(decoded)[0, :, 0]) == expected


def shade(value, depth):
    return value >> 8 if depth == 16 else value * 255 // (2**depth - 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_is_white(depth):
    top = 2**depth - 1
    pixels = [(top, 0, top // 3), (0, top, 0)]
    layout = ">6B" if depth == 8 else ">6H"
    body = zlib.compress(b"\0" + struct.pack(layout, *pixels[0], *pixels[1]))
    decoded = decode_image(png(2, 1, body, chunk(b"tRNS", struct.pack(">3H", *pixels[0])), depth=depth, colour=2))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_one_pixel_is_a_picture():
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        assert decode_image(saved(Image.new("RGB", (1, 1), (9, 9, 9)), form)).size == (1, 1)


def test_a_line_of_20000_pixels_is_a_picture():
    line = np.tile(np.arange(200, dtype=np.uint8), 100)[None, :, None].repeat(3, -1)
    assert np.array_equal(np.asarray(decode_image(saved(Image.fromarray(line), "PNG"))), line)


# Exif 2.32, tag 274: what must be done to the stored picture to see it upright, here as the inverse.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_every_orientation_is_turned_upright(orientation, form):
    upright = gradient()
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[form]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    decoded = np.asarray(decode_image(saved(stored, form, exif=exif, **lossless)))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 6


# Clips

# ISO 14496-12, 6.2.2: (a, b, c, d) of a display matrix; what it shows at (x', y') is stored at (x, y), with
# x' = a·x + c·y and y' = b·x + d·y. In words: what must be done to the stored frame.
SHOWN = {
    (1, 0, 0, 1): lambda f: f,
    (0, 1, -1, 0): lambda f: np.rot90(f, -1),  # a telephone held upright
    (-1, 0, 0, -1): lambda f: f[::-1, ::-1],
    (0, -1, 1, 0): lambda f: np.rot90(f, 1),
    (-1, 0, 0, 1): lambda f: f[:, ::-1],  # a front camera
    (1, 0, 0, -1): lambda f: f[::-1],
    (0, 1, 1, 0): lambda f: f.swapaxes(0, 1),
    (0, -1, -1, 0): lambda f: f[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_clips_are_turned_and_mirrored_as_their_matrix_says(clip, matrix):
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, :16, :32, 0] = 255  # top left
    frames[:, :16, 32:, 1] = 255
    frames[:, 16:, :32, 2] = 255
    data = bytearray(clip(frames, "mp4", "mpeg4"))
    at = data.index(b"tkhd") + 4 + 40  # version 0
    a, b, c, d = (0x10000 * number for number in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    decoded = decode_video(bytes(data)).frames
    expected = np.stack([SHOWN[matrix](frame) for frame in frames])
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected)[:, 4:12, 4:12].max() < 60


@pytest.mark.parametrize("orientation", STORED)
def test_animations_are_turned_upright(orientation):
    upright = gradient()
    exif = Image.Exif()
    exif[274] = orientation
    stored = [Image.fromarray(np.ascontiguousarray(STORED[orientation](frame))) for frame in (upright, 255 - upright)]
    data = saved(stored[0], "WEBP", save_all=True, append_images=stored[1:], duration=100, lossless=True, exif=exif)
    assert np.array_equal(decode_video(data).frames, np.stack([upright, 255 - upright]))


# Sounds


def fitted(samples, hertz, rate):
    """(amplitude of the sine of that frequency, largest sample of what is left without it)."""
    angle = 2 * np.pi * hertz * np.arange(len(samples)) / rate
    basis = np.stack([np.sin(angle), np.cos(angle)], 1)
    weights = np.linalg.lstsq(basis, samples, rcond=None)[0]
    return np.hypot(*weights), np.abs(samples - basis @ weights).max()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_resampling_keeps_frequency_and_amplitude(wav, tone, rate, channels):
    sound = np.repeat(tone(1_000, rate, amplitude=0.5)[:, None], channels, axis=1)
    decoded = decode_audio(wav(sound, rate), 16_000)
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - 16_000) <= 2
    amplitude, rest = fitted(decoded[400:-400].astype(float), 1_000, 16_000)
    assert amplitude == pytest.approx(0.5, abs=0.002)
    assert rest < 0.005


@pytest.mark.parametrize("target", [8_000, 24_000, 48_000])
def test_resampling_to_other_rates(wav, tone, target):
    decoded = decode_audio(wav(tone(1_000, 44_100), 44_100), target)
    amplitude, rest = fitted(decoded[400:-400].astype(float), 1_000, target)
    assert amplitude == pytest.approx(0.5, abs=0.002)
    assert rest < 0.005


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000, 192_000])
def test_what_the_new_rate_cannot_hold_does_not_come_back_as_another_tone(wav, tone, rate):
    decoded = decode_audio(wav(tone(12_000, rate), rate), 16_000)
    assert np.abs(decoded[400:-400]).max() < 0.005


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_width_of_samples_is_scaled_alike(wav, tone, subtype):
    decoded = decode_audio(wav(tone(440, 16_000), 16_000, subtype=subtype), 16_000)
    assert fitted(decoded.astype(float), 440, 16_000)[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [("mp4", "aac", 44_100), ("mp4", "aac", 48_000), ("mp3", "libmp3lame", 44_100), ("ogg", "libopus", 48_000)],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_compressed_sounds_keep_frequency_and_amplitude(tone, form, codec, rate, layout):
    channels = 1 if layout == "mono" else 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.repeat(tone(1_000, rate)[None], channels, axis=0), format="fltp", layout=layout
        )
        frame.sample_rate = rate
        size = {"aac": 1024, "libmp3lame": 1152, "libopus": 960}[codec]
        for block in av.AudioResampler(format=stream.format, frame_size=size).resample(frame):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    decoded = decode_audio(buffer.getvalue(), 16_000)
    # LAME turns down by 5 %.
    assert fitted(decoded[2_000:12_000].astype(float), 1_000, 16_000)[0] == pytest.approx(0.5, abs=0.03)


def with_sizes(data, riff, size):
    """A WAV file whose header declares such lengths."""
    at = data.index(b"data") + 4
    return data[:4] + struct.pack("<I", riff) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]


@pytest.mark.parametrize(
    ("riff", "size"),
    [
        (0x7FFFF024, 0x7FFFF000),  # SoX into a pipe
        (0x80000024, 0x80000000),  # arecord
        (0xFFFFFFFF, 0xFFFFFFFF),  # FFmpeg
        (0xFFFFFFFF, 0),
        (0, 0xFFFFFFFF),
        (0, 0),  # a writer that never came back
        (36, 0),
        (8_036, 0),  # one that came back for the first length only
        (0, 8_000),
    ],
    ids=hex,
)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])
def test_sounds_of_unknown_length_are_read_to_their_end(wav, tone, riff, size, subtype):
    whole = wav(tone(440, 16_000, 0.25), subtype=subtype)
    length = len(whole) - whole.index(b"data") - 8
    sizes = (riff if riff != 8_036 else len(whole) - 8, size if size != 8_000 else length)
    assert np.array_equal(decode_audio(with_sizes(whole, *sizes), None), decode_audio(whole, None))


def test_an_empty_data_chunk_before_others_has_no_samples(wav):
    empty = wav(np.zeros(0, np.float32))
    tail = b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(ValueError, match="has no samples"):
        decode_audio(empty[:4] + struct.pack("<I", len(empty) + len(tail) - 8) + empty[8:] + tail, None)


def test_a_data_chunk_that_is_cut_off_is_refused_though_the_file_has_no_length(wav, tone):
    with pytest.raises(ValueError, match="cut off: 32000 bytes of 64000"):
        decode_audio(with_sizes(wav(tone(440, 16_000)), 0, 64_000), None)


@pytest.mark.parametrize("lengths", [(0, 0), (2**64 - 1, 2**64 - 1), (0, 2**64 - 1)])
def test_long_wav_of_unknown_length(wav, tone, lengths):
    whole = wav(tone(440, 16_000, 0.25), form="RF64")
    at = whole.index(b"ds64") + 8
    stream = whole[:at] + struct.pack("<2Q", *lengths) + whole[at + 16 :]
    assert np.array_equal(decode_audio(stream, None), decode_audio(whole, None))


@pytest.mark.parametrize("magic", [b"RF64", b"RIFX"])
def test_cut_off_sounds_of_less_common_kinds(tone, magic):
    sink = io.BytesIO()
    kind = {b"RF64": {"format": "RF64"}, b"RIFX": {"format": "WAV", "endian": "BIG"}}[magic]
    soundfile.write(sink, tone(440, 16_000), 16_000, subtype="PCM_16", **kind)
    data = sink.getvalue()
    assert data.startswith(magic)
    assert len(decode_audio(data, None)) == 16_000
    with pytest.raises(ValueError, match="cut off"):
        decode_audio(data[:20_000], None)


def test_flac_of_unknown_length(wav, tone):
    whole = wav(tone(440, 16_000), form="FLAC")
    stream = bytearray(whole)
    stream[21] &= 0xF0  # RFC 9639, 8.2: 36 bits of samples in total, 0 = unknown
    stream[22:26] = bytes(4)
    assert np.array_equal(decode_audio(bytes(stream), None), decode_audio(whole, None))
    with pytest.raises(ValueError, match="seconds, the limit is 0.5"):
        decode_audio(bytes(stream), None, MediaLimits(seconds=0.5))


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_32", "IMA_ADPCM", "MS_ADPCM"])
def test_sounds_in_blocks(wav, tone, subtype):
    data = wav(tone(440, 8_000, 9.0), 8_000, subtype=subtype)  # longer than one read
    decoded = decode_audio(data, None)
    assert 72_000 <= len(decoded) < 72_600
    assert fitted(decoded[800:72_000].astype(float), 440, 8_000)[0] == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="seconds, the limit is 2"):
        decode_audio(data, None, MediaLimits(seconds=2))


@pytest.mark.parametrize("codec", ["adpcm_g726", "adpcm_g722", "adpcm_yamaha"])
def test_sounds_in_encodings_that_only_ffmpeg_reads(tone, codec):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream(codec, rate=8_000 if codec == "adpcm_g726" else 16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(440, stream.rate)[None], format="fltp", layout="mono")
        frame.sample_rate = stream.rate
        size = stream.codec_context.frame_size or None
        for block in av.AudioResampler(format=stream.format, frame_size=size).resample(frame):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    decoded = decode_audio(buffer.getvalue(), None)
    assert fitted(decoded[400:-400].astype(float), 440, stream.rate)[0] == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="seconds, the limit is 0.5"):
        decode_audio(buffer.getvalue(), None, MediaLimits(seconds=0.5))


# Other formats are named


@pytest.mark.parametrize(
    ("kind", "beginning", "named"),
    [
        ("image", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "got HEIC; convert it to PNG or JPEG"),
        ("image", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "got HEIC"),
        ("image", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "got AVIF"),
        ("image", b"\0\0\0\x14ftypmif1\0\0\0\0mif1", "got HEIF"),
        ("video", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "got HEIC"),
        ("image", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "got audio/mp4 or video/mp4"),
        ("image", b"II*\0\x08", "got TIFF"),
        ("image", b"<?xml version='1.0'?>\n<svg xmlns='x'>", "got SVG"),
        ("image", b"\n<!DOCTYPE html>", "got an HTML page"),
        ("image", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("audio", b"#!AMR\n", "got AMR; convert it to WAV or FLAC"),
        ("audio", b"FORM\0\0\0\x20AIFFCOMM", "got AIFF"),
        ("video", b"FLV\x01", "got FLV; convert it to MP4"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_formats_that_are_not_read_are_named(kind, beginning, named):
    with pytest.raises(ValueError, match=named):
        media_row(kind, beginning)


def test_pictures_of_pillow_in_avif_are_named():
    with pytest.raises(ValueError, match="got AVIF"):
        decode_image(saved(Image.new("RGB", (8, 8)), "AVIF"))
