"""vLLM's engine, in a process of its own: how it is started, asked, paused and found dead."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mmrlhf_ray.config.base import LoRAConfig, ModelConfig
from mmrlhf_ray.config.jobs import GeneratorConfig, SamplingConfig
from mmrlhf_ray.data.encoding.encode import Encoder, processor_kwargs
from mmrlhf_ray.errors import RoleFailed


def _environment(config: GeneratorConfig) -> None:
    """vLLM reads these when it is imported, its engine's process when it starts."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_kv_cache_gb))
    # Actors share the cores; vLLM must not pin its thread to one of them.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if config.enforce_eager:
        # A few operators compile themselves regardless, which costs the first step many seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def start_engine(
    model: ModelConfig,
    config: GeneratorConfig,
    sampling: SamplingConfig,
    max_prompt_tokens: int,
    seed: int,
    lora: LoRAConfig | None,
    encoder: Encoder,
) -> Any:
    """An AsyncLLM whose engine has loaded `model`. The engine's process ends with this one, however that ends."""
    _environment(config)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from mmrlhf_ray.weights.object_store import OBJECT_STORE
    from mmrlhf_ray.weights.receivers import adapter_arguments

    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model.path,
            dtype=model.dtype,
            max_model_len=max_prompt_tokens + sampling.max_response_tokens,
            max_num_seqs=config.max_num_seqs,
            gpu_memory_utilization=config.gpu_memory_utilization,
            tensor_parallel_size=config.tensor_parallel_size,
            distributed_executor_backend="uni" if config.tensor_parallel_size == 1 else "mp",
            enforce_eager=config.enforce_eager,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            weight_transfer_config={"backend": OBJECT_STORE},
            limit_mm_per_prompt=dict.fromkeys(encoder.adapter.placeholders, config.max_media_per_prompt),
            mm_processor_kwargs=processor_kwargs(encoder),
            seed=seed,
            disable_log_stats=True,
            **(adapter_arguments(lora) if lora else {}),
        )
    )


def reads_one_way(llm: Any) -> bool:
    """Whether the model wants tokens of media to attend to later ones, on a device whose attention cannot do that."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    wants = llm.model_config.is_mm_prefix_lm
    return bool(wants and current_platform.is_cpu() and not CPUAttentionBackend.supports_mm_prefix())


@asynccontextmanager
async def engine_alive(what: str) -> AsyncIterator[None]:
    """Raise RoleFailed where the engine's process dies during the block, or has died. what: the stage, for messages."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise RoleFailed(
            f"{what}: the sampler's engine process died; the generator's log has its last words. A process that was "
            "killed without a word has mostly run out of memory"
        ) from error


class Request:
    """One request on its way through the engine."""

    def __init__(self, llm: Any, collector: Any):
        self._llm, self._collector = llm, collector

    @classmethod
    async def add(cls, llm: Any, prompt: Any, params: Any, request_id: str, lora_request: Any) -> "Request":
        """Returns when the engine has it. Raises what vLLM raises for a prompt that it does not take."""
        return cls(llm, await llm.add_request(request_id, prompt, params, lora_request=lora_request))

    async def result(self) -> Any:
        """The finished RequestOutput. A caller that is cancelled takes its request back."""
        try:
            output = await self._collector.get()
        except asyncio.CancelledError:
            await self._llm.abort(self._collector.request_id, internal=True)
            raise
        finally:
            self._collector.close()
        return output
