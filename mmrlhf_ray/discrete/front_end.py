"""Sound before it is encoded: log-mel bands, MFCCs, or frames of the waveform itself.

It has nothing to learn, so it is computed once per sound, when cases are made, and never in training.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from scipy.fft import dct
from transformers.audio_utils import mel_filter_bank

from mmrlhf_ray.config.discrete_parts import AudioModality
from mmrlhf_ray.errors import ConfigError

FLOOR_DB = -80.0
"""Power below that, in decibels of a full-scale constant, counts as silence."""


def front_end_shape(modality: AudioModality) -> tuple[int, int]:
    """(frames, bands) of the sound's features.

    Raises ConfigError where the sound is shorter than one frame, or a mel band is narrower than the window resolves.
    """
    section, samples = modality.front_end, round(modality.seconds * modality.sampling_rate)
    if section.kind == "waveform":
        window = hop = section.bands
    else:
        window, hop = _window(modality), max(1, round(section.hop_s * modality.sampling_rate))
        filters = _mel_filters(window, section.bands, modality.sampling_rate)
        if not filters.any(axis=0).all():
            raise ConfigError(
                f"front_end.bands={section.bands} are more than window_s={section.window_s} tells apart at "
                f"sampling_rate={modality.sampling_rate}; ask for fewer bands or a longer window"
            )
    if samples < window:
        raise ConfigError(
            f"front_end: a frame of {window} samples is longer than the sound's {samples}, seconds={modality.seconds} "
            f"at sampling_rate={modality.sampling_rate}; shorten window_s, or take fewer bands for kind=waveform"
        )
    return 1 + (samples - window) // hop, section.bands


def front_end_bounds(modality: AudioModality) -> tuple[float, float]:
    """Between which numbers features lie. A band's power is at most 1.5 (Parseval, Hann window): log_mel ≤ 1.03; the
    DCT keeps the length of a frame's vector."""
    highest = 1.05
    largest = highest * modality.front_end.bands**0.5
    bounds = {"log_mel": (0.0, highest), "mfcc": (-largest, largest), "waveform": (-1.0, 1.0)}
    return bounds[modality.front_end.kind]


def front_end(samples: np.ndarray, modality: AudioModality) -> np.ndarray:
    """Features float32 [..., frames, bands] of sound [..., seconds · sampling_rate] in −1…1."""
    return _KINDS[modality.front_end.kind](samples, modality).astype(np.float32)


def log_mel(samples: np.ndarray, modality: AudioModality) -> np.ndarray:
    """Power in mel bands, in decibels: 0 = FLOOR_DB or less, 1 = a full-scale constant.

    Hann window; triangles of height 1, evenly on O'Shaughnessy's mel scale, 2595·log10(1 + f / 700).
    """
    window, bands = _window(modality), modality.front_end.bands
    hop = max(1, round(modality.front_end.hop_s * modality.sampling_rate))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window, axis=-1)[..., ::hop, :]
    taper = np.hanning(window + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * taper)) ** 2 / taper.sum() ** 2
    bands_power = power @ _mel_filters(window, bands, modality.sampling_rate)
    decibels = 10.0 * np.log10(np.maximum(bands_power, 10.0 ** (FLOOR_DB / 10.0)))
    scaled: np.ndarray = 1.0 - decibels / FLOOR_DB
    return scaled


def mfcc(samples: np.ndarray, modality: AudioModality) -> np.ndarray:
    """Mel-frequency cepstral coefficients (Davis & Mermelstein 1980): the orthonormal DCT-II of `log_mel`'s bands."""
    coefficients: np.ndarray = dct(log_mel(samples, modality), type=2, norm="ortho", axis=-1)
    return coefficients


def waveform(samples: np.ndarray, modality: AudioModality) -> np.ndarray:
    """The samples, `bands` in a row; what does not fill a row at the end is left out."""
    frames, bands = front_end_shape(modality)
    return samples[..., : frames * bands].reshape(*samples.shape[:-1], frames, bands)


_KINDS: Mapping[str, Callable[[np.ndarray, AudioModality], np.ndarray]] = {
    "log_mel": log_mel,
    "mfcc": mfcc,
    "waveform": waveform,
}


def _window(modality: AudioModality) -> int:
    return max(2, round(modality.front_end.window_s * modality.sampling_rate))


@cache
def _mel_filters(window: int, bands: int, sampling_rate: int) -> np.ndarray:
    """float64 [window // 2 + 1, bands]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty band is an error of ours
        filters = mel_filter_bank(window // 2 + 1, bands, 0.0, sampling_rate / 2, sampling_rate, mel_scale="htk")
    return np.asarray(filters)
