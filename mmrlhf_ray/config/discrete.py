"""Configuration of `mmrlhf discrete`: decisions over several modalities, learned with RLlib."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.base import ModelUse, RecordsUse, TrackedConfig
from mmrlhf_ray.config.discrete_parts import (
    DQN,
    Clone,
    DecideTask,
    DiscreteAlgorithm,
    FusionSection,
    ImageModality,
    LocateTask,
    ObservationSection,
    SequentialSection,
    Task,
)
from mmrlhf_ray.config.discrete_rewards import HumanLossSection, RewardSection
from mmrlhf_ray.config.paths import PathText
from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.config.section import Section

RESERVED = ("present", "task", "action_mask")
"""Keys of an observation that are not modalities."""


class EnvRunnersSection(Resources):
    """Actors that make decisions."""

    replicas: NonNegativeInt = 0
    """Actors that make decisions; 0 = the driver itself does."""
    envs: PositiveInt = 8
    """Environments that each of them steps together."""

    @property
    def actors(self) -> int:
        """As `replicas` says."""
        return self.replicas


class LearnersSection(Resources):
    """Actors that learn."""

    replicas: NonNegativeInt = 0
    """Data-parallel learners; 0 = the driver itself learns."""

    @property
    def actors(self) -> int:
        """As `replicas` says."""
        return self.replicas


class EvaluationSection(Section):
    """When the held-out records are decided."""

    every_steps: PositiveInt = 5
    """Decide the held-out records every this many steps, and at the end."""
    rows: PositiveInt | None = None
    """At most this many of each task in between; `null` = all. At the end all are decided."""


class Range(Section):
    """Numbers from low to high."""

    low: float
    """The least."""
    high: float
    """The most."""
    log: bool = False
    """Evenly in their logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low below high, and above 0 with log; got low={self.low}, high={self.high}")
        return self


class SweepSection(Section):
    """Runs with other values of some keys, by Ray Tune; the best held-out score wins."""

    parameters: dict[str, tuple[bool | int | float | str, ...] | Range] = Field(min_length=1)
    """Dotted key of this file → values to choose from, or a range."""
    samples: PositiveInt = 8
    """Runs."""
    concurrent: PositiveInt = 1
    """At one time."""


class DiscreteConfig(TrackedConfig):
    """Learning to decide: a class or a box from what is seen, heard and read."""

    tasks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Task] = Field(min_length=1)
    """Name → task. Several share one trunk and have a head each."""
    observation: ObservationSection
    sequential: SequentialSection | None = None
    """`null` = everything is shown and the first action decides."""
    fusion: FusionSection = FusionSection()
    algorithm: DiscreteAlgorithm
    """How decisions are learned."""
    warm_start: PathText | None = None
    """Run directory whose module training starts from, such as a `clone` run's."""
    reward: RewardSection = RewardSection()
    human_loss: HumanLossSection | None = None
    steps: PositiveInt = 20
    """Steps of the run: in each, decisions are made and learned from."""
    decisions_per_step: PositiveInt = 1000
    """Decisions made in each step; for `clone`, rows that are imitated."""
    max_minutes: PositiveFloat | None = None
    """The run ends after the step in which this is reached; `null` = all steps."""
    stop_at: float | None = Field(None, gt=0, le=1)
    """The run ends when the mean held-out score reaches this; `null` = all steps."""
    env_runners: EnvRunnersSection = EnvRunnersSection()
    learners: LearnersSection = LearnersSection()
    evaluation: EvaluationSection = EvaluationSection()
    sweep: SweepSection | None = None

    @property
    def ask_actions(self) -> tuple[str, ...]:
        """Modalities that an action asks for, in the order of these actions, which come after the decisions."""
        return tuple(self.observation.modalities) if self.sequential else ()

    @property
    def roles(self) -> Mapping[str, Resources]:
        return {"env_runners": self.env_runners, "learners": self.learners}

    @property
    def models(self) -> Mapping[str, ModelUse]:
        reward = self.reward.reward_model
        return {} if reward is None else {"reward.reward_model.model": ModelUse(reward.model, scores=True)}

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        found: dict[str, RecordsUse] = {}
        for name, task in self.tasks.items():
            found |= {f"tasks.{name}.train": RecordsUse(task.train, "PROMPT")}
            found |= {f"tasks.{name}.heldout": RecordsUse(task.heldout, "PROMPT")}
            shown = task.demonstrations if isinstance(task, DecideTask) else None
            found |= {} if shown is None else {f"tasks.{name}.demonstrations": RecordsUse(shown, "DEMONSTRATION")}
        return found

    @model_validator(mode="after")
    def _names_agree(self) -> "DiscreteConfig":
        modalities = self.observation.modalities
        known = ", ".join(modalities)
        taken = sorted(set(modalities) & set(RESERVED))
        if taken:
            raise ValueError(f"observation.modalities.{taken[0]}: the name is taken; choose another")
        for name, task in self.tasks.items():
            if isinstance(task, LocateTask) and not isinstance(modalities.get(task.modality), ImageModality):
                raise ValueError(
                    f"tasks.{name}.modality={task.modality} must be an image among observation.modalities: {known}"
                )
            for key in ("train", "heldout", "demonstrations"):
                if getattr(getattr(task, key, None), "streaming", False):
                    raise ValueError(f"tasks.{name}.{key}.streaming: this job holds all its records; leave it out")
        if self.sequential is not None and self.sequential.first not in modalities:
            raise ValueError(f"sequential.first={self.sequential.first} must be one of observation.modalities: {known}")
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> "DiscreteConfig":
        cloned = isinstance(self.algorithm, Clone)
        if self.sequential is not None:
            if len(self.tasks) > 1:
                raise ValueError("sequential is for one task; leave it or the other tasks out")
            if len(self.observation.modalities) < 2:
                raise ValueError("sequential needs a second modality to ask for; give one, or leave sequential out")
            if cloned:
                raise ValueError(
                    "algorithm.kind=clone imitates decisions, and none of its rows asks; leave sequential out"
                )
        if self.human_loss is not None and not cloned:
            raise ValueError("human_loss joins the loss of algorithm.kind=clone; for others give `reward.human`")
        demonstrated = [n for n, t in self.tasks.items() if isinstance(t, DecideTask) and t.demonstrations is not None]
        if demonstrated and not cloned:
            raise ValueError(
                f"tasks.{demonstrated[0]}.demonstrations are for algorithm.kind=clone; clone first and give its run "
                "directory as warm_start, or leave them out"
            )
        if self.reward.cost is not None and isinstance(self.algorithm, DQN):
            raise ValueError(
                "reward.cost: its multiplier moves, and replayed decisions have the reward of an earlier one; choose "
                "algorithm.kind ppo, a2c or reinforce"
            )
        if cloned and self.reward != RewardSection():
            raise ValueError("algorithm.kind=clone has no reward; leave `reward` out")
        return self
