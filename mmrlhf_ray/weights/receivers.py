"""Where a generator's weight updates go: into vLLM's weights, or next to them as an adapter of vLLM's own LoRA.

An adapter is not merged into the weights: in bfloat16 a small update would be lost to rounding there, and learner and
sampler would disagree about it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save_file
from torch import Tensor
from vllm.config.lora import MaxLoRARanks
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import ModelAdapter
from mmrlhf_ray.models.lora import peft_config
from mmrlhf_ray.weights import loading, lora_layers
from mmrlhf_ray.weights.buckets import checksum, unpack
from mmrlhf_ray.weights.layout import Pushed, Told, combine
from mmrlhf_ray.weights.loading import ABANDONED, REFUSED, refuse_homeless
from mmrlhf_ray.weights.shared import SharedBucket


def adapter_arguments(lora: LoRAConfig) -> dict[str, Any]:
    """Arguments of an engine that takes one such adapter."""
    reserved = min(rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank)
    return {
        "enable_lora": True,
        "max_lora_rank": reserved,
        "max_loras": 1,
        "max_cpu_loras": 1,
        "worker_extension_cls": lora_layers.WORKER_EXTENSION,
    }


SESSION_ARGUMENTS = {"worker_extension_cls": loading.WORKER_EXTENSION}
"""Arguments of an engine that takes all weights."""


class SessionReceiver:
    """Takes all weights of the model, through a vLLM weight-update session."""

    lora_request = None
    only_finish = False
    """Whether running requests must be finished before a push."""

    def __init__(self, llm: AsyncLLM):
        self._llm = llm
        self._open = False
        """Whether vLLM has a session."""

    async def start(self) -> None:
        if self._open:  # of a push that was broken off
            await self._abandon()
        await self._llm.start_weight_update()
        self._open = True

    async def _abandon(self) -> None:
        try:
            await self._update({})
        except Exception as error:  # that is what vLLM raises
            if ABANDONED not in str(error):
                raise

    async def receive(self, bucket: SharedBucket) -> None:
        """Raises RunError for a tensor that does not fit the model."""
        await self.receive_directly(asdict(bucket))

    async def join(self, group: Told) -> None:
        """Have all workers join a group."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(group)))

    async def receive_directly(self, push: Told) -> None:
        """Have all workers take what comes. Raises RunError for a tensor that does not fit the model."""
        try:
            with _refusals():
                await self._update(push)
        except Exception:
            self._open = False  # vLLM ends a session that fails
            raise

    async def _update(self, told: Told) -> None:
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=dict(told)))

    async def finish(self, policy_version: int) -> Pushed:
        """Raises RunError for a name the model does not have, and for a parameter that got no weight."""
        reports = await self._llm.collective_rpc("received_weights")
        refuse_homeless(reports)
        with _refusals():
            await self._llm.finish_weight_update(str(policy_version))
        self._open = False
        _, sum_of_all, names, _ = reports[0]
        return Pushed(policy_version, sum_of_all, frozenset(names))


@contextmanager
def _refusals() -> Iterator[None]:
    """Of an error in its process the engine passes on the text alone; ours are raised again as what they were."""
    try:
        yield
    except Exception as error:  # that is what vLLM raises
        _, ours, why = str(error).partition(REFUSED)
        if not ours:
            raise
        raise RunError(f"{REFUSED}{why}") from error


class AdapterReceiver:
    """Takes buckets of an adapter's tensors under their checkpoint names, then hands vLLM a directory with all of
    them: that is the only form in which it takes adapters.
    """

    only_finish = True

    def __init__(self, llm: AsyncLLM, adapter: ModelAdapter, lora: LoRAConfig):
        self._llm, self._adapter, self._lora = llm, adapter, lora
        self._directory = tempfile.TemporaryDirectory(prefix="mmrlhf-adapter-")
        self._tensors: dict[str, Tensor] = {}
        self._sums: dict[str, int] = {}
        self._number = 0
        self.lora_request: LoRARequest | None = None
        """For every request; None before the first push, when the adapter changes nothing."""

    async def start(self) -> None:
        self._tensors, self._sums = {}, {}

    async def receive(self, bucket: SharedBucket) -> None:
        tensors = dict(unpack(bucket.layout, bucket.payload()))
        self._tensors |= tensors
        self._sums |= {name: checksum(tensor) for name, tensor in tensors.items()}

    async def finish(self, policy_version: int) -> Pushed:
        """Raises RunError when names and the sampler's layers do not match one to one."""
        names_and_targets = (list(self._tensors), list(self._lora.target_modules))
        for homeless, silent in await self._llm.collective_rpc("adapter_gaps", args=names_and_targets):
            _refuse(homeless, silent)
        path = self._write()
        self._number += 1  # vLLM takes an adapter that has a known number for the one it has
        request = LoRARequest(f"policy-{policy_version}-{self._number}", self._number, str(path))
        if not await self._llm.add_lora(request):
            raise RuntimeError(f"the sampler did not take the adapter of policy version {policy_version}")
        await self._llm.update_weight_version(str(policy_version))
        self.lora_request = request
        return Pushed(policy_version, combine(self._sums), frozenset(self._sums))

    def _write(self) -> Path:
        path = Path(self._directory.name) / "adapter"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        save_file({f"base_model.model.{n}": t for n, t in self._tensors.items()}, path / "adapter_model.safetensors")
        peft_config(self._adapter, self._lora).save_pretrained(str(path))
        return path


def _refuse(homeless: list[str], silent: list[str]) -> None:
    if homeless:
        raise RunError(
            f"weight push: the sampler has no layer for {len(homeless)} of the adapter's tensors: "
            f"{', '.join(homeless[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
        )
    if silent:
        raise RunError(
            f"weight push: the learner sent nothing for {len(silent)} of the sampler's adapter tensors: "
            f"{', '.join(silent[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
        )
