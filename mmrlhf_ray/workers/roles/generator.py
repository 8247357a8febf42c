"""The rollout generator: a sampler in a Ray actor, and the driver's way to ask all of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.config.base import LoRAConfig, ModelConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.jobs import GeneratorConfig, SamplingConfig
from mmrlhf_ray.rollout.batch import Prompts, Rollouts, rollouts_of
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.weights.buckets import TensorLayout
from mmrlhf_ray.weights.push import Pushed
from mmrlhf_ray.workers.roles.sampler import Sampler


class Generator:
    """Samples responses. Between start_weight_update() and finish_weight_update() it must not be asked to generate."""

    def __init__(
        self,
        model: ModelConfig,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        data: DataConfig,
        seed: int,
        lora: LoRAConfig | None = None,
    ):
        self._sampler = Sampler(model, config, sampling, data.max_prompt_tokens, seed, lora, data)

    @ray.method
    def heartbeat(self) -> float:
        """As Sampler.heartbeat()."""
        return self._sampler.heartbeat()

    @ray.method
    def generate(self, prompts: pa.Table, media: pa.Table, n_samples: int) -> tuple[pa.Table, float]:
        """As Sampler.generate()."""
        return self._sampler.generate(prompts, media, n_samples)

    @ray.method
    def start_weight_update(self) -> None:
        """As Sampler.start_weight_update()."""
        self._sampler.start_weight_update()

    @ray.method
    def receive_bucket(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        """As Sampler.receive_bucket()."""
        self._sampler.receive_bucket(layout, payload)

    @ray.method
    def finish_weight_update(self, policy_version: int) -> Pushed:
        """As Sampler.finish_weight_update()."""
        return self._sampler.finish_weight_update(policy_version)


@dataclass(frozen=True)
class Generators:
    """The generators; prompts are divided among them."""

    group: ActorGroup[Generator]
    deadline_s: float

    def wait_ready(self, seconds: float) -> None:
        """Until every engine has sampled a token. Raises what loading raised, DeadlineExceeded."""
        self.group.wait(
            [handle.heartbeat.remote() for handle in self.group.handles], seconds, "starting the generators"
        )

    def generate(self, prompts: Prompts, n_samples: int) -> Rollouts:
        """`n_samples` responses to each prompt, in prompt order."""
        bounds = np.linspace(0, len(prompts.table), len(self.group) + 1).astype(int)
        refs = [
            handle.generate.remote(prompts.table.slice(first, last - first), prompts.media, n_samples)
            for handle, first, last in zip(self.group.handles, bounds, bounds[1:], strict=False)
        ]
        answers = self.group.wait(refs, self.deadline_s, "generating responses")
        table = check(pa.concat_tables([t for t, _ in answers]), ROLLOUT, "Generators").combine_chunks()
        return rollouts_of(table, prompts.features, max(seconds for _, seconds in answers), prompts.records)

    def start_weight_update(self) -> None:
        """Open a push on every generator."""
        refs = [handle.start_weight_update.remote() for handle in self.group.handles]
        self.group.wait(refs, self.deadline_s, "starting a weight push")

    def finish_weight_update(self, policy_version: int) -> list[Pushed]:
        """Close the push; what each generator holds now."""
        refs = [handle.finish_weight_update.remote(policy_version) for handle in self.group.handles]
        return self.group.wait(refs, self.deadline_s, "finishing a weight push")
