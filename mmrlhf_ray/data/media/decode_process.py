"""The process that media are decoded in: `python -m mmrlhf_ray.data.media.decode_process LIFE MEMORY`.

A message is the length of a JSON object (4 bytes, little-endian), the object, and raw bytes. The first message to it
holds the settings and is answered by `{}`. Every later one is `{"tasks": [{"task", "sampling_rate", "bytes"}, …]}` with
the bytes of the files behind it; each file is answered as soon as it is decoded, in order:

    {"shape", "dtype", "in_memory", …} and the raw array, or {"error": why}, after which the process ends if "last".

`LIFE` is a pipe that ends when our parent does; see `sandbox.inside.guard`. `MEMORY` is a file in memory that
arrays lie in, from its start, where they are large: a pipe would take twice as long. Each is acknowledged by a byte.
"""

import gc
import json
import os
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmrlhf_ray.config.data import MediaLimits, VideoSampling
from mmrlhf_ray.sandbox.inside import guard, limit_growth

LENGTH = struct.Struct("<I")
_INLINE_BYTES = 1 << 16

Answer = tuple[dict[str, Any], np.ndarray]
_NOTHING = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Settings:
    """The settings in the first message."""

    limits: MediaLimits
    video: VideoSampling
    memory_mb: int


def _image(data: bytes, task: Mapping[str, Any], settings: Settings) -> Answer:
    from mmrlhf_ray.data.media import decode_image

    image = decode_image(data, settings.limits)
    return {}, np.asarray(image) if task["wanted"] else _NOTHING  # the way out of Pillow takes half as long again


def _audio(data: bytes, task: Mapping[str, Any], settings: Settings) -> Answer:
    from mmrlhf_ray.data.media import read_audio, resample

    samples, own = read_audio(data, settings.limits)
    return {"rate": own}, resample(samples, own, task["sampling_rate"] or own)


def _video(data: bytes, _task: Mapping[str, Any], settings: Settings) -> Answer:
    from mmrlhf_ray.data.media import decode_video

    clip = decode_video(data, settings.limits, settings.video)
    return {"fps": clip.fps, "indices": clip.indices, "total": clip.total}, clip.frames


def _sound_track(data: bytes, _task: Mapping[str, Any], settings: Settings) -> Answer:
    from mmrlhf_ray.data.media import decode_sound_track

    wav = decode_sound_track(data, settings.limits)
    return {"found": wav is not None}, np.frombuffer(wav or b"", np.uint8)


TASKS: Mapping[str, Callable[[bytes, Mapping[str, Any], Settings], Answer]] = {
    "image": _image,
    "audio": _audio,
    "video": _video,
    "sound_track": _sound_track,
}


def answer(task: Mapping[str, Any], data: bytes, settings: Settings) -> Answer:
    """The description of one file, and its array; an "error" instead of exceptions."""
    try:
        about, array = TASKS[task["task"]](data, task, settings)
        return (about, array) if task["wanted"] else (about, _NOTHING)
    except MemoryError:
        return {"error": f"needs more than data.decode.memory_mb={settings.memory_mb}", "last": True}, _NOTHING
    except ValueError as error:
        return {"error": str(error)}, _NOTHING
    except Exception as error:  # noqa: BLE001  a decoder may raise anything for damaged bytes; our parent is told
        return {"error": f"cannot be decoded: {type(error).__name__}: {error}"}, _NOTHING


def serve(requests: int, replies: int, memory: int) -> None:
    """Answer until our parent closes its end."""
    import mmrlhf_ray.data.media  # noqa: F401  before the limit, which counts from here

    gc.freeze()  # what is imported stays, so that a collection takes no time
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused, with a reason

    first = _object(requests)
    if first is None:
        return
    settings = Settings(
        MediaLimits.model_validate(first["limits"]), VideoSampling.model_validate(first["video"]), first["memory_mb"]
    )
    limit_growth(settings.memory_mb)
    _send(replies, {}, b"")
    while (request := _object(requests)) is not None:
        files = [_read(requests, task["bytes"]) for task in request["tasks"]]
        for task, data in zip(request["tasks"], files, strict=True):
            about, array = answer(task, data, settings)
            if array.nbytes > _INLINE_BYTES:
                _keep(memory, _raw(array))
            about |= {"shape": array.shape, "dtype": array.dtype.name, "in_memory": array.nbytes > _INLINE_BYTES}
            _send(replies, about, b"" if about["in_memory"] else _raw(array))
            if about["in_memory"]:
                _read(requests, 1)  # taken: the next array lies in the same place
            if about.get("last"):
                return
            if task["task"] != "image":
                # What FFmpeg has read hangs in a cycle, threads and all, and they would add up to the limit.
                gc.collect()


def _object(pipe: int) -> dict[str, Any] | None:
    """The next message's object, or None at the end."""
    head = os.read(pipe, LENGTH.size)
    if not head:
        return None
    head += _read(pipe, LENGTH.size - len(head))
    found: dict[str, Any] = json.loads(_read(pipe, LENGTH.unpack(head)[0]))
    return found


def _read(pipe: int, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = os.readv(pipe, [view])
        if not got:
            raise EOFError("the request ends in its middle")
        view = view[got:]
    return bytes(data)


def _raw(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _keep(memory: int, view: memoryview) -> None:
    start = 0
    while start < len(view):
        start += os.pwrite(memory, view[start:], start)


def _send(pipe: int, about: Mapping[str, Any], data: bytes | memoryview) -> None:
    text = json.dumps(about).encode()
    for piece in (LENGTH.pack(len(text)) + text, data):
        part = memoryview(piece)
        while part:
            part = part[os.write(pipe, part) :]


def main() -> None:
    guard(int(sys.argv[1]))
    # Copies under other numbers: what a library prints does not get between us and our parent.
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    serve(requests, replies, int(sys.argv[2]))


if __name__ == "__main__":
    main()
