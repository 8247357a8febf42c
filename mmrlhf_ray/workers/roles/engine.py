"""vLLM's engine, in a process of its own: how it is started, asked, paused and found dead."""

import asyncio
import difflib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.encoding.encode import Encoder, processor_kwargs
from mmrlhf_ray.errors import EngineDied, RunError
from mmrlhf_ray.runtime.devices import Held

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestOutputCollector

StartMethod = Literal["fork", "spawn"]
"""How the engine's process is started. `fork` saves it all imports; it needs a process in which nothing has computed in
parallel. vLLM spawns regardless where CUDA is in use, and in a worker of Ray."""
_CPU_BLOCK = 32
"""Tokens; the least that vLLM's attention on CPUs takes."""


def _before_vllm(config: GeneratorConfig) -> None:
    """vLLM reads these settings when it is imported, its engine's process when it starts."""
    # On CPUs: the worker in the engine's process, not in a third one. AsyncLLM has the engine in its own regardless.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_kv_cache_gb))
    # Actors share the cores; vLLM must not pin its thread to one of them.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if config.enforce_eager:
        # A few operators compile themselves regardless, which costs the first step many seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Who imports the module in the block takes it for not installed, unless it has been imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as the import system has it
    try:
        yield
    finally:
        del sys.modules[name]


def start_engine(
    model: ModelConfig,
    config: GeneratorConfig,
    sampling: SamplingConfig,
    max_prompt_tokens: int,
    seed: int,
    lora: LoRAConfig | None,
    encoder: Encoder,
    start_method: StartMethod,
    shares_device: bool = False,
    transport: WeightTransport = "object_store",
) -> "AsyncLLM":
    """An AsyncLLM whose engine has loaded `model` and takes pushes by `transport`. Its process ends with this one,
    however that ends."""
    _before_vllm(config)
    # vLLM has a use for it where sounds are not of the model's rate, as they all are here: a fifth of what this process
    # would import.
    with _without("scipy.signal"):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

    from mmrlhf_ray.weights.object_store import BACKENDS
    from mmrlhf_ray.weights.receivers import SESSION_ARGUMENTS, adapter_arguments

    refuse_unknown(config.engine_args, [field.name for field in fields(AsyncEngineArgs)])
    own = dict(
        model=model.path,
        dtype=model.compute_dtype,
        max_model_len=max_prompt_tokens + sampling.max_response_tokens,
        max_num_seqs=config.max_num_seqs,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        distributed_executor_backend="uni" if config.tensor_parallel_size == 1 else "mp",
        enforce_eager=config.enforce_eager,
        block_size=config.block_size or (_CPU_BLOCK if current_platform.is_cpu() else None),
        # A prompt of which a pass takes only a part winds back its request's dice, which those of CPUs cannot.
        enable_chunked_prefill=False if current_platform.is_cpu() else None,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        weight_transfer_config={"backend": BACKENDS[transport]},
        limit_mm_per_prompt=dict.fromkeys(encoder.adapter.placeholders, config.max_media_per_prompt),
        mm_processor_kwargs=processor_kwargs(encoder),
        seed=seed,
        disable_log_stats=True,
        # vLLM's CPU build cannot free anything, but takes the same calls.
        enable_sleep_mode=shares_device and not current_platform.is_cpu(),
        **(adapter_arguments(lora) if lora else SESSION_ARGUMENTS),
    )
    arguments = AsyncEngineArgs(**(own | dict(config.engine_args)))
    vllm_config = arguments.create_engine_config()
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = start_method  # the line above wants `spawn` on CPUs
    return AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True)


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise RunError for what is given of `generator.engine_args` and not `known`."""
    for name in given.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1)
        raise RunError(
            f"generator.engine_args.{name}: this vLLM's AsyncEngineArgs has no such argument"
            f"{f'; did you mean {near[0]}?' if near else '; leave it out'}"
        )


def occupied(config: GeneratorConfig, weight_bytes: int, weights_alone: bool) -> Held:
    """What an engine that is awake has on its device; vLLM takes as much of it as it was told to."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Held(weight_bytes + (0 if weights_alone else config.cpu_kv_cache_gb << 30), None)
    total = current_platform.get_device_total_memory()
    return Held(weight_bytes if weights_alone else int(config.gpu_memory_utilization * total), total)


def reads_one_way(llm: "AsyncLLM") -> bool:
    """Whether the model wants tokens of media to attend to later ones, on a device whose attention cannot do that."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    wants = llm.model_config.is_mm_prefix_lm
    return bool(wants and current_platform.is_cpu() and not CPUAttentionBackend.supports_mm_prefix())


@asynccontextmanager
async def engine_alive() -> AsyncIterator[None]:
    """Raise EngineDied where the engine's process dies during the block, or has died."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDied(
            "the sampler's engine process died; the generator's log has its last words. A process that was "
            "killed without a word has mostly run out of memory"
        ) from error


class Request:
    """One request on its way through the engine."""

    def __init__(self, llm: "AsyncLLM", collector: "RequestOutputCollector"):
        self._llm, self._collector = llm, collector

    @classmethod
    async def add(
        cls,
        llm: "AsyncLLM",
        prompt: dict[str, Any],
        params: "SamplingParams",
        request_id: str,
        lora_request: "LoRARequest | None",
    ) -> "Request":
        """Returns when the engine has it. Raises what vLLM raises for a prompt that it does not take."""
        return cls(llm, await llm.add_request(request_id, prompt, params, lora_request=lora_request))

    async def result(self) -> "RequestOutput":
        """The finished RequestOutput. A caller that is cancelled takes its request back."""
        try:
            output = await self._collector.get()
        except asyncio.CancelledError:
            await self._llm.abort(self._collector.request_id, internal=True)
            raise
        finally:
            self._collector.close()
        return output

    async def parts(self) -> "AsyncIterator[RequestOutput]":
        """What a streamed request has given since the last time, until it is finished. A caller that is cancelled, or
        wants no more, takes its request back."""
        finished = False
        try:
            while not finished:
                output = await self._collector.get()
                finished = output.finished
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            await self._llm.abort(self._collector.request_id, internal=True)
            raise
        finally:
            self._collector.close()
