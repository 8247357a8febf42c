"""How a model is trained: optimizer, DeepSpeed engine, and what of it learns."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, field_validator, model_validator

from mmrlhf_ray.config.parts import LoRAConfig, PartConfig, PartName, PartsConfig
from mmrlhf_ray.config.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running mean."""


class OptimizerConfig(Section):
    """AdamW, its learning rate and its schedule."""

    lr: PositiveFloat = 1e-6
    """Learning rate, at its highest."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the squares' mean."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to it."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps over which the learning rate rises from zero."""
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
    """DeepSpeed's ZeRO: ranks share 1 = the optimizer's state, 2 = gradients as well, 3 = weights as well; 0 =
    nothing."""
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
    """Compute activations again in the backward pass rather than keep them: less memory, about a third more time."""
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
