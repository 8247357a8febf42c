"""A sampler in a process of its own, asked from a generator's.

vLLM and its engine are two processes anyway. In a worker of Ray vLLM cannot fork the engine, and all that both import
would be imported twice; in this one it can, and the generator's own process imports next to nothing.

What is asked is a value that says what to do with the sampler. Pickled requests and answers pass through a socket, each
after its length; many can be on their way.
"""

import asyncio
import itertools
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.environment import EnvironmentConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.errors import EngineDied, KnownError, RoleFailed, first_line
from mmrlhf_ray.runtime.devices import Held
from mmrlhf_ray.runtime.fork_server import forked_python
from mmrlhf_ray.runtime.own_directory import own_directory
from mmrlhf_ray.runtime.processes import end_with
from mmrlhf_ray.weights.layout import InFlight, Pushed, Told
from mmrlhf_ray.weights.shared import SharedBucket

if TYPE_CHECKING:
    from mmrlhf_ray.workers.roles.episodes import EpisodeTables
    from mmrlhf_ray.workers.roles.sampler import Sampler

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_LENGTH = struct.Struct("<Q")
_BUFFERED = 16 << 20
"""Bytes that are read ahead."""
_END_S = 1.0
_ENGINE_DIED = 70
"""Exit status of a sampler whose engine has ended."""


class Command(Protocol[R_co]):
    """What the sampler is to do."""

    async def of(self, sampler: "Sampler") -> R_co: ...


@dataclass(frozen=True)
class Heartbeat:
    async def of(self, sampler: "Sampler") -> float:
        return await sampler.heartbeat()


@dataclass(frozen=True)
class Alive:
    async def of(self, sampler: "Sampler") -> None:
        await sampler.alive()


@dataclass(frozen=True)
class Generate:
    prompts: pa.Table
    media: pa.Table
    n_samples: int
    together: bool
    most_tokens: int | None = None

    async def of(self, sampler: "Sampler") -> tuple[pa.Table, float]:
        return await sampler.generate(self.prompts, self.media, self.n_samples, self.together, self.most_tokens)


@dataclass(frozen=True)
class Play:
    prompts: pa.Table
    records: pa.Table
    media: pa.Table
    n_samples: int
    together: bool

    async def of(self, sampler: "Sampler") -> "EpisodeTables":
        assert sampler.episodes is not None
        return await sampler.episodes.play(self.prompts, self.records, self.media, self.n_samples, self.together)


@dataclass(frozen=True)
class StartWeightUpdate:
    in_flight: InFlight

    async def of(self, sampler: "Sampler") -> None:
        await sampler.start_weight_update(self.in_flight)


@dataclass(frozen=True)
class ReceiveBucket:
    bucket: SharedBucket

    async def of(self, sampler: "Sampler") -> None:
        await sampler.receive_bucket(self.bucket)


@dataclass(frozen=True)
class CountWorkers:
    async def of(self, sampler: "Sampler") -> int:
        return sampler.workers


@dataclass(frozen=True)
class JoinWeightsGroup:
    group: Told
    seconds: float

    async def of(self, sampler: "Sampler") -> None:
        await sampler.join_weights_group(self.group, self.seconds)


@dataclass(frozen=True)
class ReceiveDirectly:
    push: Told
    seconds: float

    async def of(self, sampler: "Sampler") -> None:
        await sampler.receive_directly(self.push, self.seconds)


@dataclass(frozen=True)
class FinishWeightUpdate:
    policy_version: int

    async def of(self, sampler: "Sampler") -> Pushed:
        return await sampler.finish_weight_update(self.policy_version)


@dataclass(frozen=True)
class Sleep:
    async def of(self, sampler: "Sampler") -> None:
        await sampler.sleep()


@dataclass(frozen=True)
class Wake:
    weights_alone: bool

    async def of(self, sampler: "Sampler") -> Held:
        return await sampler.wake(self.weights_alone)


@dataclass(frozen=True)
class SamplerSpec:
    """The sampler to make; fields as in Sampler()."""

    model: ModelConfig
    config: GeneratorConfig
    sampling: SamplingConfig
    max_prompt_tokens: int
    seed: int
    lora: LoRAConfig | None
    data: DataConfig
    shares_device: bool = False
    transport: WeightTransport = "object_store"
    environment: EnvironmentConfig | None = None

    def make(self) -> "Sampler":
        from mmrlhf_ray.workers.roles.sampler import Sampler

        return Sampler(
            self.model,
            self.config,
            self.sampling,
            self.max_prompt_tokens,
            self.seed,
            self.lora,
            self.data,
            start_method="fork",
            shares_device=self.shares_device,
            transport=self.transport,
            environment=self.environment,
        )


class SamplerProcess:
    """Starts the process and asks it. It ends with this one, and its engine with it, however this one ends."""

    def __init__(self, spec: SamplerSpec, scratch: Path):
        """Returns when the sampler has loaded its model. Raises what it raised. scratch: where there may be a directory
        for the sockets and files of vLLM, which does not remove them when it is killed."""
        directory, in_use = own_directory(scratch)
        # What was compiled is of use to the next one.
        compiled = {"TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"}
        own = {"TMPDIR": str(directory), "VLLM_RPC_BASE_PATH": str(directory)}
        own["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*forked_python(), "-c", f"from {__name__} import serve; serve({theirs.fileno()}, {os.getpid()})"],
                pass_fds=[theirs.fileno(), in_use],
                env=compiled | os.environ | own,
            )
        os.close(in_use)  # the sampler and those that it starts hold it
        self._socket = ours
        ours.sendall(_framed(spec))
        with ours.makefile("rb") as stream:
            head = stream.read(_LENGTH.size)
            if not head:
                raise RoleFailed(f"the sampler's process ended as it started ({self._ended()})")
            failed, answer = pickle.loads(stream.read(*_LENGTH.unpack(head)))
        if failed:
            raise answer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, request: Command[R]) -> R:
        """What the sampler answers. Raises what it raises, EngineDied where its process has."""
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=_BUFFERED)
                self._reading = asyncio.create_task(self._read(reader))
        if self._reading is None or self._reading.done():
            raise self._died()
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(_framed((number, request)))
        result: R = await answer
        return result

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                number, failed, answer = await _received(reader)
                waiting = self._waiting.pop(number)
                if failed:
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        except (asyncio.IncompleteReadError, ConnectionError):  # it has ended
            for waiting in self._waiting.values():
                waiting.set_exception(self._died())
            self._waiting.clear()

    def _died(self) -> EngineDied:
        ended = self._ended()
        whose = "engine process" if ended == f"exit status {_ENGINE_DIED}" else "process"
        return EngineDied(
            f"the sampler's {whose} died ({ended}); the generator's log has its last words. A process that was killed "
            "without a word has mostly run out of memory"
        )

    def _ended(self) -> str:
        try:
            return f"exit status {self._process.wait(timeout=_END_S)}"
        except subprocess.TimeoutExpired:
            return "it closed its socket"


def serve(file: int, asking: int) -> None:
    """Be the process: make the sampler, say so, and answer until the other end closes the socket or is gone, or the
    process `asking` has ended."""
    end_with(asking)
    os.register_at_fork(after_in_child=lambda: end_with(os.getppid()))  # the engine with this one
    connection = socket.socket(fileno=file)
    with connection.makefile("rb") as stream:
        spec: SamplerSpec = pickle.loads(stream.read(*_LENGTH.unpack(stream.read(_LENGTH.size))))
    try:
        sampler = spec.make()
    except Exception as error:  # noqa: BLE001  passed on
        connection.sendall(_framed((True, _portable(error))))
        return
    connection.sendall(_framed((False, None)))
    if sentinels := sampler.engine_sentinels:
        Thread(target=_end_with_engine, args=(sentinels,), daemon=True).start()
    asyncio.run(_serve(connection, sampler))
    os._exit(0)  # its engine sees that and ends


def _end_with_engine(sentinels: Sequence[int]) -> None:
    """vLLM notes that its engine is gone, but not to those who wait for an answer."""
    wait(sentinels)
    os._exit(_ENGINE_DIED)


async def _serve(connection: socket.socket, sampler: "Sampler") -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=_BUFFERED)
    tasks = set()
    while True:
        try:
            number, request = await _received(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        task = asyncio.create_task(_answer(writer, number, request, sampler))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(writer: asyncio.StreamWriter, number: int, request: Command[object], sampler: "Sampler") -> None:
    try:
        answer = (number, False, await request.of(sampler))
    except Exception as error:  # noqa: BLE001  passed on
        answer = (number, True, _portable(error))
    writer.write(_framed(answer))


def _portable(error: Exception) -> Exception:
    """An exception that can be unpickled without what raised it; the trace is in the log."""
    if isinstance(error, KnownError):
        return error
    traceback.print_exception(error)
    return RuntimeError(f"{type(error).__name__}: {first_line(error)}")


def _framed(value: object) -> bytes:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


async def _received(reader: asyncio.StreamReader) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))
