"""A sampler's worker without its vLLM: the real engine of a transport around a small model, in a process of its own."""

import multiprocessing as mp
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor, nn

from tests.unit.forked import SERVER

PATIENCE_S = 60.0


class Model(nn.Module):
    """Layers by their numbers; loads as vLLM's models do, and says which parameters it has taken something for."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): nn.Linear(8, 8) for number in layers})

    def load_weights(self, weights: Sequence[tuple[str, Tensor]]) -> set[str]:
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader

        loaded, own = set(), dict(self.named_parameters())
        for name, tensor in weights:
            if name in own:
                getattr(own[name], "weight_loader", default_weight_loader)(own[name], tensor)
                loaded.add(name)
        return loaded


def _serve(pipe: Connection, layers: Sequence[int], transport: str, rank: int) -> None:
    from vllm.model_executor.model_loader.reload.layerwise import record_metadata_for_reloading

    from mmrlhf_ray.weights.gloo import GlooWorkerEngine
    from mmrlhf_ray.weights.ipc import IPCWorkerEngine

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    model = Model(layers)
    record_metadata_for_reloading(model)
    parallel = SimpleNamespace(data_parallel_index=0, world_size=1, rank=rank)
    settings: Any = SimpleNamespace(parallel_config=parallel, model_config=None)
    engine = {"gloo": GlooWorkerEngine, "ipc": IPCWorkerEngine}[transport](
        settings, settings, torch.device("cpu"), model
    )
    calls = {
        "join": lambda info: engine.init_transfer_engine(engine.parse_init_info(info)),
        "start": engine.start_weight_update,
        "update": engine.update_weights,
        "finish": engine.finish_weight_update,
        "report": engine.loading.report,
        "weights": lambda: {name: p.detach().clone().numpy() for name, p in model.named_parameters()},
    }
    while True:
        name, arguments = pipe.recv()
        try:
            pipe.send((True, calls[name](*arguments)))
        except Exception as error:  # noqa: BLE001  passed on
            pipe.send((False, error if type(error).__module__.startswith("mmrlhf") else RuntimeError(str(error))))


@dataclass(frozen=True)
class Worker:
    """It, as others see it."""

    process: mp.process.BaseProcess
    pipe: Connection
    transport: str

    @classmethod
    def start(cls, layers: Sequence[int], transport: str, rank: int = 0) -> Self:
        """rank: in its engine."""
        ours, theirs = mp.Pipe()
        process = SERVER.Process(target=_serve, args=(theirs, layers, transport, rank), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, transport)

    def ask(self, name: str, *arguments: object) -> None:
        self.pipe.send((name, arguments))

    def answer(self) -> Any:
        """Raises what it raised, EOFError where it has died."""
        assert self.pipe.poll(PATIENCE_S), "no answer"
        done, value = self.pipe.recv()
        if not done:
            raise value
        return value

    def call(self, name: str, *arguments: object) -> Any:
        self.ask(name, *arguments)
        return self.answer()


@dataclass
class Receivers:
    """Receivers (weights/direct.py) of these workers, each an engine of its own."""

    workers: Sequence[Worker]
    group: str = ""

    def _all(self, name: str, *arguments: object) -> None:
        for worker in self.workers:
            worker.ask(name, *arguments)
        self._answers()

    def _answers(self) -> None:
        """Of all of them: none is left waiting, whatever becomes of another. Raises RoleFailed where one has died."""
        from mmrlhf_ray.errors import RoleFailed

        errors: list[Exception] = []
        for number, worker in enumerate(self.workers):
            try:
                worker.answer()
            except EOFError:
                errors.insert(0, RoleFailed(f"worker {number} died"))
            except Exception as error:  # noqa: BLE001  raised below
                errors.append(error)
        if errors:
            raise errors[0]

    def init_weight_transfer_engine(self, init_info: Mapping[str, object]) -> None:
        for number, worker in enumerate(self.workers):
            worker.ask("join", {**init_info, "rank_offset": 1 + number})
        self._answers()

    def start_weight_update(self) -> None:
        self._all("start")

    def update_weights(self, update_info: Mapping[str, object]) -> None:
        self._all("update", dict(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """As the receivers of a run: whoever has opened the session closes it."""
