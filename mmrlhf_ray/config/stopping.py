"""When an online run ends before its last step."""

from collections.abc import Collection

from pydantic import Field

from mmrlhf_ray.config.section import Section


class EarlyStopConfig(Section):
    """End where two rewards no longer agree about held-out responses: the policy then follows what one of them gets
    wrong."""

    rewards: tuple[str, str]
    """Names of the two; one that is only to watch has `weight: 0`."""
    agreement: float = Field(0.6, gt=0, le=1)
    """The run ends after the first evaluation in which they put fewer pairs than this share in the same order."""

    def check(self, names: Collection[str], samples: int, evaluated: bool) -> None:
        """Raise ValueError where nothing could be compared. `names`: of the run's rewards."""
        unknown = sorted(set(self.rewards) - set(names))
        if unknown or self.rewards[0] == self.rewards[1]:
            raise ValueError(f"early_stop.rewards expects two of {sorted(names)}, got {list(self.rewards)}")
        if not evaluated or samples < 2:
            raise ValueError(
                f"early_stop compares responses to one held-out prompt; give eval_data and eval_samples_per_prompt of "
                f"2 or more, got {samples}, or leave early_stop out"
            )
