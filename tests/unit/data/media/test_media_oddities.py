"""Odd but legitimate pictures and sounds are read right, not merely read."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from mmrlhf_ray.data.media import decode_audio, decode_image

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
