"""What the actors of a job reserve, how many there are, and how they are spread."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_serializer, model_validator

from mmrlhf_ray.config.section import Section


class Resources(Section):
    """Resources that one actor reserves."""

    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)

    @property
    def computing_threads(self) -> int:
        """Threads that the actor computes with on CPUs: its whole `num_cpus`, one at least."""
        return max(1, int(self.num_cpus))

    @property
    def actors(self) -> int:
        """Number of actors that each reserve this much, and that a job waits for."""
        return 1

    @property
    def most_actors(self) -> int:
        """Number of actors that there may be, those included that start when there is room for them."""
        return self.actors


class _Computing(Resources):
    threads: PositiveInt | None = None
    """Threads that each computes with on CPUs; `null` = its whole `num_cpus`, one at least. Roles that work in turns
    may each reserve a part of the machine and compute on all of it."""

    @property
    def computing_threads(self) -> int:
        """As `threads` says, else as `num_cpus` does."""
        return self.threads or super().computing_threads


class RolePlacement(_Computing):
    """How many actors of a role there are; `num_cpus`, `num_gpus` are for each."""

    replicas: PositiveInt = 1
    """Scorers, reference servers or encoders; for learners: data-parallel ranks."""

    @property
    def actors(self) -> int:
        """As `replicas` says."""
        return self.replicas


class LearnerPlacement(RolePlacement):
    """Two ranks unless set otherwise; a class, so that giving `num_gpus` alone keeps the default of `replicas`."""

    replicas: PositiveInt = 2


class Replicas(Section):
    """How many actors of a role there are: a number, or from `min` to `max` of them."""

    min: PositiveInt
    """As many are reserved at the start, and waited for."""
    max: PositiveInt
    """As many there may be: the others join a run when the cluster has room for them, and leave it with their nodes."""

    @model_validator(mode="before")
    @classmethod
    def _of_number(cls, value: Any) -> Any:
        if isinstance(value, dict | Replicas):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"must be a number from 1 on, or {{min: …, max: …}}, got {value!r}")
        return {"min": value, "max": value}

    @model_validator(mode="after")
    def _in_order(self) -> "Replicas":
        if self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        return self

    @model_serializer
    def _as_given(self) -> int | dict[str, int]:
        return self.min if self.min == self.max else {"min": self.min, "max": self.max}


class GeneratorPlacement(_Computing):
    """How many generators there are; `num_cpus`, `num_gpus` are for each."""

    replicas: Replicas = Replicas(min=1, max=1)
    """A number, or {min: 1, max: 8} for a stream in which generators join and leave."""

    @property
    def actors(self) -> int:
        """The least of `replicas`."""
        return self.replicas.min

    @property
    def most_actors(self) -> int:
        """The most of `replicas`."""
        return self.replicas.max


class Placement(Section):
    """How many actors each role has, what each reserves, and how they are spread."""

    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    generator: GeneratorPlacement = GeneratorPlacement()
    scorer: RolePlacement = RolePlacement()
    functions: Resources = Resources()
    """Reward functions, remote rewards and judges; one actor."""
    reference: RolePlacement = RolePlacement()
    policy: LearnerPlacement = LearnerPlacement()
    critic: LearnerPlacement = LearnerPlacement()
    encoder: RolePlacement = RolePlacement()
    """Each replica holds all prompts and encodes its share of them, its decoding workers beside it."""
    eval_encoder: RolePlacement = RolePlacement()
    """Of the prompts that a policy is evaluated on during training."""

    def of(self, *roles: str) -> dict[str, Resources]:
        """Role → what its actors reserve."""
        return {role: getattr(self, role) for role in roles}

    def refuse_changing(self, why: str) -> None:
        """Raise ValueError where the number of generators may change."""
        count = self.generator.replicas
        if count.min < count.max:
            given = f"placement.generator.replicas={{min: {count.min}, max: {count.max}}}"
            raise ValueError(f"{given}: {why}; give a number")
