"""vLLM as a sampler: prompts in, responses with their log-probabilities out, and weights that can be replaced."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.environment import EnvironmentConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, load_encoder
from mmrlhf_ray.errors import RoleFailed, RunError
from mmrlhf_ray.rollout.episode import Episode, Row, Turn
from mmrlhf_ray.runtime.devices import Held
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, ROLLOUT, check
from mmrlhf_ray.weights.layout import InFlight, Pushed, Told
from mmrlhf_ray.weights.shared import SharedBucket
from mmrlhf_ray.workers.roles.engine import Request, StartMethod, engine_alive, occupied, reads_one_way, start_engine
from mmrlhf_ray.workers.roles.engine_input import clips_of, prefix_order, sampling_parameters, vllm_input

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import SamplingParams

    from mmrlhf_ray.weights.receivers import SessionReceiver
    from mmrlhf_ray.workers.roles.episodes import Episodes

_WEIGHTS = frozenset({"weights"})
_MEMORY = _WEIGHTS | {"kv_cache"}
"""vLLM's names for what an engine has on its device."""
_SEED_STRIDE = 1_000_003
"""Keeps the seeds of requests of one run apart from those of a run with the next seed."""

_AS_LOADED = "default"
"""vLLM's name for the version of weights that were never replaced."""


class PromptMismatch(RunError):
    """The sampler expanded a prompt differently from the processor: training on it would be wrong."""


class Sampler:
    """Consumes ENCODED_PROMPT and MEDIA tables, returns ROLLOUT tables. Many generate() calls can run at once; vLLM
    batches them.

    Between start_weight_update() and finish_weight_update() nothing is sampled; what is asked for then waits.
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
        start_method: StartMethod = "spawn",
        shares_device: bool = False,
        transport: WeightTransport = "object_store",
        environment: EnvironmentConfig | None = None,
    ):
        """Decodes media as `data` says. With `lora` the sampler keeps `model`'s weights, and pushes bring an adapter of
        this shape. `encoder`: of `model` and `data`; None = load_encoder(). `shares_device`: it can sleep().
        `transport`: by which pushes come. `environment`: the one that episodes are played in."""
        self._encoder: Encoder = encoder or load_encoder(model.path, data, allowed=sampling.allow_tokens)
        limits = data.limits if data else None
        self._written_as = self._encoder.written_as
        self._sampling = sampling
        self._seed = seed
        self._llm = start_engine(
            model,
            config,
            sampling,
            max_prompt_tokens,
            seed,
            lora,
            self._encoder,
            start_method,
            shares_device,
            transport,
        )
        self._config = config
        self._weight_bytes = sum(file.stat().st_size for file in Path(model.path).glob("*.safetensors"))
        self._asleep: frozenset[str] = frozenset()
        from mmrlhf_ray.weights.receivers import AdapterReceiver, SessionReceiver  # vLLM's settings come before it

        self._receiver: AdapterReceiver | SessionReceiver = (
            AdapterReceiver(self._llm, self._encoder.adapter, lora) if lora else SessionReceiver(self._llm)
        )
        self._sees_one_way = reads_one_way(self._llm)
        self._numbers = itertools.count()
        self._adding = asyncio.Lock()
        self._pushing = False
        self._weights = 0
        """How often weights have come."""
        self._busy_until = 0.0
        """time.monotonic() by which the engine takes no question: what it waits for has a deadline."""
        self.episodes: Episodes | None = None
        if environment is not None:
            from mmrlhf_ray.workers.roles.episodes import Episodes as Player  # it asks this one

            self.episodes = Player(self, self._encoder, environment, sampling, config, max_prompt_tokens, limits)

    @property
    def engine_sentinels(self) -> list[int]:
        """What becomes ready when a process of the engine ends (multiprocessing.connection.wait)."""
        manager = self._llm.engine_core.resources.engine_manager
        return [process.sentinel for process in manager.processes] if manager else []

    async def heartbeat(self) -> float:
        """Generate one token; seconds it took. An engine that looks alive but is not fails here."""
        from vllm import SamplingParams

        start = time.monotonic()
        prompt = {"prompt_token_ids": [self._encoder.eos_token_ids[0]]}
        async with engine_alive():
            await (await self._add(prompt, SamplingParams(max_tokens=1, detokenize=False))).result()
        return time.monotonic() - start

    async def alive(self) -> None:
        """The engine answers between two of its passes, however much it has to do; while it takes a push straight from
        the learner it need only be there. Raises EngineDied."""
        if time.monotonic() < self._busy_until:
            return
        async with engine_alive():
            await self._llm.is_sleeping()

    async def generate(
        self,
        prompts: pa.Table,
        media: pa.Table,
        n_samples: int,
        together: bool = False,
        most_tokens: int | None = None,
    ) -> tuple[pa.Table, float]:
        """`n_samples` responses to each prompt (rows in prompt order), and the seconds it took. `most_tokens`: in a
        response, where that is fewer than `sampling.max_response_tokens`.

        The same prompts, group ids and weights give the same responses, but for rounding that depends on what else is
        in the batch. `together`: the engine samples nothing until it has all prompts, so that an idle engine does
        exactly the same every time.

        Raises PromptMismatch when the sampler's expansion of a prompt differs from the processor's; RunError for media
        that it cannot read as the family does; EngineDied.
        """
        start = time.monotonic()
        check(prompts, ENCODED_PROMPT, "Sampler.generate")
        check(media, MEDIA, "Sampler.generate")
        rows = prompts.to_pylist()
        self.refuse_unseen(rows)
        clips = clips_of(rows, media)
        async with engine_alive():
            # One after the other, so that the decoded media of one prompt are there at a time, and in a fixed order.
            async with self.adding(together):
                running = {i: await self._ask(rows[i], clips, n_samples, most_tokens) for i in prefix_order(rows)}
            outputs = await asyncio.gather(*(running[i].result() for i in range(len(rows))))
        samples = []
        for row, output in zip(rows, outputs, strict=True):
            self._check_ids(row, output)
            _check_finished(row, output.outputs, n_samples)
            samples += [_sample(row, k, completion) for k, completion in enumerate(output.outputs)]
        return pa.Table.from_pylist(samples, schema=ROLLOUT), time.monotonic() - start

    async def stream(self, prompts: pa.Table, media: pa.Table) -> AsyncIterator[list[int]]:
        """The tokens of a response to the only row of `prompts`, as they come. Raises as generate()."""
        check(prompts, ENCODED_PROMPT, "Sampler.stream")
        check(media, MEDIA, "Sampler.stream")
        (row,) = prompts.to_pylist()
        self.refuse_unseen([row])
        async with engine_alive():
            async with self._adding:
                running = await self._ask(row, clips_of([row], media), 1, streamed=True)
            async for output in running.parts():
                self._check_ids(row, output)
                yield list(output.outputs[0].token_ids)
            _check_finished(row, output.outputs, 1)

    def refuse_unseen(self, rows: Sequence[Row]) -> None:
        """Raise RunError for rows that show what this build of vLLM cannot read as the family does."""
        if self._sees_one_way and any(row["media_ids"] for row in rows):
            raise RunError(
                f"the attention of vLLM's CPU build reads an image from left to right; {self._encoder.adapter.family} "
                "was trained to read it in both directions, so sampler and learner would disagree; use a GPU"
            )

    def turn_of(self, row: Row, output: "RequestOutput") -> tuple[Turn, str]:
        """The only response to `row`, and its finish reason. Raises PromptMismatch where the engine read another
        prompt, RoleFailed where it gave up."""
        self._check_ids(row, output)
        _check_finished(row, output.outputs, 1)
        return _turn_of(output.outputs[0]), str(output.outputs[0].finish_reason)

    def _check_ids(self, row: Row, output: "RequestOutput") -> None:
        _refuse_mismatch(row, [self._written_as.get(i, i) for i in output.prompt_token_ids or ()])

    @asynccontextmanager
    async def adding(self, together: bool) -> AsyncIterator[None]:
        """In the block requests are added one after the other; `together`: the engine samples nothing meanwhile."""
        async with self._adding:
            if not together or self._pushing:  # held until the push is over
                yield
                return
            async with self._held():
                yield

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            yield
        finally:
            await self._llm.resume_generation()

    async def _ask(
        self,
        row: Row,
        clips: Mapping[str, RawMedia],
        n_samples: int,
        most_tokens: int | None = None,
        *,
        streamed: bool = False,
    ) -> Request:
        sampling = self._sampling
        # What a short response leaves in the caches would change the rounding of what follows.
        own_caches = None if most_tokens is None else f"short-{time.time_ns()}"
        if most_tokens is not None:
            shorter = min(most_tokens, sampling.max_response_tokens)
            sampling = sampling.model_copy(update={"max_response_tokens": shorter})
        seed = self.seed_of(row, n_samples)
        params = sampling_parameters(self._encoder, sampling, n_samples, seed, streamed)
        return await self.ask(row, clips, params, {}, own_caches)

    def seed_of(self, row: Row, n_samples: int) -> int:
        """Of the first of a prompt's responses; the others have those after it."""
        return self._seed * _SEED_STRIDE + int(row["group_id"]) * n_samples

    async def ask(
        self,
        row: Row,
        clips: Mapping[str, RawMedia],
        params: "SamplingParams",
        decoded: dict[str, Any],
        caches: str | None = None,
    ) -> Request:
        """Add a request; within adding(). `decoded`: media that are decoded already, to which new ones are added.
        `caches`: a name for caches of its own."""
        inputs = await asyncio.to_thread(vllm_input, self._encoder, row, clips, decoded)
        caches = caches or f"weights-{self._weights}"
        # Caches know blocks and media by these names: what other weights computed is never found.
        inputs["cache_salt"] = caches
        for ids in inputs.get("multi_modal_uuids", {}).values():
            ids[:] = [f"{media_id}@{caches}" for media_id in ids]
        return await self._add(inputs, params)

    async def _add(self, prompt: dict[str, Any], params: "SamplingParams") -> Request:
        return await Request.add(self._llm, prompt, params, str(next(self._numbers)), self._receiver.lora_request)

    async def sleep(self) -> None:
        """Give the device's memory back, when running requests are finished. Weights are kept in the host's memory: the
        next phase may sample with the same ones, in an evaluation or where prompts are refilled."""
        if self._asleep:
            return
        async with engine_alive(), self._adding:
            await self._llm.sleep(level=1, mode="wait")
            self._asleep = _MEMORY

    async def wake(self, weights_alone: bool) -> Held:
        """Take the memory again, for a push that of the weights alone; what is on the device then."""
        wanted = _WEIGHTS if weights_alone else _MEMORY
        async with engine_alive(), self._adding:
            for tag in sorted(self._asleep & wanted, reverse=True):  # weights first
                await self._llm.wake_up([tag])
            self._asleep -= wanted
        return occupied(self._config, self._weight_bytes, weights_alone=bool(self._asleep))

    async def start_weight_update(self, in_flight: InFlight = "finish") -> None:
        """Stop sampling and open a session; buckets follow. in_flight: the fate of running responses.

        `finish`: they are finished first, each by one version. `keep`: they go on afterwards with the new weights, from
        keys and values that the old ones computed; so do requests that wait for their turn. `recompute`: they go on
        with keys and values, media included, computed anew. An adapter can only be pushed with `finish`, since vLLM
        ties a request to the adapter that it started with.

        Raises RunError for an adapter with another mode, RoleFailed.
        """
        if self._receiver.only_finish and in_flight != "finish":
            raise RunError(f"in_flight={in_flight}: an adapter is pushed between requests only; set in_flight: finish")
        async with engine_alive(), self._adding:
            mode = "wait" if in_flight == "finish" and not self._pushing else "keep"
            # Prefixes, processed and encoded media; vLLM cannot empty these under requests that hold some of them.
            await self._llm.pause_generation(mode=mode, clear_cache=in_flight != "keep")
            self._pushing = True
            self._weights += 1
            await self._receiver.start()

    async def receive_bucket(self, bucket: SharedBucket) -> None:
        """Take one bucket; the next may only be put in its place when this has returned. Raises RunError for a tensor
        that does not fit the model."""
        async with engine_alive():
            await self._receiver.receive(bucket)

    @property
    def workers(self) -> int:
        """Processes of the engine that hold a part of the model each."""
        return int(self._llm.vllm_config.parallel_config.world_size_across_dp)

    async def join_weights_group(self, group: Told, seconds: float) -> None:
        """Have the engine's workers meet the learner, which takes these seconds at most."""
        async with self._busy(seconds), engine_alive():
            await self._session.join(group)

    async def receive_directly(self, push: Told, seconds: float) -> None:
        """Take what the learner sends to the engine's workers, which takes these seconds at most. Raises RunError for a
        tensor that does not fit the model."""
        async with self._busy(seconds), engine_alive():
            await self._session.receive_directly(push)

    @property
    def _session(self) -> "SessionReceiver":
        from mmrlhf_ray.weights.receivers import SessionReceiver

        if not isinstance(self._receiver, SessionReceiver):
            raise RunError("an adapter is pushed in buckets, never straight into the engine")
        return self._receiver

    @asynccontextmanager
    async def _busy(self, seconds: float) -> AsyncIterator[None]:
        self._busy_until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._busy_until = 0.0

    async def finish_weight_update(self, policy_version: int) -> Pushed:
        """Close the session and sample on. Raises RunError for a name that the model does not have, and for a weight
        that did not come."""
        async with engine_alive(), self._adding:
            pushed = await self._receiver.finish(policy_version)
            self._pushing = False
            await self._llm.resume_generation()
        return pushed

    def close(self) -> None:
        """End the engine's process, and environments."""
        if self.episodes is not None:
            self.episodes.close()
        self._llm.shutdown()


def _turn_of(completion: "CompletionOutput") -> Turn:
    """What was sampled, with its log-probabilities and the versions that sampled it."""
    ids = list(completion.token_ids)
    logprobs = [step[token].logprob for step, token in zip(completion.logprobs or (), ids, strict=True)]
    versions = [
        (0 if span.version == _AS_LOADED else int(span.version), span.start, span.end)
        for span in completion.weight_versions
    ]
    return Turn(ids, logprobs, versions)


def _sample(row: Row, number: int, completion: "CompletionOutput") -> dict[str, Any]:
    episode = Episode(row, number)
    episode.respond(_turn_of(completion))
    return episode.as_row(str(completion.finish_reason))


def _refuse_mismatch(row: Row, sampler_ids: list[int]) -> None:
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


def _check_finished(row: Row, completions: Sequence["CompletionOutput"], n_samples: int) -> None:
    reasons = [completion.finish_reason for completion in completions]
    if len(reasons) != n_samples or not set(reasons) <= {"stop", "length"}:
        raise RoleFailed(
            f"prompt {row['prompt_id']}: the sampler gave up some of its {n_samples} responses, which ended with "
            f"{reasons}; the generator's log says why"
        )
