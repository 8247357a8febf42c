"""Pictures and clips of the stand-ins."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np


def grey(values: np.ndarray) -> np.ndarray:
    """0…1 to uint8, what is outside cut off."""
    return np.clip(255.0 * values, 0, 255).round().astype(np.uint8)


def write_mp4(path: Path, frames: Iterable[np.ndarray], frames_per_s: int, sound: np.ndarray, rate: int) -> None:
    """Grey frames uint8 [height, width], sides divisible by 16, and mono sound [n] in [-1, 1] as H.264 and AAC."""
    with av.open(str(path), "w", format="mp4") as container:
        pictures = container.add_stream("libx264", rate=frames_per_s, options={"threads": "1", "preset": "ultrafast"})
        pictures.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=rate)
        track.layout = "mono"
        for number, pixels in enumerate(frames):
            if number == 0:
                pictures.height, pictures.width = pixels.shape
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="gray").reformat(format="yuv420p")))
        container.mux(pictures.encode(None))
        heard = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        heard.sample_rate = rate
        container.mux(track.encode(heard))
        container.mux(track.encode(None))
