"""Digits, tones and clips are what they claim to be."""

import hashlib
import io

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from mmrlhf_ray.demo.clips import DIRECTIONS, FRAMES, clip_webm, frames
from mmrlhf_ray.demo.digits import SIDE, digit_png, digits_of, scan
from mmrlhf_ray.demo.tones import SAMPLE_RATE, SECONDS, tone, tone_wav

KEYPAD_HZ = {0: (941, 1336), 1: (697, 1209), 2: (697, 1336), 5: (770, 1336), 9: (852, 1477)}


def test_splits_share_no_source_and_cover_the_data_set():
    train, heldout = digits_of("train"), digits_of("heldout")
    assert (len(train), len(heldout)) == (1437, 360)
    sources = [d.source for d in train + heldout]
    assert sorted(sources) == list(range(1797))
    targets = load_digits().target
    assert all(targets[d.source] == d.value for d in train + heldout)
    assert min(np.bincount([d.value for d in heldout])) >= 20


def test_no_picture_is_in_both_splits():
    pictures = [{hashlib.sha256(scan(d.source)).digest() for d in digits_of(s)} for s in ("train", "heldout")]
    assert not pictures[0] & pictures[1]


def test_png_is_the_scan_doubled():
    picture = np.asarray(Image.open(io.BytesIO(digit_png(5))))
    assert picture.shape == (SIDE, SIDE)
    assert (picture[::2, ::2] == scan(5)).all()
    assert (picture[1::2, 1::2] == scan(5)).all()


@pytest.mark.parametrize("digit", sorted(KEYPAD_HZ))
def test_tone_has_the_keypad_frequencies(digit):
    wave = tone(digit, np.random.default_rng(0), noise=0.5)
    spectrum = np.abs(np.fft.rfft(wave))
    hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    low = hz[hz < 1100][spectrum[hz < 1100].argmax()]
    high = hz[hz > 1100][spectrum[hz > 1100].argmax()]
    assert (low, high) == pytest.approx(KEYPAD_HZ[digit], abs=6)


def test_wav_is_16_bit_mono():
    data, rate = soundfile.read(io.BytesIO(tone_wav(3, np.random.default_rng(0), 0.5)))
    assert rate == SAMPLE_RATE
    assert data.shape == (int(SECONDS * SAMPLE_RATE),)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_clip_moves_where_it_says(direction):
    with av.open(io.BytesIO(clip_webm(11, direction))) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == (FRAMES, SIDE, SIDE, 3)
    # Lossless but for the step from RGB to limited-range YUV.
    assert np.abs(decoded[..., 0].astype(int) - frames(11, direction).astype(int)).max() <= 2
    ink = decoded[..., 0].astype(float)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre = [((rows * f).sum() / f.sum(), (columns * f).sum() / f.sum()) for f in ink]
    down, right = np.subtract(centre[-1], centre[0])
    want = {"left": (0, -4), "right": (0, 4), "up": (-4, 0), "down": (4, 0)}[direction]
    assert (down, right) == pytest.approx(want, abs=0.2)


def test_clips_are_reproducible():
    assert clip_webm(11, "up") == clip_webm(11, "up")
    assert clip_webm(11, "up") != clip_webm(11, "down")
