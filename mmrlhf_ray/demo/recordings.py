"""A tool of a user's: it plays from recordings that are too long to be shown. A copy of this file lies next to them."""

from pathlib import Path
from typing import Any

import soundfile

SECONDS = 0.4
"""Played at a time."""


def hear(recording: str, second: int) -> tuple[int, Any]:
    """Play a moment of a recording.

    recording: its name
    second: where to begin
    """
    file = Path(__file__).parent / f"{recording}.flac"
    if Path(recording).name != recording or not file.is_file():
        raise ValueError(f"there is no recording {recording}")
    with soundfile.SoundFile(file) as sound:
        if not 0 <= second * sound.samplerate < sound.frames:
            raise ValueError(f"the recording has {sound.frames // sound.samplerate} seconds")
        sound.seek(second * sound.samplerate)
        return sound.samplerate, sound.read(round(SECONDS * sound.samplerate), dtype="float32")
