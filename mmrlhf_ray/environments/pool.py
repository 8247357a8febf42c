"""Episodes in child processes, for asyncio: a call that hangs, dies or swells costs itself, or its episode, no more."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.config.environment import EnvironmentConfig
from mmrlhf_ray.environments.protocol import EpisodeFailed, Part, Shown, Start, Step
from mmrlhf_ray.environments.wire import parts_from_json, parts_to_json, start_to_json, step_from_json
from mmrlhf_ray.sandbox.child import Child, ChildFailed

PROGRAM = "mmrlhf_ray.environments.process"
IMPORT_S = 60.0
"""How long a process may take to start and to import what the configuration names."""

T = TypeVar("T")


class Episode:
    """A handle: what the policy is shown first is its `observation`; the rest is the pool's."""

    def __init__(self, start: Start, seat: "_Seat"):
        self.observation: tuple[Part, ...] = ()
        self._name = uuid.uuid4().hex
        self._start, self._seat = start, seat
        self._shown: list[Shown] = []
        self._process = -1
        self._turns = 0
        self._ended: str | None = None
        """Why it cannot go on."""
        self._open = True


class EnvironmentPool:
    """Runs episodes of one environment in `config.processes` processes, each of which serves one call at a time.

    limits: of media that tools decode. Raises ValueError for tools whose `call_format` is still `auto`: the chat
    template decides (`calls.with_format`).
    """

    def __init__(self, config: EnvironmentConfig, limits: MediaLimits | None = None):
        if config.kind == "tools" and config.call_format == "auto":
            raise ValueError("call_format is auto; calls.with_format(config, chat_template) decides it")
        self._config = config
        setup = setup_of(config, limits)
        self._seats = [_Seat(setup, config.call_s, config.memory_mb) for _ in range(config.processes)]

    async def reset(self, start: Start) -> Episode:
        """Begin an episode in the process that has the fewest, of these a free one. Raises EpisodeFailed."""
        seat = min(self._seats, key=lambda seat: (seat.episodes, seat.calls))
        episode = Episode(start, seat)
        seat.episodes += 1
        try:
            episode.observation = await seat.run(lambda: _begin(episode))
        except BaseException:
            episode._open = False
            seat.episodes -= 1
            seat.submit(lambda: _forget(episode))  # it may begin yet, though no one waits for it any more
            raise
        return episode

    async def step(self, episode: Episode, response: str) -> Step:
        """What follows from a turn of the policy; the last turn of `max_turns` ends the episode.

        Raises EpisodeFailed where the episode cannot go on, ValueError where it was done before.
        """
        if episode._turns >= self._config.max_turns:
            raise ValueError("the episode is done; reset() begins another")
        stateless = self._config.kind == "tools"
        episode._turns += 1
        step = await episode._seat.run(lambda: _step(episode, response, stateless))
        last = episode._turns == self._config.max_turns
        if step.done or last:
            episode._turns = self._config.max_turns
        return replace(step, done=True) if last else step

    async def close(self, episode: Episode) -> None:
        """Give back what the episode holds, also of one that failed. More than once does nothing."""
        if episode._open:
            episode._open = False
            episode._seat.episodes -= 1
            with suppress(EpisodeFailed):  # shut down meanwhile: there is nothing left to give back
                await episode._seat.run(lambda: _forget(episode))

    def shut_down(self) -> None:
        """Kill all processes; calls that are still waited for raise EpisodeFailed."""
        for seat in self._seats:
            seat.stop()
        for seat in self._seats:
            seat.end()


def setup_of(config: EnvironmentConfig, limits: MediaLimits | None = None) -> Mapping[str, Any]:
    """The first line for a process."""
    return {"config": config.model_dump(mode="json"), "limits": (limits or MediaLimits()).model_dump(mode="json")}


class _Lost(Exception):
    """The process had to be replaced; says why."""


class _Raised(Exception):
    """What the environment raised."""


class _Seat:
    """A process and the one thread that talks to it, so that calls wait for each other and for nothing else."""

    def __init__(self, setup: Mapping[str, Any], call_s: float, memory_mb: int):
        self.episodes = 0
        self.calls = 0
        """Under way or waiting."""
        self.process = 0
        """Number of the process; a replaced one has another."""
        self.lost = ""
        """Why the process before was replaced."""
        self._setup, self._call_s, self._memory_mb = setup, call_s, memory_mb
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environment")
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._ready = self._stopped = False

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in the seat's thread, also to its end when the caller is cancelled meanwhile."""
        if self._stopped:
            raise EpisodeFailed(_SHUT_DOWN)
        self.calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.calls -= 1

    def submit(self, work: Callable[[], None]) -> None:
        """Do the work in the seat's thread some time."""
        if not self._stopped:
            self._thread.submit(work)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Of the seat's thread: the reply. Raises _Lost, _Raised, and EpisodeFailed where there is no process."""
        child = self._started()
        try:
            child.send(request)
            reply = child.receive(time.monotonic() + self._call_s)
        except ChildFailed as error:
            raise self._replaced(self._reason(str(error))) from None
        if "failed" in reply:
            raise _Raised(reply["failed"])
        return reply

    def stop(self) -> None:
        """Kill the process, from any thread; no other is started."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.interrupt()

    def end(self) -> None:
        """Wait for the thread, after stop()."""
        self._thread.shutdown()
        if self._child is not None:
            self._child.end()

    def _started(self) -> Child:
        """The process, once it has imported what it needs."""
        try:
            child = self._child or self._start()
            if self._ready:
                return child
            reply = child.receive(time.monotonic() + IMPORT_S)
        except ChildFailed as error:
            self._end()
            raise EpisodeFailed(f"the environment's process did not start: {error}") from None
        if "failed" in reply:
            self._end()
            raise EpisodeFailed(f"the environment cannot be loaded: it {reply['failed']}")
        self._ready = True
        return child

    def _start(self) -> Child:
        with self._lock:
            if self._stopped:
                raise EpisodeFailed(_SHUT_DOWN)
            self._child, self._ready = Child(PROGRAM), False
            self._child.send(self._setup)
        self.process += 1
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child, self._ready = None, False

    def _replaced(self, reason: str) -> _Lost:
        self.lost = reason
        self._end()
        with suppress(ChildFailed):  # the next call says so
            self._start()  # so that its imports are done by the next call
        return _Lost(reason)

    def _reason(self, error: str) -> str:
        if "deadline" in error:
            return f"took longer than {self._call_s:g} s and was stopped (call_s)"
        return f"{error} (memory_mb={self._memory_mb})" if "ended by SIG" in error else error


def _begin(episode: Episode) -> tuple[Part, ...]:
    """In the seat's thread: begin, or begin again in another process, with the clips shown before."""
    seat = episode._seat
    request = {
        "do": "reset",
        "episode": episode._name,
        "start": start_to_json(episode._start),
        "shown": parts_to_json(episode._shown),
    }
    try:
        reply = seat.ask(request)
    except (_Lost, _Raised) as error:
        episode._ended = f"reset: {error}"
        raise EpisodeFailed(episode._ended) from None
    finally:
        episode._process = seat.process  # also of one that failed: what it holds there is given back
    return parts_from_json(reply["observation"])


def _step(episode: Episode, response: str, stateless: bool) -> Step:
    """In the seat's thread."""
    seat = episode._seat
    if episode._ended is None and seat.process != episode._process:
        if stateless:
            _begin(episode)
        else:
            episode._ended = f"its process was replaced: another call {seat.lost}"
    if episode._ended is not None:
        raise EpisodeFailed(episode._ended)
    try:
        reply = seat.ask({"do": "step", "episode": episode._name, "response": response})
    except (_Lost, _Raised) as error:
        if stateless and isinstance(error, _Lost):
            return Step((f"The tool {error}.",), None, False, str(error))
        episode._ended = f"step: {error}"
        raise EpisodeFailed(episode._ended) from None
    step = step_from_json(reply["step"])
    if stateless:
        episode._shown += [part for part in step.observation if isinstance(part, Shown)]
    return step


def _forget(episode: Episode) -> None:
    """In the seat's thread; what a user's close() raises is in the log of its process."""
    if episode._seat.process == episode._process:
        with suppress(_Lost, _Raised, EpisodeFailed):
            episode._seat.ask({"do": "close", "episode": episode._name})


_SHUT_DOWN = "the pool of environments is shut down"
