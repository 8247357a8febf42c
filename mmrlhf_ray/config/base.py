"""Sections that every job's configuration shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, WithJsonSchema, field_validator, model_validator

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.learner import LearnerConfig
from mmrlhf_ray.config.output import OutputConfig
from mmrlhf_ray.config.paths import ModelText
from mmrlhf_ray.config.placement import LearnerPlacement, Resources
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.config.shapes import ModelShape
from mmrlhf_ray.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow", "swanlab"]
MODEL_DIR = "model"
"""Below its directory: where a run exports the model that it trained."""


class ModelConfig(Section):
    """A model."""

    path: ModelText
    """Directory in Hugging Face format (weights, processor, chat template), or a model to fetch: `hf:ORG/NAME` of
    Hugging Face, `ms:ORG/NAME` of ModelScope; `@REVISION` behind it takes that revision."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights while they are used; `null` = float32 on CPUs, and on GPUs what the model's files are in (bfloat16
    for float16, and where they are not here)."""
    trust_remote_code: Literal[False] = False
    """Code that comes with weights is never run."""
    shape: ModelShape | None = None
    """Read by `--dry-run` only, and only where `path` is not there."""

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """`dtype`; float32 where nothing has settled it (planning/settle.py)."""
        return self.dtype or "float32"


EnvValue = Annotated[
    str, Field(coerce_numbers_to_str=True), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})
]
_OWN_ENV = {
    "OMP_NUM_THREADS": "set placement.<role>.threads",
    "CUDA_VISIBLE_DEVICES": "set placement.<role>.num_gpus",
    "RANK": "set placement.<role>.replicas",
    "WORLD_SIZE": "set placement.<role>.replicas",
    "LOCAL_RANK": "leave it out",
    "MASTER_": "leave it out",
    "DS_ACCELERATOR": "set device",
    "RAY_": "set it where Ray is started",
}
"""Start of a variable's name → what to do instead."""


class DeadlineConfig(Section):
    """Seconds after which a stage is given up with an error that names who did not answer."""

    placement_s: PositiveFloat = 15.0
    """Until the cluster has reserved what the job asks for."""
    start_s: PositiveFloat = 600.0
    """Until an actor has loaded its model."""
    stage_s: PositiveFloat = 1800.0
    """For one stage of a step."""


class CheckpointConfig(Section):
    """When the state of training is saved, to go on from with `--resume`."""

    every_steps: PositiveInt = 50
    """A checkpoint after every this many steps, and after the last."""
    every_seconds: PositiveFloat | None = None
    """Also after the step in which so many seconds have passed since the last one; `null` = by steps alone."""
    keep: PositiveInt = 2
    """Newest checkpoints that are kept."""
    best: str | None = Field(None, pattern=r"^-?eval_\w+$")
    """A figure of the run's evaluations, such as `eval_score`, or `-eval_loss` where less is better. The step where it
    was best has a checkpoint, which is kept as well; `mmrlhf export --best` takes its model."""

    def quality(self, metrics: Mapping[str, float]) -> float | None:
        """Of a step with these metrics: more is better. None where `best` is unset or was not measured at the step.
        Raises ConfigError where the step was evaluated and has no such figure."""
        if self.best is None or not (measured := [name for name in metrics if name.startswith("eval_")]):
            return None
        name = self.best.removeprefix("-")
        if name not in metrics:
            raise ConfigError(
                f"checkpoint.best={self.best}: the evaluation has no such figure; it has {', '.join(sorted(measured))}"
            )
        return -metrics[name] if self.best.startswith("-") else metrics[name]


class RecoveryConfig(Section):
    """Which actors are started again in the same run."""

    max_restarts: int = Field(6, ge=0)
    """How often one actor may die within an hour; the next time it stays dead, and the run ends. 0 = the first."""
    silent_s: PositiveFloat = 20.0
    """Seconds without a sign of life after which an actor is ended and started again, whatever it is at work on."""


@dataclass(frozen=True)
class Longest:
    """Tokens of the longest row that a job can have."""

    keys: str
    """The keys that they are the sum of."""
    tokens: int


@dataclass(frozen=True)
class ModelUse:
    """A model that a job loads."""

    config: ModelConfig
    scores: bool = False
    """It must have a scalar head."""
    any_head: bool = False
    """Its head is not used, so that it may be a reward model."""
    reads: Longest | None = None
    """The longest text that it is given, as far as the configuration says; None = its rows are measured one by one."""


@dataclass(frozen=True)
class LearnerUse:
    """A model that a job trains."""

    model: ModelConfig
    config: LearnerConfig
    scalar: bool
    """With a scalar head instead of a vocabulary's."""


@dataclass(frozen=True)
class MostMedia:
    """How many clips of one kind a prompt may show."""

    key: str
    clips: int


@dataclass(frozen=True)
class RecordsUse:
    """Records that a job reads."""

    data: DataConfig
    table: Literal["PROMPT", "DEMONSTRATION", "PREFERENCE", "RANKING"]
    """The kind of record (docs/data.md)."""
    batch: tuple[str, int] | None = None
    """Key and value of the batch size, the least number of rows; None = any number will do."""
    held_for: str | None = None
    """Who needs all rows before it starts, so that they cannot be streamed; None = no one."""
    most_media: MostMedia | None = None
    """None = any number will do."""


class RunConfig(OutputConfig):
    """Keys that every job has, and a job's description of itself for planning, checks and launch."""

    seed: int = Field(0, ge=0)
    """Seed of everything that is drawn at random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is cuda where a role reserves GPUs, else cpu."""
    deadlines: DeadlineConfig = DeadlineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    env: Mapping[str, EnvValue] = {}
    """Environment variables of every worker process, such as NCCL's and vLLM's; they replace what is set there."""

    @field_validator("env")
    @classmethod
    def _not_ours(cls, env: Mapping[str, str]) -> Mapping[str, str]:
        for name in env:
            if instead := next((key for prefix, key in _OWN_ENV.items() if name.startswith(prefix)), None):
                raise ValueError(f"{name} is set by this project; {instead}")
        return env

    @property
    def roles(self) -> Mapping[str, Resources]:
        """Role that this job has actors for → what they reserve. The key `placement.<role>` says so where the job has
        a `placement`, else the key `<role>`."""
        raise TypeError(f"{type(self).__name__} does not say its roles")

    @property
    def models(self) -> Mapping[str, ModelUse]:
        """Configuration key → model that the job loads; the first one's tokenizer and processor read everything."""
        raise TypeError(f"{type(self).__name__} does not say its models")

    @property
    def evaluates(self) -> bool:
        """Whether what is trained is measured on records that nothing is learned from."""
        return False

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.checkpoint.best is not None and not self.evaluates:
            raise ValueError(
                f"checkpoint.best={self.checkpoint.best} has no effect in a job without evaluations; give eval_data "
                "where the job has it, or leave it out"
            )
        return self

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        """Configuration section → what it says how to train."""
        return {}

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        """Configuration key → records that the job reads."""
        raise TypeError(f"{type(self).__name__} does not say its records")


class AllowedTokens(Section):
    """Special tokens that are part of answers."""

    allow_tokens: tuple[str, ...] = ()
    """Special tokens that responses and prompts may hold (boxes, references, thinking): they are sampled, learned and
    seen by rewards. Media placeholders and turn markers cannot be allowed. The same in every job of a model."""


class ProfileConfig(Section):
    """Steps of a run that are looked at in detail; what is found is written to `<run>/profile`."""

    steps: tuple[NonNegativeInt, ...] = Field(min_length=1)
    """Steps that are traced, numbered as in `metrics.jsonl`: from 0."""
    tool: Literal["torch"] = "torch"
    """`torch`: PyTorch's profiler in every learner rank."""


class TrackedConfig(RunConfig):
    """Keys of the jobs that train."""

    track: tuple[TrackerName, ...] = ("tensorboard",)
    """Experiment trackers that are given metrics, configuration and samples. `wandb`, `mlflow` and `swanlab` are extras
    and read their own environment variables (docs/tracking.md). `metrics.jsonl` is written whatever stands here."""

    @field_validator("track")
    @classmethod
    def _once_each(cls, names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"track={list(names)}: each tracker is named once")
        return names


class ProfiledConfig(TrackedConfig):
    """Keys of the jobs that train with DeepSpeed."""

    profile: ProfileConfig | None = None
    """What is traced for `chrome://tracing` or Perfetto; `null` = nothing."""

    def traces(self, step: int) -> bool:
        """Whether `profile` names the step."""
        return self.profile is not None and step in self.profile.steps

    @model_validator(mode="after")
    def _traces_steps_of_the_run(self) -> "ProfiledConfig":
        steps, traced = getattr(self, "steps", None), self.profile.steps if self.profile else ()
        if steps is not None and traced and max(traced) >= steps:
            raise ValueError(f"profile.steps={list(traced)}: the run's steps are 0 to {steps - 1}")
        return self


class TrainJobConfig(ProfiledConfig):
    """Keys of the Ray Train jobs (SFT, reward model, preference)."""

    model: ModelConfig
    """Model that is trained."""
    sampling: AllowedTokens = AllowedTokens()
    """How the trained model will be sampled from."""
    data: DataConfig
    """Records that are learned from."""
    eval_data: DataConfig | None = None
    """Records that the model is measured on; nothing is learned from them."""
    learner: LearnerConfig = LearnerConfig()
    workers: LearnerPlacement = LearnerPlacement()
    """Ranks of the training, and what each reserves."""
    batch_size: PositiveInt = 64
    """Rows per optimizer step over all workers."""
    epochs: PositiveInt | None = None
    """Passes over `data`."""
    steps: PositiveInt | None = None
    """Optimizer steps; exactly one of `epochs` and `steps` is given."""
    log_every_steps: PositiveInt = 10
    """Steps between two lines of metrics."""
    eval_every_steps: PositiveInt | None = None
    """Evaluate on `eval_data` every this many steps; `null` = at the end only."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainJobConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give exactly one of epochs and steps; got epochs={self.epochs}, steps={self.steps}")
        if self.batch_size % self.workers.replicas:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of workers.replicas={self.workers.replicas}"
            )
        if self.eval_every_steps is not None and self.eval_data is None:
            raise ValueError(
                f"eval_every_steps={self.eval_every_steps} has no effect without eval_data; give it, or leave both out"
            )
        if self.steps is not None and self.learner.optimizer.warmup_steps:
            self.learner.optimizer.refuse_long_warmup(self.steps, "learner.optimizer", f"steps={self.steps}")
        return self

    @property
    def roles(self) -> Mapping[str, Resources]:
        return {"workers": self.workers}

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {"model": ModelUse(self.model)}

    @property
    def evaluates(self) -> bool:
        return self.eval_data is not None

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        return {"learner": LearnerUse(self.model, self.learner, scalar=False)}

    @property
    def table(self) -> Literal["DEMONSTRATION", "PREFERENCE", "RANKING"]:
        """The kind of record that the job learns from."""
        raise TypeError(f"{type(self).__name__} does not say what it learns from")

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        batch, held_for = ("batch_size", self.batch_size), self.held_for
        found = {"data": RecordsUse(self.data, self.table, batch, held_for)}
        return found | ({"eval_data": RecordsUse(self.eval_data, self.table, None, held_for)} if self.eval_data else {})

    @property
    def held_for(self) -> str | None:
        """As of RecordsUse."""
        return None
