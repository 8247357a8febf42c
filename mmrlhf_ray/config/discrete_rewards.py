"""Sections of a discrete-action job's configuration: its reward, and votes in its loss."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.discrete_parts import Share
from mmrlhf_ray.config.rewards import CostConfig
from mmrlhf_ray.config.section import Section


class HumanReward(Section):
    """Simulated people who say +1 or −1 to each decision. What they say to it is drawn once, by the seed."""

    weight: PositiveFloat = 1.0
    """Of what they say."""
    wrong: float = Field(0.0, ge=0, lt=0.5)
    """Share of the feedback that is the wrong way round."""
    threshold: Share = 0.5
    """+1 is right from this score on (accuracy, F1 or IoU)."""


class RewardModelReward(Section):
    """A reward model's score of the class, worded as a response to the record's messages."""

    weight: PositiveFloat = 1.0
    """Of the score."""
    model: ModelConfig
    """The reward model."""
    response: str = "answer : {}"
    """Wording; {} is the class, or the box."""

    @model_validator(mode="after")
    def _holds_the_class(self) -> "RewardModelReward":
        if "{}" not in self.response:
            raise ValueError(f"response={self.response!r} must contain {{}}, where the class goes")
        return self


class DecisionCostSection(CostConfig):
    """Decisions that do harm: the share of them is held under a bound by a Lagrange multiplier."""

    of: str = "harm"
    """Key in `extras` with the classes that cost 1 in this row, a list; every other decision costs 0."""


class RewardSection(Section):
    """The reward is the weighted sum of labels, human and reward_model, and a cost is held against it."""

    labels: NonNegativeFloat = 1.0
    """Weight of the task's score."""
    human: HumanReward | None = None
    reward_model: RewardModelReward | None = None
    cost: DecisionCostSection | None = None

    @model_validator(mode="after")
    def _something(self) -> "RewardSection":
        if not self.labels and self.human is None and self.reward_model is None:
            raise ValueError("the reward is empty: give labels a weight above 0, or human, or reward_model")
        return self


class HumanLossSection(Section):
    """L′ = L + λH: votes of ±1 on one decision of a row join the loss."""

    coef: NonNegativeFloat = 0.0
    """λ; at 0 the run is exactly the one without votes."""
    share: Share = 1.0
    """Of the training rows that have a vote. As below, where votes are simulated."""
    wrong: float = Field(0.0, ge=0, lt=0.5)
    """Share of the votes that are the wrong way round."""
    shown_right: Share = 0.5
    """Share of the votes that are about the best decision; the others are about one at random."""
    threshold: Share = 0.5
    """+1 is right from this score on."""
