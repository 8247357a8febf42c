"""Sounds, and the sound tracks of clips."""

import io

import av
import numpy as np
import soundfile

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.data.media.formats import DEFAULT_LIMITS, SOUND_FILE, Format, check_limit, open_format, opened
from mmrlhf_ray.data.media.wav import filled_in

_MAX_SAMPLING_RATE = 768_000
_MAX_CHANNELS = 64
_BLOCK = 65_536  # frames
_UNKNOWN_FRAMES = 1 << 48  # libsndfile counts more in a FLAC file of unknown length, and then cannot read it
_WAV_BY_FFMPEG = Format("audio/wav", "wav", b"WAVE", 8)
_FLAC_BY_FFMPEG = Format("audio/flac", "flac", b"fLaC")
_NOTHING = np.zeros(0, np.float32)


def decode_audio(data: bytes, sampling_rate: int | None, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Mono samples float32 [n] at `sampling_rate` Hz, or at the file's own rate if None; channels are averaged.

    Integer formats are scaled to [-1, 1]. Raises ValueError when there is no sound track, no sample, a sample that is
    not finite, damage, or more than `limits`.
    """
    samples, rate = read_audio(data, limits)
    return resample(samples, rate, sampling_rate or rate)


def read_audio(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[np.ndarray, int]:
    """(mono samples float32 [n], Hz) at the file's own rate; ValueError as decode_audio()."""
    form = open_format("audio", data, limits)
    samples, rate = (_read_sound_file if form.reader == SOUND_FILE else _read_sound_track)(form, data, limits)
    _check_samples(samples)
    return samples, rate


def decode_sound_track(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> bytes | None:
    """The first sound track of a clip as a WAV file (mono, 16 bits, the track's own rate), or None if it has none.

    The same clip always gives the same bytes. Raises ValueError as decode_audio() does.
    """
    form = open_format("video", data, limits)
    if not _has_sound(form, data, limits):
        return None
    samples, rate = _read_sound_track(form, data, limits)
    _check_samples(samples)
    return to_wav(samples, rate)


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    """Mono samples [n] at `rate` Hz as a WAV file of 16 bits; what is outside [-1, 1] is clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _check_samples(samples: np.ndarray) -> None:
    if not len(samples):
        raise ValueError("audio has no samples")
    finite = np.isfinite(samples)
    if not finite.all():
        raise ValueError(f"audio sample {int(np.argmin(finite))} is NaN or infinite")


def _has_sound(form: Format, data: bytes, limits: MediaLimits) -> bool:
    if form.mime.startswith("image/"):  # animations
        return False
    with opened(form, data, limits) as file:
        return bool(file.streams.audio)


def _read_sound_file(form: Format, data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    """(mono samples, Hz) of formats that libsndfile reads well, and far faster than FFmpeg."""
    data = filled_in(data)
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        if form.mime == "audio/wav":
            return _read_other_wav(error, data, limits)
        raise _damaged(form, error) from error
    try:
        with file:
            rate: int = file.samplerate
            _check_sound(rate, file.channels)
            if form.mime == "audio/flac" and file.frames > _UNKNOWN_FRAMES:
                return _read_sound_track(_FLAC_BY_FFMPEG, data, limits)
            check_limit(form.mime, "seconds", file.frames / rate, limits.seconds)
            blocks, count = [_NOTHING], 0
            # Not file.blocks(), which asks for files that can be sought in: GSM and G.721 cannot.
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(_mono(block))
                count += len(block)
                check_limit(form.mime, "seconds", count / rate, limits.seconds)
    except soundfile.LibsndfileError as error:
        raise _damaged(form, error) from error
    return np.concatenate(blocks), rate


def _damaged(form: Format, error: soundfile.LibsndfileError) -> ValueError:
    return ValueError(f"{form.mime} is cut off or damaged: {error.error_string}")


def _read_other_wav(error: soundfile.LibsndfileError, data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    """(mono samples, Hz) of a WAV file in an encoding that libsndfile refused with `error`, and FFmpeg may know."""
    try:
        return _read_sound_track(_WAV_BY_FFMPEG, data, limits)
    except ValueError as other:
        raise ValueError(f"{other} (libsndfile: {error.error_string})") from other


def _read_sound_track(form: Format, data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    """(mono samples, Hz) of the first sound track, by FFmpeg."""
    with opened(form, data, limits) as file:
        if not file.streams.audio:
            raise ValueError(f"{form.mime} has no sound track")
        codec = file.streams.audio[0].codec_context
        if codec is None:
            raise ValueError(f"{form.mime} has sound in an unknown encoding")
        rate, channels = codec.sample_rate, codec.channels
        _check_sound(rate, channels)
        # Packed samples, as PyAV reads beyond the planes of sound with 8 channels or more. The channels are averaged
        # here, as FFmpeg's own mono mix of float samples is 3 dB louder.
        to_float = av.AudioResampler(format="flt")
        blocks = [_NOTHING]
        count = 0
        for frame in file.decode(audio=0):
            if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                raise ValueError(f"{form.mime} changes its sampling rate or channels midway")
            blocks += [_mono(packed.to_ndarray().reshape(-1, channels)) for packed in to_float.resample(frame)]
            count += frame.samples
            check_limit(form.mime, "seconds", count / rate, limits.seconds)
    return np.concatenate(blocks), rate


def _check_sound(rate: int, channels: int) -> None:
    if not 0 < rate <= _MAX_SAMPLING_RATE or not 0 < channels <= _MAX_CHANNELS:
        raise ValueError(
            f"audio declares {channels} channels of {rate} Hz, "
            f"expected 1 to {_MAX_CHANNELS} of 1 to {_MAX_SAMPLING_RATE} Hz"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    """[n, channels] to [n]."""
    with np.errstate(all="ignore"):  # the caller looks for what is not finite
        return samples.mean(axis=1, dtype=np.float32)


def resample(samples: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    """Mono samples [n] at `rate` Hz as they are at `sampling_rate` Hz. Raises ValueError when too few are left."""
    if rate == sampling_rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
    blocks = [f.to_ndarray()[0] for source in (frame, None) for f in resampler.resample(source)]
    if not blocks:
        raise ValueError(f"audio has {len(samples)} samples at {rate} Hz, too few for {sampling_rate} Hz")
    return np.concatenate(blocks)
