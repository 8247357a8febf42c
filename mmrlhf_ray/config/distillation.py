"""What an online run learns from teachers besides its rewards."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.section import Section


class TeacherConfig(Section):
    """A model to learn from, with the policy's tokenizer."""

    model: ModelConfig
    """A language model."""
    weight: PositiveFloat = 1.0
    """Of its divergence among those of all teachers; they are divided by their sum."""


class DistillationConfig(Section):
    """A term of the policy's loss: the divergence from teachers at every token that the policy sampled. The teachers
    are held by the reference servers (`placement.reference`), next to the reference where there is one."""

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    """Models to learn from."""
    divergence: Literal["forward", "reverse"] = "reverse"
    """`forward`: KL(teacher ‖ policy), which covers all that a teacher may say; `reverse`: KL(policy ‖ teacher), which
    keeps to what a teacher would say."""
    coef: PositiveFloat = 1.0
    """Weight of the term in the loss."""
    top_k: PositiveInt | None = 64
    """Over this many of a teacher's likeliest tokens and all others as one; `null` = over the vocabulary, all of which
    is then sent for every token."""
