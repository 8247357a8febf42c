"""What the actors of a job reserve, how many there are, and how they are spread."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_serializer, model_validator

from mmrlhf_ray.config.section import Section


class Resources(Section):
    """Resources that one actor reserves."""

    num_cpus: float = Field(1.0, ge=0)
    """CPU cores that each reserves; a fraction shares a core."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that each reserves; a fraction shares a GPU."""

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


def _or_number(schema: dict[str, Any]) -> None:
    """In its JSON schema, too, a number may stand in the place of a section."""
    section = {key: schema.pop(key) for key in ("type", "properties", "required", "additionalProperties")}
    schema["anyOf"] = [{"type": "integer", "minimum": 1}, section]


class Replicas(Section):
    """How many actors of a role there are: a number, or from `min` to `max` of them."""

    model_config = ConfigDict(json_schema_extra=_or_number)

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


Colocated = Literal["generator", "scorer", "reference", "policy", "critic"]


def _repeated(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _most(resources: Resources) -> int:
    return resources.most_actors


def _gpus(resources: Resources) -> float:
    return resources.num_gpus


class Placement(Section):
    """How many actors each role has, what each reserves, and how they are spread. `placement: auto`, or nothing: what
    fits the machine or cluster that the job runs on, worked out when it starts."""

    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Of Ray's placement group: `PACK` on few nodes, `SPREAD` over many; `STRICT_` = only so."""
    generator: GeneratorPlacement = GeneratorPlacement()
    """Samplers (vLLM)."""
    scorer: RolePlacement = RolePlacement()
    """Servers of each reward model."""
    functions: Resources = Resources()
    """Reward functions, remote rewards and judges; one actor."""
    reference: RolePlacement = RolePlacement()
    """Servers of the reference."""
    policy: LearnerPlacement = LearnerPlacement()
    """Ranks that train the policy."""
    critic: LearnerPlacement = LearnerPlacement()
    """Ranks that train the critic."""
    encoder: RolePlacement = RolePlacement()
    """Each replica holds all prompts and encodes its share of them, its decoding workers beside it."""
    eval_encoder: RolePlacement = RolePlacement()
    """Of the prompts that a policy is evaluated on during training."""
    colocate: tuple[tuple[Colocated, ...], ...] = ()
    """Groups of roles that share devices and take turns on them: the first actor of each shares one, and so on. What a
    role reserves of GPUs (`num_gpus`, the same for all of a group) is then the group's."""

    @property
    def is_auto(self) -> bool:
        """Whether nothing is said, so that it is still to be worked out."""
        return not self.model_fields_set

    @model_validator(mode="after")
    def _can_share(self) -> "Placement":
        named = [role for group in self.colocate for role in group]
        if len(set(named)) < len(named):
            raise ValueError(f"colocate: a role has one device, but {_repeated(named)} is named twice")
        for group in self.colocate:
            if len(group) < 2:
                raise ValueError(f"colocate: {list(group)} shares with nobody; give two roles or more, or leave it out")
            placed = {role: getattr(self, role) for role in group}
            for key, of in (("replicas", _most), ("num_gpus", _gpus)):
                own = {role: of(resources) for role, resources in placed.items()}
                if len(set(own.values())) > 1:
                    said = ", ".join(f"{role} {value:g}" for role, value in own.items())
                    raise ValueError(f"colocate: roles that share devices have the same {key}, got {said}")
            if _gpus(placed[group[0]]) > 1:
                raise ValueError(
                    f"colocate: a device is one GPU, but placement.{group[0]}.num_gpus={_gpus(placed[group[0]]):g}; "
                    "roles on several GPUs each (tensor_parallel_size) cannot share them"
                )
        return self

    @property
    def sharing_roles(self) -> frozenset[str]:
        """Roles of `colocate`."""
        return frozenset(role for group in self.colocate for role in group)

    def sharing(self, role: str) -> tuple[str, ...]:
        """The roles that this one shares devices with, itself among them; alone where it shares with none."""
        return next((group for group in self.colocate if role in group), (role,))

    def of(self, *roles: str) -> dict[str, Resources]:
        """Role → what its actors reserve."""
        return {role: getattr(self, role) for role in roles}

    def refuse_sharing(self, why: str) -> None:
        """Raise ValueError where roles share devices."""
        if self.colocate:
            raise ValueError(f"placement.colocate: {why}; leave it out")

    def refuse_changing(self, why: str) -> None:
        """Raise ValueError where the number of generators may change."""
        count = self.generator.replicas
        if count.min < count.max:
            given = f"placement.generator.replicas={{min: {count.min}, max: {count.max}}}"
            raise ValueError(f"{given}: {why}; give a number")
