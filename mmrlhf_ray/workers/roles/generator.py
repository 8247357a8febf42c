"""The rollout generator: a Ray actor with a sampler, and the driver's way to ask all of them."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.actor import ActorProxy

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.environment import EnvironmentConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.batches.ragged import row_lengths
from mmrlhf_ray.errors import RoleFailed
from mmrlhf_ray.rollout.batch import Prompts, Rollouts, rollouts_of, shown
from mmrlhf_ray.rollout.routing import Routing, group_tokens
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.devices import Held, Phase
from mmrlhf_ray.runtime.network import meet_over
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import MEDIA, ROLLOUT, check
from mmrlhf_ray.weights.layout import InFlight, Pushed, TensorLayout, Told
from mmrlhf_ray.weights.shared import SharedBuffer
from mmrlhf_ray.workers.roles.sampler_process import (
    Alive,
    CountWorkers,
    FinishWeightUpdate,
    Generate,
    Heartbeat,
    JoinWeightsGroup,
    Play,
    ReceiveBucket,
    ReceiveDirectly,
    SamplerProcess,
    SamplerSpec,
    Sleep,
    StartWeightUpdate,
    Wake,
)

_Answer = tuple[pa.Table, float]
"""ROLLOUT, and the seconds it took."""
_PROOF_TOKENS = 32
"""Most of a response that is sampled for its log-probabilities alone."""


class Generator:
    """Samples responses; takes many requests at once, also while weights are replaced (an asyncio actor)."""

    def __init__(
        self,
        model: ModelConfig,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        data: DataConfig,
        seed: int,
        lora: LoRAConfig | None = None,
        shares_device: bool = False,
        transport: WeightTransport = "object_store",
        environment: EnvironmentConfig | None = None,
    ):
        """`shares_device`: it can leave() its device. `transport`: by which pushes come. `environment`: the one that
        play() plays episodes in."""
        meet_over(ray.util.get_node_ip_address())  # the engine's workers inherit that
        self._sampler = SamplerProcess(
            SamplerSpec(
                model,
                config,
                sampling,
                data.most_prompt_tokens,
                seed,
                lora,
                data,
                shares_device,
                transport,
                environment,
            ),
            Path(ray.get_runtime_context().get_temp_dir()),
        )
        self._weights_group = ""
        self._bucket = SharedBuffer()
        self._one_bucket = asyncio.Lock()
        self._outdated = ray.get_runtime_context().was_current_actor_reconstructed
        """Whether its weights are those of the start, although the policy has moved on."""

    @ray.method
    async def heartbeat(self) -> float:
        """As Sampler.heartbeat()."""
        return await self._sampler.ask(Heartbeat())

    @ray.method
    async def alive(self) -> None:
        """As Sampler.alive()."""
        await self._sampler.ask(Alive())

    @ray.method
    async def outdated(self) -> bool:
        """Whether it was started again and has not got the policy's weights since."""
        return self._outdated

    @ray.method
    async def generate(self, prompts: pa.Table, n_samples: int, together: bool, *media: pa.Table) -> _Answer:
        """As Sampler.generate(). `media`: MEDIA of each clip that the prompts show. Raises RoleFailed where it was
        started again and has not got the policy's weights."""
        return await self._sampler.ask(Generate(prompts, self._media(media), n_samples, together))

    @ray.method(num_returns=3)
    async def play(
        self, prompts: pa.Table, n_samples: int, together: bool, records: int, *tables: pa.Table
    ) -> tuple[_Answer, pa.Table, pa.Table]:
        """As Episodes.play(), and the seconds it took. `tables`: this many of PROMPT, then MEDIA of each clip that the
        prompts show. Raises as generate()."""
        start = time.monotonic()
        known, media = pa.concat_tables(tables[:records]), self._media(tables[records:])
        found, shown, features = await self._sampler.ask(Play(prompts, known, media, n_samples, together))
        return (found, time.monotonic() - start), shown, features

    @ray.method
    async def prove(self, prompts: pa.Table, *media: pa.Table) -> _Answer:
        """One short response to each prompt; else as generate()."""
        return await self._sampler.ask(Generate(prompts, self._media(media), 1, False, _PROOF_TOKENS))

    def _media(self, media: Sequence[pa.Table]) -> pa.Table:
        if self._outdated:
            raise RoleFailed("started again, and without the policy's weights so far")
        return pa.concat_tables(media) if media else MEDIA.empty_table()

    @ray.method
    async def leave(self) -> Held:
        """The engine sleeps; what is left on its device."""
        await self._sampler.ask(Sleep())
        return Held(0, None)

    @ray.method
    async def enter(self, phase: Phase) -> Held:
        """The engine is awake: for a push with its weights alone; what is there."""
        return await self._sampler.ask(Wake(weights_alone=phase == "push"))

    @ray.method
    async def start_weight_update(self, in_flight: InFlight) -> None:
        """As Sampler.start_weight_update()."""
        await self._sampler.ask(StartWeightUpdate(in_flight))

    @ray.method
    async def receive_bucket(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        """As Sampler.receive_bucket()."""
        async with self._one_bucket:
            await self._sampler.ask(ReceiveBucket(self._bucket.put(layout, payload)))

    @ray.method
    async def weights_group(self) -> tuple[str, int]:
        """The group of the learner's first rank that its engine's workers are in, "" where there is none; and how many
        workers those are."""
        return self._weights_group, await self._sampler.ask(CountWorkers())

    @ray.method
    async def join_weights_group(self, name: str, group: Told, seconds: float) -> None:
        """As Sampler.join_weights_group()."""
        self._weights_group = ""
        await self._sampler.ask(JoinWeightsGroup(group, seconds))
        self._weights_group = name

    @ray.method
    async def receive_directly(self, push: Told, seconds: float) -> None:
        """As Sampler.receive_directly(); where it fails, the group has been left."""
        name, self._weights_group = self._weights_group, ""
        await self._sampler.ask(ReceiveDirectly(push, seconds))
        self._weights_group = name

    @ray.method
    async def finish_weight_update(self, policy_version: int) -> Pushed:
        """As Sampler.finish_weight_update()."""
        pushed = await self._sampler.ask(FinishWeightUpdate(policy_version))
        self._outdated = False
        return pushed


@dataclass(frozen=True)
class Observed:
    """What the observations of some episodes show, in tables that are there with the answer."""

    media: "ray.ObjectRef[pa.Table]"
    features: "ray.ObjectRef[pa.Table]"

    def added(self, prompts: Prompts, table: pa.Table) -> Prompts:
        """`prompts` with the clips of these ROLLOUT rows, as far as they are not the prompts' own."""
        new = [name for name in shown(table) if name not in prompts.features]
        media, features = (dict.fromkeys(new, ref) for ref in (self.media, self.features))
        return replace(prompts, media={**prompts.media, **media}, features={**prompts.features, **features})


@dataclass(frozen=True)
class Asked:
    """Groups that a generator is at work on. Wait for `ref` among others with ray.wait(); then Generators.answer()."""

    prompts: Prompts
    """One row is one group."""
    ref: "ray.ObjectRef[_Answer]"
    engine: int
    """Number of the generator."""
    tokens: float
    """What it was counted as (Routing)."""
    until: float
    """time.monotonic() by which the answer must be there."""
    shown: "Observed | None" = None
    """What episodes show."""


@dataclass(frozen=True)
class Generators:
    """The generators. Groups are asked for one by one, each at one generator that serves, or all at once."""

    group: ActorGroup[Generator]
    """All that there may be."""
    deadline_s: float
    required: int | None = None
    """How many there must be: the first of the group, which serve from the start; None = all."""
    plays: bool = False
    """Whether responses are episodes in an environment."""

    @cached_property
    def routing(self) -> Routing:
        """What each generator is at work on."""
        return Routing(len(self.group), self.count_required)

    @property
    def count_required(self) -> int:
        """How many there must be."""
        return len(self.group) if self.required is None else self.required

    @property
    def serving(self) -> "Generators":
        """Those that take groups now."""
        return self._some(self.routing.serving)

    def serve(self, names: Collection[str]) -> None:
        """These take groups from now on, and no others."""
        chosen = [number for number, name in enumerate(self.group.names) if name in names]
        self.routing.close(range(len(self.group)))
        self.routing.open(chosen)

    def _some(self, numbers: Sequence[int]) -> "Generators":
        names, handles = self.group.names, self.group.handles
        chosen = ActorGroup(tuple(names[i] for i in numbers), tuple(handles[i] for i in numbers))
        return Generators(chosen, self.deadline_s, plays=self.plays)

    def wait_ready(self, seconds: float) -> None:
        """Until every engine that is required has sampled a token. Raises what loading raised, DeadlineExceeded."""
        required = self._some(range(self.count_required)).group
        required.wait([handle.heartbeat.remote() for handle in required.handles], seconds, "starting the generators")

    def outdated(self, served: Collection[str], seconds: float) -> "Generators":
        """Those that may not have the policy's weights: all that are not among `served`, who were pushed to, and those
        that were started again since. Raises DeadlineExceeded."""
        asked = [handle.outdated.remote() for handle in self.group.handles]
        found = self.group.wait(asked, seconds, "looking for generators without weights")
        names = self.group.names
        return self._some([number for number, old in enumerate(found) if old or names[number] not in served])

    def ask(self, prompts: Prompts, n_samples: int, engine: int | None = None) -> Asked:
        """Ask one generator for `n_samples` responses to each of these prompts (usually one: a group); nothing blocks.

        engine: its number; None = the one with the least to do. Raises ValueError where none serves.
        """
        tokens = group_tokens(prompts.table, n_samples, self.routing.response_tokens)
        engine = self.routing.start(tokens, engine)
        ref, observed = self._asked(self.group.handles[engine], prompts, n_samples, together=False)
        return Asked(prompts, ref, engine, tokens, time.monotonic() + self.deadline_s, observed)

    def _asked(
        self, handle: ActorProxy[Generator], prompts: Prompts, n_samples: int, together: bool
    ) -> tuple["ray.ObjectRef[_Answer]", Observed | None]:
        if not self.plays:
            return handle.generate.remote(prompts.table, n_samples, together, *prompts.media.values()), None
        tables = (*prompts.records, *prompts.media.values())
        answers = handle.play.remote(prompts.table, n_samples, together, len(prompts.records), *tables)
        answer, media, features = cast("tuple[Any, Any, Any]", answers)  # Ray's types do not say so
        return answer, Observed(media, features)

    def answer(self, asked: Asked) -> Rollouts:
        """The responses, in prompt order; waits for them until the deadline that asking began.

        Raises DeadlineExceeded, what the generator raised, and RoleFailed where it or its engine died; it then takes
        no groups any more, until serve(). However it ends, the groups no longer count as work of that generator.
        """
        name = self.group.names[asked.engine]
        lengths = np.empty(0)
        try:
            left = max(0.0, asked.until - time.monotonic())
            ((table, seconds),) = deadline_get([asked.ref], left, "generating responses", [name])
            lengths = row_lengths(check(table, ROLLOUT, name), "response_token_ids")
        except RoleFailed:
            self.routing.close([asked.engine])
            raise
        finally:
            self.routing.finish(asked.engine, asked.tokens, lengths)
        prompts = asked.shown.added(asked.prompts, table) if asked.shown else asked.prompts
        return rollouts_of(table, prompts.features, seconds, prompts.records, prompts.media)

    def generate(self, prompts: Prompts, n_samples: int) -> Rollouts:
        """`n_samples` responses to each prompt, in prompt order. The same prompts and weights give the same responses,
        to the last bit, where nothing else is being sampled."""
        bounds = np.linspace(0, len(prompts.table), len(self.group) + 1).astype(int).tolist()
        parts = [prompts.slice(first, last - first) for first, last in pairwise(bounds)]
        asked = [
            self._asked(handle, part, n_samples, together=True)
            for handle, part in zip(self.group.handles, parts, strict=True)
        ]
        answers = self.group.wait([ref for ref, _ in asked], self.deadline_s, "generating responses")
        table = check(pa.concat_tables([t for t, _ in answers]), ROLLOUT, "Generators").combine_chunks()
        longest = max(seconds for _, seconds in answers)
        for (own, _), (_, observed) in zip(answers, asked, strict=True):
            prompts = observed.added(prompts, own) if observed else prompts
        return rollouts_of(table, prompts.features, longest, prompts.records, prompts.media)

    def prove(self, names: Collection[str], prompts: Prompts) -> dict[str, Rollouts]:
        """A short response to each prompt by each of these generators. Raises as answer()."""
        own = self._some([number for number, name in enumerate(self.group.names) if name in names]).group
        refs = [handle.prove.remote(prompts.table, *prompts.media.values()) for handle in own.handles]
        answers = own.wait(refs, self.deadline_s, "proving the generators")
        return {
            name: rollouts_of(check(table, ROLLOUT, name), prompts.features, seconds, prompts.records)
            for name, (table, seconds) in zip(own.names, answers, strict=True)
        }

    def leave(self) -> list[Held]:
        """As Taking.leave()."""
        refs = [handle.leave.remote() for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "leaving the devices")

    def enter(self, phase: Phase) -> list[Held]:
        """As Taking.enter()."""
        refs = [handle.enter.remote(phase) for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "coming back to the devices")

    def start_weight_update(self, in_flight: InFlight = "finish") -> None:
        """Open a push on every generator; the fate of running responses as in Sampler.start_weight_update()."""
        refs = [handle.start_weight_update.remote(in_flight) for handle in self.group.handles]
        self.group.wait(refs, self.deadline_s, "starting a weight push")

    def finish_weight_update(self, policy_version: int) -> list[Pushed]:
        """Close the push; what each generator holds now."""
        refs = [handle.finish_weight_update.remote(policy_version) for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "finishing a weight push")


def one_by_one(prompts: Prompts) -> Sequence[Prompts]:
    """Each group alone."""
    return [prompts.slice(row, 1) for row in range(len(prompts.table))]
