"""The generators of a push that goes straight into their engines, as the learner's first rank asks them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray.actor import ActorProxy

from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.weights.layout import MEET_S, Told
from mmrlhf_ray.workers.roles.generator import Generator


@dataclass
class GeneratorReceivers:
    """The four calls of vLLM's VLLMWeightSyncClient, and those of Receivers (weights/direct.py)."""

    generators: Sequence[ActorProxy[Generator]]
    deadline_s: float
    group: str = ""

    def groups(self) -> list[tuple[str, int]]:
        """As Receivers.groups()."""
        return deadline_get([g.weights_group.remote() for g in self.generators], self.deadline_s, "weight push")

    def init_weight_transfer_engine(self, init_info: Mapping[str, object]) -> None:
        """Have all workers join the group; each generator's have ranks of their own."""
        rank, refs = 1, []
        for generator, (_, workers) in zip(self.generators, self.groups(), strict=True):
            told = {**init_info, "rank_offset": rank}
            refs.append(generator.join_weights_group.remote(self.group, told, min(MEET_S, self.deadline_s)))
            rank += workers
        deadline_get(refs, self.deadline_s, "joining a weight push")

    def start_weight_update(self) -> None:
        """Learners.push() has opened the session: the fate of running responses is the driver's to say."""

    def update_weights(self, update_info: Told) -> None:
        """Have all workers take what is about to be sent."""
        refs = [generator.receive_directly.remote(update_info, self.deadline_s) for generator in self.generators]
        deadline_get(refs, self.deadline_s, "weight push")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Learners.push() closes the session, and compares."""
