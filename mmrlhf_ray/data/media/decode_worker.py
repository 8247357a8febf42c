"""One process that decodes, seen from outside: asked with a deadline, never left behind."""

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmrlhf_ray.config.data import DataConfig, DecodeConfig, MediaLimits, VideoSampling
from mmrlhf_ray.data.media import ALL_FRAMES, DEFAULT_LIMITS
from mmrlhf_ray.data.media.decode_process import LENGTH
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.sandbox.child import environment, kill_group

_START_S = 60.0
_PIPE_BYTES = 1 << 20
_KEPT_BYTES = 64 << 20
"""Of the file in memory, between one array and the next."""
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PILLOW_BLOCKS_MAX": "8"}
"""Pillow keeps 16 MiB blocks for the next picture: fresh memory takes as long as the decoding."""

Answer = tuple[dict[str, Any], np.ndarray] | ValueError
"""The description of a file and its array, or why it cannot be decoded."""


@dataclass(frozen=True)
class DecodeSettings:
    """How media are decoded. Both sides of a run, sampler and learner, must have the same."""

    limits: MediaLimits = DEFAULT_LIMITS
    video: VideoSampling = ALL_FRAMES
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    @classmethod
    def of(cls, data: DataConfig | None) -> "DecodeSettings":
        """Those of a configuration; the defaults where there is none."""
        return cls() if data is None else cls(data.limits, data.video, data.decode)


@dataclass(frozen=True)
class DecodeTask:
    """One file to decode."""

    task: str
    """Of `decode_process.TASKS`."""
    data: bytes
    sampling_rate: int | None = None
    wanted: bool = True
    """Whether the pixels or samples come back, not only the news that there are some."""


class WorkerLost(Exception):
    """Why the process does not answer any more."""


class DecodeWorker:
    """Starts a process. After WorkerLost, or when `spent`, it is of no more use: end() it."""

    def __init__(self, settings: DecodeSettings):
        self._settings = settings
        self._left = settings.decode.recycle_after
        self.busy = False
        """Between a question and its last answer."""
        life, self._life = os.pipe()
        self._memory = os.memfd_create("mmrlhf-decoded")
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "mmrlhf_ray.data.media.decode_process", str(life), str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[life, self._memory],
                start_new_session=True,
                env=environment() | _ENVIRONMENT,
                bufsize=0,
            )
        except OSError as error:
            os.close(self._life)
            os.close(self._memory)
            raise DataError(f"a process to decode media could not be started: {error}; free some memory") from error
        finally:
            os.close(life)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._in, self._out = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        for pipe in (self._in, self._out):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError):  # beyond the user's share of pipe memory: smaller ones work, slower
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def spent(self) -> bool:
        """Whether it has served its time, or is gone."""
        return self._left <= 0 or self._popen.poll() is not None

    def greet(self) -> None:
        """Tell the settings and wait until it is ready. Raises DataError."""
        settings = self._settings
        try:
            until = time.monotonic() + _START_S
            self._write(
                {
                    "limits": settings.limits.model_dump(),
                    "video": settings.video.model_dump(),
                    "memory_mb": settings.decode.memory_mb,
                },
                [],
                until,
            )
            self._reply(until)
        except WorkerLost as lost:
            self.end()
            raise DataError(f"a process to decode media did not start: {lost}; its standard error says why") from lost

    def ask(self, tasks: Sequence[DecodeTask]) -> Iterator[Answer]:
        """The answer to each task, in order. Raises WorkerLost in place of the one that the process did not survive."""
        self.busy = True
        about = [
            {"task": t.task, "sampling_rate": t.sampling_rate, "wanted": t.wanted, "bytes": len(t.data)} for t in tasks
        ]
        deadline = self._settings.decode.deadline_s
        try:
            self._write({"tasks": about}, [t.data for t in tasks], time.monotonic() + deadline)
            for _ in tasks:
                reply, array = self._reply(time.monotonic() + deadline)
                self._left = 0 if reply.get("last") else self._left - 1
                yield ValueError(reply["error"]) if "error" in reply else (reply, array)
                if reply.get("last"):
                    break
        except WorkerLost:
            self._left = 0
            raise
        self.busy = False

    def end(self) -> int:
        """Kill the process and all that is in its group; returns its exit status, −n where signal n ended it."""
        code = kill_group(self._popen)
        if self._life >= 0:
            os.close(self._life)
            os.close(self._memory)
            self._life = -1
        return code

    def _write(self, about: Mapping[str, Any], files: Sequence[bytes], until: float) -> None:
        """The process reads an entire request before it answers, so that neither waits for the other forever."""
        text = json.dumps(about).encode()
        self._put((LENGTH.pack(len(text)) + text, *files), until)

    def _put(self, parts: Sequence[bytes], until: float) -> None:
        for whole in parts:
            part = memoryview(whole)
            while part:
                self._wait(self._in, select.POLLOUT, until)
                try:
                    part = part[os.write(self._in, part) :]
                except BrokenPipeError:
                    raise self._lost() from None
                except BlockingIOError:
                    continue

    def _reply(self, until: float) -> tuple[dict[str, Any], np.ndarray]:
        (length,) = LENGTH.unpack(self._read(LENGTH.size, until))
        about = json.loads(self._read(length, until))
        if "shape" not in about:
            return about, np.zeros(0, np.uint8)
        dtype = np.dtype(about["dtype"])
        if math.prod(about["shape"]) * dtype.itemsize > self._settings.decode.memory_mb << 20:
            raise WorkerLost(f"the process that decodes it announced an array of shape {about['shape']}")
        array = np.empty(about["shape"], dtype)
        raw = array.reshape(-1).view(np.uint8).data
        if about["in_memory"]:
            self._take(raw)
            self._put([b"\0"], until)  # the process may lay the next one there
        else:
            self._fill(raw, until)
        return about, array

    def _take(self, view: memoryview) -> None:
        """From the start of the file in memory. Read, not mapped: the process may cut the file off at any time."""
        start, end = 0, len(view)
        while start < end:
            got = os.preadv(self._memory, [view[start:]], start)
            if not got:
                raise WorkerLost("the process that decodes it left less than it announced")
            start += got
        if end > _KEPT_BYTES:
            os.ftruncate(self._memory, 0)

    def _read(self, count: int, until: float) -> bytearray:
        data = bytearray(count)
        self._fill(memoryview(data), until)
        return data

    def _fill(self, view: memoryview, until: float) -> None:
        while view:
            self._wait(self._out, select.POLLIN, until)
            try:
                got = os.readv(self._out, [view])
            except BlockingIOError:
                continue
            if not got:
                raise self._lost()
            view = view[got:]

    def _wait(self, pipe: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            self.end()
            raise WorkerLost(f"was not decoded within data.decode.deadline_s={self._settings.decode.deadline_s:g}")

    def _lost(self) -> WorkerLost:
        code = self.end()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return WorkerLost(
            f"the process that decodes it ended {how} (data.decode.memory_mb={self._settings.decode.memory_mb})"
        )
