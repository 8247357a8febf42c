"""vLLM as a sampler: prompts in, responses with their log-probabilities out, and weights that can be replaced."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config.base import LoRAConfig, ModelConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.jobs import GeneratorConfig, SamplingConfig
from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    RawMedia,
    clip_metadata,
    load_encoder,
    media_arguments,
    processor_kwargs,
)
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, ROLLOUT, check
from mmrlhf_ray.weights.buckets import TensorLayout, checksums, combine
from mmrlhf_ray.weights.push import Pushed

_SEED_STRIDE = 1_000_003
"""Keeps the seeds of requests of one run apart from those of a run with the next seed."""


class PromptMismatch(RunError):
    """The sampler expanded a prompt differently from the processor: training on it would be wrong."""


def _environment(config: GeneratorConfig) -> None:
    """vLLM reads these when it is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_kv_cache_gb))
    # Actors share the cores; vLLM must not pin its thread to one of them.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if config.enforce_eager:
        # A few operators compile themselves regardless, which costs the first step many seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


class Sampler:
    """Consumes ENCODED_PROMPT and MEDIA tables, returns ROLLOUT tables.

    Between start_weight_update() and finish_weight_update() it must not be asked to generate.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        max_prompt_tokens: int,
        seed: int,
        lora: LoRAConfig | None = None,
        data: DataConfig | None = None,
        encoder: Encoder | None = None,
    ):
        """Decodes media as `data` says. With `lora` the sampler keeps `model`'s weights, and pushes bring an adapter of
        this shape. `encoder`: of `model` and `data`; None = load_encoder()."""
        _environment(config)
        from vllm import LLM

        from mmrlhf_ray.weights.object_store import OBJECT_STORE
        from mmrlhf_ray.weights.receivers import AdapterReceiver, SessionReceiver, adapter_arguments

        self._encoder: Encoder = encoder or load_encoder(model.path, data, allowed=sampling.allow_tokens)
        self._written_as = self._encoder.written_as
        self._sampling = sampling
        self._seed = seed
        self._llm = LLM(
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
            limit_mm_per_prompt=dict.fromkeys(self._encoder.adapter.placeholders, config.max_media_per_prompt),
            mm_processor_kwargs=processor_kwargs(self._encoder),
            seed=seed,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **(adapter_arguments(lora) if lora else {}),
        )
        self._receiver: AdapterReceiver | SessionReceiver = (
            AdapterReceiver(self._llm, self._encoder.adapter, lora) if lora else SessionReceiver(self._llm)
        )
        self._sees_one_way = self._llm.llm_engine.model_config.is_mm_prefix_lm and _reads_one_way()
        self._policy_version = 0
        self._received: dict[str, str] = {}

    def heartbeat(self) -> float:
        """Generate one token; seconds it took. An engine that looks alive but is not fails here."""
        from vllm import SamplingParams

        start = time.monotonic()
        prompt: Any = {"prompt_token_ids": [self._encoder.eos_token_ids[0]]}
        self._llm.generate(prompt, SamplingParams(max_tokens=1), use_tqdm=False)
        return time.monotonic() - start

    def generate(self, prompts: pa.Table, media: pa.Table, n_samples: int) -> tuple[pa.Table, float]:
        """`n_samples` responses to each prompt (rows in prompt order), and the seconds it took.

        The same prompts, group ids and weights give the same responses. Raises PromptMismatch when the sampler's
        expansion of a prompt differs from the processor's; RunError for media that it cannot read as the family does.
        """
        start = time.monotonic()
        check(prompts, ENCODED_PROMPT, "Sampler.generate")
        check(media, MEDIA, "Sampler.generate")
        rows = prompts.to_pylist()
        if self._sees_one_way and len(media):
            raise RunError(
                f"the attention of vLLM's CPU build reads an image from left to right; {self._encoder.adapter.family} "
                "was trained to read it in both directions, so sampler and learner would disagree; use a GPU"
            )
        requests = _requests(self._encoder, rows, media)
        params = [self._parameters(n_samples, row["group_id"] * n_samples) for row in rows]
        order = prefix_order(rows)
        requests, params = [requests[i] for i in order], [params[i] for i in order]
        sampled = self._llm.generate(requests, params, lora_request=self._receiver.lora_request, use_tqdm=False)
        outputs = dict(zip(order, sampled, strict=True))
        samples = []
        for i, row in enumerate(rows):
            output = outputs[i]
            _check_ids(row, [self._written_as.get(i, i) for i in output.prompt_token_ids])
            samples += [self._sample(row, k, completion) for k, completion in enumerate(output.outputs)]
        return pa.Table.from_pylist(samples, schema=ROLLOUT), time.monotonic() - start

    def _parameters(self, n_samples: int, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=n_samples,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_response_tokens,
            stop_token_ids=list(self._encoder.eos_token_ids),
            logit_bias=dict.fromkeys(self._encoder.banned_token_ids, -100.0),
            logprobs=0,
            detokenize=False,
            seed=(self._seed * _SEED_STRIDE + seed) % 2**31,
        )

    def _sample(self, row: dict[str, Any], number: int, completion: Any) -> dict[str, Any]:
        ids = list(completion.token_ids)
        logprobs = [step[token].logprob for step, token in zip(completion.logprobs, ids, strict=True)]
        return {
            "sample_id": f"{row['prompt_id']}@{row['group_id']}/v{self._policy_version}/{number}",
            "group_id": row["group_id"],
            "prompt_id": row["prompt_id"],
            "task": row["task"],
            "modality": row["modality"],
            "policy_version": self._policy_version,
            "prompt_token_ids": row["prompt_token_ids"],
            "facts_token_ids": row["facts_token_ids"],
            "response_token_ids": ids,
            "response_mask": [True] * len(ids),
            "rollout_logprobs": logprobs,
            "finish_reason": completion.finish_reason,
            "media_ids": row["media_ids"],
        }

    def start_weight_update(self) -> None:
        """Open a session; buckets follow."""
        self._receiver.start()
        self._received = {}

    def receive_bucket(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        """Take one bucket. Raises RunError for a name the model does not have."""
        self._receiver.receive(layout, payload)
        self._received |= checksums(layout, payload)

    def finish_weight_update(self, policy_version: int) -> Pushed:
        """Close the session and forget everything computed with the old weights. Raises RunError for a weight that
        did not come, and for an adapter's name that the model does not have."""
        self._receiver.finish(policy_version)
        self._llm.reset_mm_cache()
        self._llm.llm_engine.engine_core.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the sampler kept its prefix cache after a weight push: requests are still running")
        self._policy_version = policy_version
        return Pushed(policy_version, combine(self._received), frozenset(self._received))


def _requests(encoder: Encoder, rows: list[dict[str, Any]], media: pa.Table) -> list[dict[str, Any]]:
    """vLLM inputs: collapsed ids, decoded media, and media ids so that a clip is processed once."""
    clips = {r["media_id"]: RawMedia(r["media_id"], r["kind"], r["data"]) for r in media.to_pylist()}
    decoded: dict[str, Any] = {}
    requests = []
    for row in rows:
        request: dict[str, Any] = {"prompt_token_ids": row["collapsed_token_ids"]}
        for media_id in row["media_ids"]:
            clip = clips[media_id]
            if media_id not in decoded:
                decoded[media_id] = media_arguments(encoder, [clip])[clip.kind][0]
            item = decoded[media_id]
            if clip.kind == "audio":
                item = (item, encoder.sampling_rate)
            elif clip.kind == "video":
                item = (item.frames, clip_metadata(item))
            request.setdefault("multi_modal_data", {}).setdefault(clip.kind, []).append(item)
            request.setdefault("multi_modal_uuids", {}).setdefault(clip.kind, []).append(media_id)
        requests.append(request)
    return requests


def _reads_one_way() -> bool:
    """Whether vLLM runs on a device whose attention does not support tokens that attend to later ones."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return current_platform.is_cpu() and not CPUAttentionBackend.supports_mm_prefix()


def prefix_order(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Numbers of ENCODED_PROMPT rows so that those that begin alike stand together, same media first, then same text:
    what one has filled in the prefix cache is then still there for the next."""
    return sorted(range(len(rows)), key=lambda i: (rows[i]["media_ids"], rows[i]["collapsed_token_ids"], i))


def _check_ids(row: dict[str, Any], sampler_ids: list[int]) -> None:
    processor_ids = row["prompt_token_ids"]
    if sampler_ids == processor_ids:
        return
    differing = (i for i, (a, b) in enumerate(zip(sampler_ids, processor_ids, strict=False)) if a != b)
    at = next(differing, min(len(sampler_ids), len(processor_ids)))
    raise PromptMismatch(
        f"prompt {row['prompt_id']}: sampler and processor expand it differently from token {at} on.\n"
        f"sampler   ({len(sampler_ids)}): {sampler_ids}\n"
        f"processor ({len(processor_ids)}): {processor_ids}\n"
        "Check that both use the same processor files (mmrlhf parity)."
    )
