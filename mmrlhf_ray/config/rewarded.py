"""Keys of the jobs that score responses with a mixture of rewards."""

from pydantic import model_validator

from mmrlhf_ray.config.base import Longest, ModelUse, RunConfig
from mmrlhf_ray.config.rewards import EnvironmentReward, FunctionReward, JudgeReward, ModelReward, RemoteReward, Reward


class RewardedConfig(RunConfig):
    """Keys of the jobs that score responses with a mixture of rewards."""

    rewards: tuple[Reward, ...] = ()
    """Components that score responses."""

    @property
    def model_rewards(self) -> tuple[ModelReward, ...]:
        return tuple(r for r in self.rewards if isinstance(r, ModelReward))

    @property
    def function_rewards(self) -> tuple[FunctionReward | RemoteReward | JudgeReward, ...]:
        """Rewards that the `functions` actor computes."""
        return tuple(r for r in self.rewards if isinstance(r, FunctionReward | RemoteReward | JudgeReward))

    @property
    def judge_rewards(self) -> tuple[JudgeReward, ...]:
        return tuple(r for r in self.rewards if isinstance(r, JudgeReward))

    def _scoring(self, most: Longest) -> dict[str, ModelUse]:
        return {
            f"rewards.{reward.name}.model": ModelUse(reward.model, scores=True, reads=most)
            for reward in self.model_rewards
        }

    @property
    def environment_rewards(self) -> tuple[EnvironmentReward, ...]:
        return tuple(r for r in self.rewards if isinstance(r, EnvironmentReward))

    @model_validator(mode="after")
    def _one_name_each(self) -> "RewardedConfig":
        names = [r.name for r in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: names must be unique, got {names}")
        return self
