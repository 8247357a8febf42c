"""Pure tensor maths: advantages, policy, value, reward-model and SFT losses, KL, statistics.

Imports torch, numpy and the standard library only; takes numbers and tensors, never a configuration.
"""

from mmrlhf_ray.algorithms.advantages import gae, token_rewards, whiten
from mmrlhf_ray.algorithms.kl import AdaptiveKL, KLEstimator, kl_estimate
from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from mmrlhf_ray.algorithms.policy_loss import entropy_bonus, ppo_policy_loss
from mmrlhf_ray.algorithms.reward_loss import bradley_terry_loss, pair_accuracy
from mmrlhf_ray.algorithms.sft_loss import sft_loss
from mmrlhf_ray.algorithms.statistics import Interval, WinTieLoss, mean_interval, wilson_interval, win_tie_loss
from mmrlhf_ray.algorithms.stats import Stats, mean_stats, merge_stats
from mmrlhf_ray.algorithms.value_loss import ppo_value_loss

__all__ = [
    "AdaptiveKL",
    "Interval",
    "KLEstimator",
    "Stats",
    "WinTieLoss",
    "bradley_terry_loss",
    "entropy_bonus",
    "gae",
    "kl_estimate",
    "mean_interval",
    "mean_stats",
    "merge_stats",
    "pair_accuracy",
    "ppo_policy_loss",
    "ppo_value_loss",
    "sft_loss",
    "token_logprobs",
    "token_logprobs_and_entropy",
    "token_rewards",
    "whiten",
    "wilson_interval",
    "win_tie_loss",
]
