"""RAVDESS' layout: what a file's name says, and voices that differ as emotions do."""

from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios import emotion


def _files(root: Path, *names: str) -> Path:
    (root / "Actor_12").mkdir()
    for name in names:
        (root / "Actor_12" / f"{name}.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    return root


def test_a_name_says_emotion_and_speaker_and_songs_are_left_out(tmp_path: Path) -> None:
    calm, fearful = emotion.read(
        _files(tmp_path, "03-01-06-01-02-01-12", "03-01-02-01-02-01-12", "03-02-05-01-01-01-12")
    )
    assert (fearful.answer, fearful.source, fearful.group) == ("fearful", "actor 12", "speaker 12")
    assert (fearful.more["sex"], fearful.more["harm"]) == ("women", [])
    assert (calm.answer, calm.more["harm"]) == ("calm", ["angry", "fearful"])


@pytest.mark.parametrize("name", ["03-01-09-01-01-01-12", "03-01-06-01-02-01", "voice"])
def test_another_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}.wav: expected seven numbers"):
        list(emotion.read(_files(tmp_path, name)))


def test_the_stand_in_has_every_emotion_of_every_speaker(tmp_path: Path) -> None:
    emotion.make(tmp_path, 0, actors=2)
    cases = list(emotion.read(tmp_path))
    assert len(cases) == 2 * 60
    assert {case.answer for case in cases} == set(emotion.CLASSES)


def test_voices_are_as_high_and_as_loud_as_the_emotion() -> None:
    def pitch_and_loudness(name: str) -> tuple[int, float]:
        sound = emotion.voice(name, 200.0, 1.5, 1.0, 1, np.random.default_rng(0))
        return int(np.abs(np.fft.rfft(sound, 8000)).argmax()), float(np.sqrt(np.mean(sound**2)))

    (neutral, quiet), (happy, loud), (sad, quieter) = map(pitch_and_loudness, ("neutral", "happy", "sad"))
    assert sad < neutral < happy
    assert quieter < quiet < loud
