"""Before the first update sampler, learner and reference are one model, and their log-probabilities must say so."""

import torch

from mmrlhf_ray.algorithms.mismatch import Gap, gap
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.online import ParityGate
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Experience


def check_first_step(experience: Experience, cfg: PPOConfig) -> None:
    """Raise RunError where two of them are further apart than `parity_gate` allows."""
    pairs = {"sampler and learner": ("rollout_logprobs", "old_logprobs")}
    if cfg.reference is None and experience.referenced:
        pairs["policy and reference"] = ("old_logprobs", "ref_logprobs")
    bounds = cfg.parity_gate.bounds(cfg.policy.dtype)
    for who, (ours, others) in pairs.items():
        found = gap(_tokens(experience, ours), _tokens(experience, others), bounds.outlier or 0.0)
        said = _beyond(found, bounds)
        if said:
            raise RunError(
                f"step 0: the log-probabilities of {who} differ: {'; '.join(said)} ({cfg.policy.dtype}; the largest of "
                f"{found.tokens} tokens is {found.largest:.2e} nats). Training would start from a wrong KL; run "
                "`mmrlhf parity` on the policy, or set parity_gate where the model is known to round more"
            )


def _tokens(experience: Experience, column: str) -> torch.Tensor:
    return torch.from_numpy(Ragged.of_column(experience.table.column(column)).values.copy())


def _beyond(found: Gap, bounds: ParityGate) -> list[str]:
    """Each bound that does not hold, with what came; a number that is not finite holds none."""
    return [
        f"{what} {came:.2e}, more than parity_gate.{key}={most:g}"
        for key, what, came, most in (
            ("mean", "the mean distance is", found.mean, bounds.mean),
            ("kl", "the KL per token is", found.kl, bounds.kl),
            ("outliers", f"the share of tokens beyond {bounds.outlier:g} nats is", found.outliers, bounds.outliers),
        )
        if most is not None and not came <= most
    ]
