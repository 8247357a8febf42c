"""Both ends of a transport into an engine's workers, as processes: what arrives, what is refused, and what is left when
one end dies."""

import multiprocessing as mp
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

import pytest
import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from mmrlhf_ray.errors import KnownError, RoleFailed, RunError
from mmrlhf_ray.weights.buckets import checksum
from mmrlhf_ray.weights.gloo import GlooMeeting
from mmrlhf_ray.weights.group import GroupTrainerEngine, Meeting
from mmrlhf_ray.weights.ipc import IPCMeeting
from mmrlhf_ray.weights.layout import combine
from mmrlhf_ray.weights.loading import refuse_homeless
from mmrlhf_ray.weights.object_store import register
from tests.unit.forked import SERVER
from tests.unit.weights.worker_process import Receivers, Worker

BUCKET_BYTES = 300  # a weight of a layer has 256, a bias 32
DEADLINE_S = 60.0
MEETINGS: dict[str, type[Meeting]] = {"gloo": GlooMeeting, "ipc": IPCMeeting}


class Source(WeightSource):
    """The weights of these layers, and a tensor that no model has where `stray` names one."""

    def __init__(self, layers: Sequence[int], seed: int, stray: str = "") -> None:
        noise = torch.Generator().manual_seed(seed)
        self.tensors = {f"layers.{n}.{leaf}": torch.randn(*shape, generator=noise)
                        for n in layers for leaf, shape in (("weight", (8, 8)), ("bias", (8,)))}  # fmt: skip
        if stray:
            self.tensors[stray] = torch.zeros(4, 4)

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.tensors.items()

    @property
    def checksum(self) -> str:
        return combine({name: checksum(tensor) for name, tensor in self.tensors.items()})


class Dying(Source):
    """In whose midst something happens."""

    def __init__(self, layers: Sequence[int], seed: int, happens: object) -> None:
        super().__init__(layers, seed)
        self.happens = happens

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for number, item in enumerate(self.tensors.items()):
            if number == 5:
                self.happens()
            yield item


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    register()


@pytest.fixture(params=MEETINGS)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def workers(transport: str) -> Iterator[list[Worker]]:
    started = [Worker.start(range(4), transport) for _ in range(2)]
    yield started
    for worker in started:
        worker.process.kill()


def join(receivers: Receivers, source: Source) -> GroupTrainerEngine:
    listener = socket.create_server(("127.0.0.1", 0))
    meeting = MEETINGS[receivers.workers[0].transport](
        listener, 1 + len(receivers.workers), BUCKET_BYTES, DEADLINE_S, rank=0
    )
    return WeightTransferTrainerFactory.trainer_init(meeting, client=receivers, source=source)


def holds(worker: Worker, source: Source) -> bool:
    held = worker.call("weights")
    return all(torch.equal(torch.from_numpy(held[name]), tensor) for name, tensor in source.tensors.items())


def test_what_is_sent_is_what_each_worker_holds_bit_for_bit(workers: list[Worker]) -> None:
    engine = join(Receivers(workers), Source(range(4), 0))
    for seed in (1, 2):  # the second time in one call per bucket
        engine.source = Source(range(4), seed)
        engine.send_weights()
        for worker in workers:
            kind, sum_of_all, names, homeless = worker.call("report")
            assert (kind, homeless) == ("Model", [])
            assert sum_of_all == engine.source.checksum
            assert names == list(engine.source.tensors)
            worker.call("finish")
            assert holds(worker, engine.source)


def test_a_group_of_other_workers_leaves_the_ones_that_stay_as_they_are(workers: list[Worker]) -> None:
    """One generator, then two, then another in the place of one that died."""
    engine = join(Receivers(workers[:1]), Source(range(4), 0))
    engine.send_weights()
    engine.shutdown()
    workers[0].call("finish")

    both = join(Receivers(workers), Source(range(4), 3))
    both.send_weights()
    for worker in workers:
        worker.call("finish")
        assert holds(worker, both.source)
    both.shutdown()

    workers[1].process.kill()
    workers[1] = Worker.start(range(4), workers[0].transport)
    again = join(Receivers(workers), Source(range(4), 4))
    again.send_weights()
    for worker in workers:
        worker.call("finish")
        assert holds(worker, again.source)


def test_workers_that_hold_parts_take_theirs_and_only_a_name_without_any_place_is_refused(transport: str) -> None:
    parts = [Worker.start(own, transport) for own in ([0, 1], [2, 3])]
    receivers = Receivers(parts)
    engine = join(receivers, Source(range(4), 0))
    for seed in (1, 2):
        engine.source = Source(range(4), seed)
        engine.send_weights()
        reports = [worker.call("report") for worker in parts]
        assert [len(homeless) for *_, homeless in reports] == [4, 4]
        refuse_homeless(reports)
        for worker in parts:
            worker.call("finish")
        assert all(torch.equal(torch.from_numpy(value), engine.source.tensors[name])
                   for worker in parts for name, value in worker.call("weights").items())  # fmt: skip

    for _ in range(2):  # nor is it forgotten
        engine.source = Source(range(4), 3, stray="layers.9.weight")
        engine.send_weights()
        with pytest.raises(RunError, match=r"the sampler's Model has no place for 'layers\.9\.weight' \[4, 4\]; use"):
            refuse_homeless([worker.call("report") for worker in parts])
        for worker in parts:
            with pytest.raises(KnownError, match="broken off"):
                worker.call("update", {})
    for worker in parts:
        worker.process.kill()


def test_a_parameter_that_got_nothing_is_named(workers: list[Worker]) -> None:
    engine = join(Receivers(workers[:1]), Source(range(3), 0))
    engine.send_weights()
    with pytest.raises(
        RunError, match=r"nothing for 2 of the sampler's parameters: layers\.3\.bias, layers\.3\.weight"
    ):
        workers[0].call("finish")


def test_a_worker_that_dies_in_a_push_leaves_nothing_behind(workers: list[Worker]) -> None:
    source = Dying(range(4), 1, lambda: (workers[1].process.kill(), workers[1].process.join()))
    engine = join(Receivers(workers), source)
    with pytest.raises(RoleFailed, match="worker 1 died"):  # and the other one has ended, long before a deadline
        engine.send_weights()
    engine.shutdown()
    with pytest.raises(KnownError, match="broken off"):
        workers[0].call("update", {})

    workers[1] = Worker.start(range(4), workers[0].transport)
    again = join(Receivers(workers), Source(range(4), 2))
    again.send_weights()
    for worker in workers:
        worker.call("finish")
        assert holds(worker, again.source)


def _die_in_a_push(pipes: Sequence[Connection], transport: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    register()
    receivers = Receivers([Worker(mp.current_process(), pipe, transport) for pipe in pipes])
    join(receivers, Dying(range(4), 1, lambda: os.kill(os.getpid(), signal.SIGKILL))).send_weights()


def test_a_learner_that_dies_in_a_push_does_not_keep_the_workers_waiting(workers: list[Worker]) -> None:
    learner = SERVER.Process(target=_die_in_a_push, args=([worker.pipe for worker in workers], workers[0].transport))
    learner.start()
    learner.join(DEADLINE_S)
    assert learner.exitcode == -signal.SIGKILL
    for worker in workers:
        with pytest.raises(RuntimeError, match="Connection|connection"):
            worker.answer()
    engine = join(Receivers(workers), Source(range(4), 2))
    engine.send_weights()
    for worker in workers:
        worker.call("finish")
        assert holds(worker, engine.source)


def test_a_worker_that_dies_before_it_has_joined_is_not_waited_for(workers: list[Worker]) -> None:
    workers[1].process.kill()
    workers[1].process.join()
    with pytest.raises((RoleFailed, BrokenPipeError)):
        join(Receivers(workers), Source(range(4), 0))


def test_a_source_that_gathers_something_else_than_it_told_is_refused(workers: list[Worker]) -> None:
    class Other(Source):
        def metadata(self) -> list[ParamMeta]:
            return [
                ParamMeta(name.replace("bias", "basis"), t.dtype, tuple(t.shape)) for name, t in self.tensors.items()
            ]

    engine = join(Receivers(workers), Other(range(4), 0))
    with pytest.raises(RoleFailed, match=r"told of .*layers\.0\.basis.* next, and gathered .*layers\.0\.bias"):
        engine.send_weights()
