"""Telephone keypad tones (DTMF, ITU-T Q.23): a digit is the sum of one low and one high sine."""

import io

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
SECONDS = 0.4

_LOW_HZ = (697.0, 770.0, 852.0, 941.0)
_HIGH_HZ = (1209.0, 1336.0, 1477.0)
_KEYPAD = {d: ((d - 1) // 3, (d - 1) % 3) for d in range(1, 10)} | {0: (3, 1)}


def tone(digit: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Samples float32 [SECONDS · SAMPLE_RATE] in −1…1 of a digit's tone.

    Phases, loudness and the length of the silence around the tone are drawn from `rng`; `noise` is the standard
    deviation of the white noise as a share of one sine's amplitude.
    """
    row, column = _KEYPAD[digit]
    n = int(SECONDS * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    amplitude = rng.uniform(0.15, 0.35)
    phases = rng.uniform(0, 2 * np.pi, size=2)
    wave = np.sin(2 * np.pi * _LOW_HZ[row] * time + phases[0]) + np.sin(2 * np.pi * _HIGH_HZ[column] * time + phases[1])
    start, stop = rng.integers(0, n // 5), n - rng.integers(0, n // 5)
    wave[:start] = 0.0
    wave[stop:] = 0.0
    return np.clip(amplitude * (wave + rng.normal(0.0, noise, size=n)), -1.0, 1.0).astype(np.float32)


def tone_wav(digit: int, rng: np.random.Generator, noise: float) -> bytes:
    """The tone as a 16-bit mono WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(digit, rng, noise), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
