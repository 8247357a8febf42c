"""Sections that every job's configuration shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, field_validator, model_validator

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.output import OutputConfig
from mmrlhf_ray.config.parts import LoRAConfig, PartConfig, PartName, PartsConfig
from mmrlhf_ray.config.paths import PathText
from mmrlhf_ray.config.placement import LearnerPlacement, Resources
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.config.shapes import ModelShape

MODEL_DIR = "model"
"""Below its directory: where a run exports the model that it trained."""


class ModelConfig(Section):
    path: PathText
    """Directory in Hugging Face format (weights, processor, chat template)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: Literal[False] = False
    """Code that comes with weights is never run."""
    shape: ModelShape | None = None
    """Read by `--dry-run` only, and only where `path` is not there."""


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running mean."""


class OptimizerConfig(Section):
    lr: PositiveFloat = 1e-6
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After warm-up; cosine and linear fall to zero at the last step."""

    def refuse_long_warmup(self, steps: int, key: str, whose: str) -> None:
        """Raise ValueError where the warm-up never ends. `steps`: of the optimizer, which `whose` says; `key`: the
        section of this one."""
        if self.warmup_steps >= steps:
            raise ValueError(
                f"{key}.warmup_steps={self.warmup_steps} is not below the {steps} optimizer steps of {whose}, so that "
                "the learning rate would not be reached before the end; lower it"
            )


class EngineConfig(Section):
    """How one DeepSpeed group trains."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    micro_batch_tokens: PositiveInt = 4096
    """Most tokens (padding and media tokens counted) in one forward pass of one rank."""
    max_padding_share: float = Field(0.05, ge=0, lt=1)
    """Rows join a pass only while at most this share of it is padding; raise it for fewer passes on small models."""
    shared_prompt: bool = True
    """A prompt with several responses goes through the model once per pass, a clip of several prompts through its
    tower, and rows are laid end to end, which leaves little padding. Off, or for a family without it (docs/models.md):
    every response in a row of its own with its prompt and media."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    """Who computes attention, in the language model and in the towers. `auto` = on GPUs and in bfloat16 the newest
    flash attention that is installed, else torch's own (sdpa). With flash attention the rows of a pass in which no
    prompt is shared stand end to end in one line, without padding and without a mask; other passes take sdpa."""
    sequence_parallel: PositiveInt = 1
    """Ranks that each pass is spread over: its language model's tokens, and in attention its heads (Ulysses). A pass is
    then one line of up to this many times `micro_batch_tokens`, and `replicas` divided by it are data-parallel."""
    logits_tile: PositiveInt = 1024
    """Most response tokens of a pass whose logits are in memory at a time. A pass with more computes them again, tile
    by tile, for the gradient."""
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    """Keep the optimizer's state and the float32 copies of the weights in host memory, and take its step there. With
    `zero_stage` 1 to 3."""
    deepspeed: dict[str, JsonValue] = Field({})
    """More of DeepSpeed's own settings, by its names, e.g. `{zero_optimization: {overlap_comm: true}}`: merged last
    into those that are made of the keys here. What has such a key is refused."""

    @field_validator("deepspeed")
    @classmethod
    def _of_deepspeed_alone(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, instead in _NOT_DEEPSPEEDS.items():
            inner: JsonValue = given
            for part in name.split("."):
                inner = inner.get(part) if isinstance(inner, dict) else None
            if inner is not None:
                raise ValueError(f"{name} is not set here: {instead}")
        return given


_NOT_DEEPSPEEDS = {
    "zero_optimization.stage": "use engine.zero_stage",
    "zero_optimization.offload_optimizer": "use engine.offload_optimizer",
    "zero_optimization.cpu_offload": "use engine.offload_optimizer",
    "activation_checkpointing": "use engine.gradient_checkpointing",
    "train_batch_size": "the job says how many rows a step has, and engine.micro_batch_tokens divides them into passes",
    "train_micro_batch_size_per_gpu": "use engine.micro_batch_tokens",
    "gradient_accumulation_steps": "use engine.micro_batch_tokens",
    "gradient_clipping": "use optimizer.max_grad_norm",
    "optimizer": "use the section optimizer",
    "scheduler": "use optimizer.schedule and optimizer.warmup_steps",
    "bf16": "use dtype of the model",
    "fp16": "use dtype of the model, which has no float16",
    "amp": "use dtype of the model",
    "checkpoint": "use the section checkpoint",
    "elasticity": "a checkpoint is read by any number of ranks",
}
"""Keys of DeepSpeed, some inside a section → what to use instead."""


class LearnerConfig(Section):
    """How a model is trained; the same keys in every job that learns."""

    engine: EngineConfig = EngineConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoRAConfig | None = None
    """Train a low-rank adapter alongside frozen weights; `null` = all weights."""
    parts: PartsConfig = PartsConfig()
    """With `lora`, which says what learns, only the rates."""

    @property
    def sent_adapter(self) -> LoRAConfig | None:
        """The adapter, where it is all that the sampler needs."""
        return self.lora if self.lora is not None and self.lora.can_be_sent else None

    @property
    def keeps_start(self) -> bool:
        """Whether the model that training started from is still there: it is the one without its adapter."""
        return self.lora is not None and self.lora.is_alone

    def learns(self, part: PartName) -> bool:
        """Whether anything of a part is trained, be it an adapter."""
        if self.lora is not None:
            return part in (*self.lora.parts, *self.lora.also_train)
        config: PartConfig = getattr(self.parts, part)
        return config.train

    @model_validator(mode="after")
    def _one_choice(self) -> "LearnerConfig":
        if self.lora is None:
            return self
        learning = {*self.lora.parts, *self.lora.also_train}
        for name, part in self.parts:
            if not part.train:
                raise ValueError(
                    f"parts.{name}.train=false: with lora, whatever is not in lora.parts or lora.also_train is frozen; "
                    "leave it out"
                )
            if part.lr is not None and name not in learning:
                raise ValueError(
                    f"parts.{name}.lr={part.lr:g} has no effect: with lora this part is frozen; name it in lora.parts "
                    "or lora.also_train, or leave its lr out"
                )
        return self


EnvValue = Annotated[str, Field(coerce_numbers_to_str=True)]
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
    start_s: PositiveFloat = 600.0
    stage_s: PositiveFloat = 1800.0


class CheckpointConfig(Section):
    every_steps: PositiveInt = 50
    every_seconds: PositiveFloat | None = None
    """Also after the step in which so many seconds have passed since the last one; `null` = by steps alone."""
    keep: PositiveInt = 2


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


class TrainJobConfig(RunConfig):
    """Keys of the Ray Train jobs (SFT, reward model, preference)."""

    model: ModelConfig
    sampling: AllowedTokens = AllowedTokens()
    """How the trained model will be sampled from."""
    data: DataConfig
    eval_data: DataConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    workers: LearnerPlacement = LearnerPlacement()
    batch_size: PositiveInt = 64
    """Rows per optimizer step over all workers."""
    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    """Exactly one of `epochs` and `steps`."""
    log_every_steps: PositiveInt = 10
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
