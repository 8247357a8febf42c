"""Sampler, learner and reference are one model before the first update, and sampler and learner are whenever an engine
was asleep or started again since: their log-probabilities must say so."""

import numpy as np
import pyarrow as pa
import torch

from mmrlhf_ray.algorithms.mismatch import Gap, gap
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.gate import ParityGate
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Experience
from mmrlhf_ray.rollout.batch import Rollouts

_SAMPLER, _REFERENCE = ("sampler and learner", "rollout_logprobs"), ("reference and learner", "ref_logprobs")


def check_agreement(experience: Experience, cfg: PPOConfig, step: int) -> None:
    """At step 0, and with generators that share their devices at every step. Raises RunError where responses of some
    modality have log-probabilities that are further apart than `parity_gate` allows."""
    pairs = [_SAMPLER] if step == 0 or "generator" in cfg.placement.sharing_roles else []
    if step == 0 and cfg.reference is None and experience.referenced:
        pairs.append(_REFERENCE)
    for who, column in pairs:
        table = experience.table
        theirs, ours = (Ragged.of_column(table.column(name)) for name in (column, "old_logprobs"))
        _refuse_gaps(cfg, f"step {step}: the log-probabilities of {who}", table, theirs, ours)


def check_proof(rollouts: Rollouts, old_logprobs: Ragged, cfg: PPOConfig, name: str) -> None:
    """Of responses by the generator `name`. Raises RunError as check_agreement()."""
    table = rollouts.table
    sampled = Ragged.of_column(table.column("rollout_logprobs"))
    _refuse_gaps(cfg, f"{name} is not what the learner is: their log-probabilities", table, sampled, old_logprobs)


def _refuse_gaps(cfg: PPOConfig, who: str, table: pa.Table, theirs: Ragged, ours: Ragged) -> None:
    """Raise RunError where rows of some modality are further apart than `parity_gate` allows, in tokens that the policy
    sampled."""
    bounds = cfg.parity_gate.bounds(cfg.policy.compute_dtype)
    of_rows = np.array(table.column("modality").to_pylist())
    sampled = Ragged.of_column(table.column("response_mask"))
    for modality in np.unique(of_rows):
        rows = np.flatnonzero(of_rows == modality)
        first, second = (torch.from_numpy(own.take(rows).where(sampled.take(rows)).values) for own in (theirs, ours))
        found = gap(first, second, bounds.outlier or 0.0)
        if said := _beyond(found, bounds):
            raise RunError(
                f"{who} differ for {modality} prompts: {'; '.join(said)} "
                f"({cfg.policy.compute_dtype}; the largest of {found.tokens} tokens is {found.largest:.2e} nats). "
                "Training would go on from a wrong KL; run `mmrlhf parity` on the policy, or set parity_gate where "
                "the model is known to round more"
            )


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
