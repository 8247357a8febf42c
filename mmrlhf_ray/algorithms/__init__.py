"""Pure tensor maths: advantages, policy, value, reward-model, preference and SFT losses, KL, statistics.

Imports torch, numpy and the standard library only; takes numbers and tensors, never a configuration.
"""

from mmrlhf_ray.algorithms.advantages import (
    ESTIMATORS,
    WHITEN_DEFAULT,
    AdvantageFunction,
    gae,
    group_centred,
    grpo,
    reinforce,
    rloo,
    token_rewards,
    whiten,
)
from mmrlhf_ray.algorithms.aggregation import AGGREGATIONS, Aggregation, loss_denominator, token_weights
from mmrlhf_ray.algorithms.calibration import Calibration, CalibrationBin, calibration, pair_calibration
from mmrlhf_ray.algorithms.feedback_loss import feedback_loss
from mmrlhf_ray.algorithms.kl import AdaptiveKL, KLEstimator, kl_estimate, kl_loss
from mmrlhf_ray.algorithms.lagrange import LagrangeMultiplier, lagrangian_score
from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from mmrlhf_ray.algorithms.mismatch import CORRECTIONS, mismatch_stats, mismatch_weights
from mmrlhf_ray.algorithms.moments import RunningMoments
from mmrlhf_ray.algorithms.overlong import overlong_penalty
from mmrlhf_ray.algorithms.policy_loss import (
    POLICY_LOSSES,
    Clip,
    PolicyLoss,
    cispo_policy_loss,
    entropy_bonus,
    gspo_policy_loss,
    ppo_policy_loss,
)
from mmrlhf_ray.algorithms.preference_loss import (
    bco_delta,
    bco_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_kl,
    margin_beta,
    mpo_loss,
    orpo_loss,
    simpo_loss,
)
from mmrlhf_ray.algorithms.reward_loss import (
    bradley_terry_loss,
    ensemble_weights,
    pair_accuracy,
    plackett_luce_loss,
    rating_loss,
)
from mmrlhf_ray.algorithms.segments import changed_tokens, segment_logprobs
from mmrlhf_ray.algorithms.sft_loss import sft_loss
from mmrlhf_ray.algorithms.statistics import Interval, WinTieLoss, mean_interval, wilson_interval, win_tie_loss
from mmrlhf_ray.algorithms.stats import Stats, mean_stats, merge_stats
from mmrlhf_ray.algorithms.value_loss import ppo_value_loss

__all__ = [
    "AGGREGATIONS",
    "AdaptiveKL",
    "AdvantageFunction",
    "Aggregation",
    "CORRECTIONS",
    "Calibration",
    "CalibrationBin",
    "Clip",
    "ESTIMATORS",
    "Interval",
    "KLEstimator",
    "LagrangeMultiplier",
    "POLICY_LOSSES",
    "PolicyLoss",
    "RunningMoments",
    "Stats",
    "WHITEN_DEFAULT",
    "WinTieLoss",
    "bco_delta",
    "bco_loss",
    "bradley_terry_loss",
    "calibration",
    "changed_tokens",
    "cispo_policy_loss",
    "dpo_loss",
    "ensemble_weights",
    "entropy_bonus",
    "feedback_loss",
    "gae",
    "group_centred",
    "grpo",
    "gspo_policy_loss",
    "ipo_loss",
    "kl_estimate",
    "kl_loss",
    "kto_loss",
    "kto_reference_kl",
    "lagrangian_score",
    "loss_denominator",
    "margin_beta",
    "mean_interval",
    "mean_stats",
    "merge_stats",
    "mismatch_stats",
    "mismatch_weights",
    "mpo_loss",
    "orpo_loss",
    "overlong_penalty",
    "pair_accuracy",
    "pair_calibration",
    "plackett_luce_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "rating_loss",
    "reinforce",
    "rloo",
    "segment_logprobs",
    "sft_loss",
    "simpo_loss",
    "token_logprobs",
    "token_logprobs_and_entropy",
    "token_rewards",
    "token_weights",
    "whiten",
    "wilson_interval",
    "win_tie_loss",
]
