"""A directory of rows and media of every kind."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from mmrlhf_ray.config import DataConfig

Row = Mapping[str, Any]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 28), colour).save(buffer, "PNG")
    return buffer.getvalue()


def media_folder(path: Path) -> Path:
    """red.png, again.png (the same bytes), blue.png, broken.png, tone.wav and clip.webm."""
    path.mkdir(parents=True, exist_ok=True)
    for name, colour in (("red", "red"), ("again", "red"), ("blue", "blue")):
        (path / f"{name}.png").write_bytes(picture(colour))
    (path / "broken.png").write_bytes(picture("red")[:60])
    soundfile.write(path / "tone.wav", np.sin(np.arange(4000) / 9).astype(np.float32) / 2, 16_000)
    with av.open(str(path / "clip.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_rows(folder: Path, rows: Sequence[Row | str]) -> DataConfig:
    """rows.jsonl in the folder; a string is a line as it stands."""
    file = folder / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return DataConfig(path=str(file), on_bad_row="quarantine")


def demonstrations() -> list[Row]:
    """Good rows of every modality."""
    return [
        {"prompt": "<image> Colour?", "images": ["red.png"], "response": "Red.", "task": "colour", "truth": "red"},
        {"prompt": "Colour?", "images": ["again.png"], "response": "Red.", "task": "colour", "facts": {"rgb": [9, 0]}},
        {"prompt": "<audio> High?", "audios": ["tone.wav"], "response": "Yes.", "feedback": 1},
        {"prompt": "<video> Way?", "videos": ["clip.webm"], "response": "Up.", "feedback": -1, "facts": {"way": 2}},
        {"prompt": "Is <image> like <image>?", "images": ["red.png", "blue.png"], "response": "No."},
        {"prompt": "Hello?", "response": "Hello."},
    ]


def bad_rows() -> list[Row | str]:
    return [
        {"prompt": "<image> Colour?", "images": ["broken.png"], "response": "Red."},
        {"prompt": "<image> Colour?", "response": "Red."},
        {"prompt": "<image> Colour?", "images": ["../out.png"], "response": "Red."},
        "{",
        {"prompt": "a", "response": "b", "prompt_id": "p"},
        {"prompt": "b", "response": "b", "prompt_id": "p"},
    ]
