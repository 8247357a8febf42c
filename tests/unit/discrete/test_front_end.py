"""Features of sound against a slow computation, by hand, and what cannot be computed."""

import numpy as np
import pytest
from scipy.fft import idct

from mmrlhf_ray.config.discrete_parts import AudioModality, FrontEnd
from mmrlhf_ray.discrete.front_end import front_end, front_end_shape
from mmrlhf_ray.errors import ConfigError

RATE = 4000


def sound(kind: str = "log_mel", **keys) -> AudioModality:
    return AudioModality(seconds=0.4, sampling_rate=RATE, front_end=FrontEnd(kind=kind, **keys))


def sine(hertz: float, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(1600) / RATE)).astype(np.float32)


def mel(hertz: float) -> float:
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def slow_log_mel(samples: np.ndarray, window: int, hop: int, bands: int) -> np.ndarray:
    """One frame, one frequency, one triangle at a time."""
    edges = [700.0 * (10.0 ** (m / 2595.0) - 1.0) for m in np.linspace(0.0, mel(RATE / 2), bands + 2)]
    taper = [0.5 - 0.5 * np.cos(2 * np.pi * i / window) for i in range(window)]
    rows = []
    for start in range(0, len(samples) - window + 1, hop):
        frame = [samples[start + i] * taper[i] for i in range(window)]
        power = []
        for k in range(window // 2 + 1):
            wave = sum(frame[i] * np.exp(-2j * np.pi * k * i / window) for i in range(window))
            power.append(abs(wave) ** 2 / sum(taper) ** 2)
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, value in enumerate(power):
                f = k * RATE / window
                total += value * max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle)))
            row.append(1.0 + 10.0 * np.log10(max(total, 1e-8)) / 80.0)
        rows.append(row)
    return np.array(rows)


def test_log_mel_is_the_slow_computation():
    modality = AudioModality(seconds=0.05, sampling_rate=RATE, front_end=FrontEnd(bands=6, window_s=0.016, hop_s=0.01))
    samples = np.random.default_rng(0).uniform(-1, 1, 200).astype(np.float32)
    made = front_end(samples, modality)
    assert made.shape == front_end_shape(modality) == (4, 6)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, slow_log_mel(samples, 64, 40, 6), atol=1e-5)


def test_a_tone_is_loudest_in_its_own_band_and_louder_with_its_amplitude():
    modality = sound()
    for hertz in (300.0, 1000.0, 1700.0):
        band = front_end(sine(hertz), modality).mean(0).argmax()
        middle = (band + 1) / 25 * mel(RATE / 2)
        assert abs(middle - mel(hertz)) < mel(RATE / 2) / 25
    # A tenth of the amplitude is 20 dB less, a quarter of the scale.
    gap = front_end(sine(1000.0), modality).max() - front_end(sine(1000.0, 0.1), modality).max()
    assert gap == pytest.approx(0.25, abs=1e-4)


def test_silence_is_zero_and_batches_are_rows():
    modality = sound()
    assert not front_end(np.zeros(1600, np.float32), modality).any()
    both = np.stack([sine(500.0), sine(900.0)])
    np.testing.assert_array_equal(front_end(both, modality)[1], front_end(both[1], modality))


def test_mfccs_hold_what_log_mel_holds():
    np.testing.assert_allclose(
        idct(front_end(sine(700.0), sound("mfcc")), norm="ortho", axis=-1), front_end(sine(700.0), sound()), atol=1e-5
    )


def test_the_waveform_is_the_samples_in_rows():
    modality = sound("waveform", bands=30)
    made = front_end(sine(700.0), modality)
    assert made.shape == front_end_shape(modality) == (53, 30)
    np.testing.assert_array_equal(made.ravel(), sine(700.0)[: 53 * 30])


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        (AudioModality(seconds=0.01, sampling_rate=RATE), "a frame of 128 samples is longer than the sound's 40"),
        (sound(bands=200), "front_end.bands=200 are more than window_s=0.032 tells apart"),
        (sound("waveform", bands=1601), "a frame of 1601 samples"),
    ],
)
def test_what_cannot_be_computed_is_said_before_anything_starts(modality, said):
    with pytest.raises(ConfigError, match=said):
        front_end_shape(modality)
