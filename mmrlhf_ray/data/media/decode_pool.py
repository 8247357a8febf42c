"""Decoding in processes of their own: a file that crashes a decoder, swells or hangs costs itself, no more.

What comes back is JSON and raw bytes, never a pickle. A process is replaced after `decode.recycle_after` files, and
ends with ours, however that ends.
"""

import queue
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from mmrlhf_ray.data.media import Clip, Decoded
from mmrlhf_ray.data.media.decode_worker import Answer, DecodeSettings, DecodeTask, DecodeWorker, WorkerLost

__all__ = ["DecodePool", "DecodeSettings", "decode_pool"]

_TASKS_PER_REQUEST = 64
_BYTES_PER_REQUEST = 8 << 20


class DecodePool:
    """Decodes with `settings`, in at most `settings.decode.workers` processes, which start when they are needed.

    For several threads. Every file that cannot be decoded is a ValueError that says why, whatever happened.
    """

    def __init__(self, settings: DecodeSettings):
        self.settings = settings
        self._workers: set[DecodeWorker] = set()
        self._free: queue.LifoQueue[DecodeWorker | None] = queue.LifoQueue()
        for _ in range(settings.decode.workers):
            self._free.put(None)
        self.close = weakref.finalize(self, _end_all, self._workers)
        """End all processes. Also done when the pool is collected, and when the interpreter exits."""

    def decode(self, media: Sequence[tuple[str, bytes]], sampling_rate: int | None) -> list[Decoded]:
        """Decoded (kind, bytes), as `media.decode` does. Raises ValueError for the first that cannot be decoded."""
        answers = self._answers([DecodeTask(kind, data, sampling_rate) for kind, data in media])
        return [_decoded(kind, *_or_raise(answer)) for (kind, _), answer in zip(media, answers, strict=True)]

    def problem(self, kind: str, data: bytes) -> str | None:
        """Why a file cannot be decoded, or None where it can."""
        return self.problems([(kind, data)])[0]

    def problems(self, media: Sequence[tuple[str, bytes]]) -> list[str | None]:
        """problem() of each of them; far cheaper than one by one where they are small."""
        answers = self._answers([DecodeTask(kind, data, wanted=False) for kind, data in media])
        return [str(answer) if isinstance(answer, ValueError) else None for answer in answers]

    def samples(self, data: bytes) -> tuple[np.ndarray, int]:
        """(mono float32 [n], Hz) of a sound at its own rate. Raises ValueError."""
        (answer,) = self._answers([DecodeTask("audio", data)])
        about, array = _or_raise(answer)
        return array, about["rate"]

    def sound_track(self, data: bytes) -> bytes | None:
        """As `media.decode_sound_track`."""
        (answer,) = self._answers([DecodeTask("sound_track", data)])
        about, array = _or_raise(answer)
        return array.tobytes() if about["found"] else None

    def _answers(self, tasks: Sequence[DecodeTask]) -> list[Answer]:
        """The result of each task, in order."""
        answers: list[Answer] = []
        worker = self._free.get()
        try:
            while len(answers) < len(tasks):
                worker = self._usable(worker) or self._start()
                try:
                    for answer in worker.ask(_request(tasks[len(answers) :])):
                        answers.append(answer)
                except WorkerLost as lost:
                    answers.append(ValueError(str(lost)))
        finally:
            self._free.put(self._usable(worker))
        return answers

    def _usable(self, worker: DecodeWorker | None) -> DecodeWorker | None:
        """The worker, unless its time is over: then it is ended."""
        if worker is not None and (worker.busy or worker.spent):  # busy: we were interrupted
            worker.end()
            self._workers.discard(worker)
            return None
        return worker

    def _start(self) -> DecodeWorker:
        worker = DecodeWorker(self.settings)
        self._workers.add(worker)
        worker.greet()
        return worker


@lru_cache(maxsize=8)
def decode_pool(settings: DecodeSettings) -> DecodePool:
    """This process's pool for these settings."""
    return DecodePool(settings)


def _end_all(workers: set[DecodeWorker]) -> None:
    for worker in workers:
        worker.end()
    workers.clear()


def _or_raise(answer: Answer) -> tuple[dict[str, Any], np.ndarray]:
    if isinstance(answer, ValueError):
        raise answer
    return answer


def _decoded(kind: str, about: dict[str, Any], array: np.ndarray) -> Decoded:
    if kind == "image":
        return Image.fromarray(array)
    return Clip(array, about["fps"], tuple(about["indices"]), about["total"]) if kind == "video" else array


def _request(tasks: Sequence[DecodeTask]) -> Sequence[DecodeTask]:
    """As many of the tasks as go into one message, at least one."""
    size = 0
    for count, task in enumerate(tasks[:_TASKS_PER_REQUEST]):
        size += len(task.data)
        if count and size > _BYTES_PER_REQUEST:
            return tasks[:count]
    return tasks[:_TASKS_PER_REQUEST]
