"""Which parts of a model learn: in full, at a rate of their own, or by an adapter."""

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from mmrlhf_ray.config.section import Section

PartName = Literal["language_model", "vision_tower", "audio_tower", "projector"]
"""A part of a model: a key of PartsConfig."""


class LoRAConfig(Section):
    """A low-rank adapter (Hu et al. 2021)."""

    rank: int = Field(16, ge=1, le=512)
    """vLLM reserves for the next of 1, 8, 16, 32, 64, 128, 256, 320, 512."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped in training."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of linear layers of `parts`. Those of towers and projectors often have names of their own."""
    parts: tuple[PartName, ...] = Field(("language_model",), min_length=1)
    """Where the adapter goes. Their own weights stay as they are."""
    also_train: tuple[PartName, ...] = ()
    """Parts that learn in full alongside the adapter; all that are named nowhere stay as they are."""

    @property
    def is_alone(self) -> bool:
        """Whether nothing else of the model learns: without the adapter it is what it was at the start."""
        return not self.also_train

    @property
    def can_be_sent(self) -> bool:
        """Whether the sampler takes what is learned as an adapter; else it gets all weights, the adapter merged."""
        return self.is_alone and set(self.parts) == {"language_model"}

    @model_validator(mode="after")
    def _one_way_each(self) -> "LoRAConfig":
        both = sorted({*self.parts} & {*self.also_train})
        if both:
            raise ValueError(
                f"{', '.join(both)} in both parts and also_train: an adapter is for weights that stay; leave it out of "
                "one of them"
            )
        return self


class PartConfig(Section):
    """A part of the model: whether and how fast it learns."""

    train: bool = True
    """Whether it learns."""
    lr: PositiveFloat | None = None
    """`null` = the optimizer's."""

    @model_validator(mode="after")
    def _learns(self) -> "PartConfig":
        if self.lr is not None and not self.train:
            raise ValueError(f"lr={self.lr:g} has no effect with train=false; leave one of them out")
        return self


class PartsConfig(Section):
    """Which parts of a policy are trained; a part that the family does not have may not be named."""

    language_model: PartConfig = PartConfig()
    vision_tower: PartConfig = PartConfig()
    audio_tower: PartConfig = PartConfig()
    projector: PartConfig = PartConfig()
    """Between the towers and the language model."""
