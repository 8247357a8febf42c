"""Real files, made here."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

Bytes = Callable[..., bytes]


@pytest.fixture(scope="session")
def png() -> Bytes:
    def make(colour: tuple[int, ...] = (255, 0, 0), size: tuple[int, int] = (8, 6), form: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB" if len(colour) == 3 else "RGBA", size, colour).save(buffer, form)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def wav() -> Bytes:
    def make(samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def clip() -> Bytes:
    def make(frames: np.ndarray, form: str = "webm", codec: str = "libvpx-vp9", rate: int = 4) -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=form) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            if codec == "libvpx-vp9":
                stream.options = {"lossless": "1"}
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def tone() -> Callable[..., np.ndarray]:
    def make(hertz: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
        return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)

    return make
