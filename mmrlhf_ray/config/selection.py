"""Which prompts an online run draws again, by how often they were solved."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from mmrlhf_ray.config.rewards import FluencyReward, Reward
from mmrlhf_ray.config.section import Section

DrawOrder = Literal["as_it_comes", "easy_first", "frontier"]


class SelectionConfig(Section):
    """The pass rate of a prompt is the share of its responses that were solved when it was last sampled. When its turn
    comes again it may be skipped for the next one. Prompts that have no pass rate are always taken."""

    solved_at: float
    """A response is solved where its score is at least this."""
    reward: str | None = None
    """Name of the reward whose numbers are meant; `null` = the mixed score."""
    order: DrawOrder = "as_it_comes"
    """`easy_first`: harder prompts wait until later in the run; `frontier`: the nearer a pass rate is to one half, the
    more often its prompt is drawn."""
    at_least: float = Field(0.1, gt=0, le=1)
    """With an `order`, the probability with which every prompt is taken, so that pass rates stay up to date."""
    solved_rate: float = Field(1.0, ge=0, le=1)
    """The probability with which a prompt is taken of which all responses were solved; with an `order`, a factor on the
    order's."""
    competence: float = Field(0.3, gt=0, le=1)
    """With `easy_first`: the share of failures that a prompt may have at the start of the run."""
    competent_after: float = Field(0.5, gt=0, le=1)
    """With `easy_first`: the share of the run's steps after which no prompt is too hard."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "SelectionConfig":
        fields = type(self).model_fields
        for keys, orders in ((("at_least",), {"easy_first", "frontier"}),
                             (("competence", "competent_after"), {"easy_first"})):  # fmt: skip
            for key in keys:
                if getattr(self, key) != fields[key].default and self.order not in orders:
                    raise ValueError(f"{key} has no effect with order={self.order}; leave it out")
        if self.order == "as_it_comes" and self.solved_rate == 1.0:
            raise ValueError("selection with order=as_it_comes and solved_rate=1 takes every prompt; set one of them")
        return self

    def check(self, rewards: Sequence[Reward]) -> None:
        """Raise ValueError where `rewards` give no number that `solved_at` could be compared with."""
        names = [reward.name for reward in rewards if not isinstance(reward, FluencyReward)]
        if self.reward is not None and self.reward not in names:
            raise ValueError(f"selection.reward expects one of {names}, got {self.reward!r}")
        if not names:
            raise ValueError("selection needs a reward other than fluency, which solves nothing")
        moving = [r.name for r in rewards if r.normalise or r.cost is not None]
        if self.reward is None and moving:
            raise ValueError(
                f"selection.solved_at is compared with the mixed score, whose scale moves with {', '.join(moving)} "
                "(normalise or cost); name one of the rewards in selection.reward"
            )
