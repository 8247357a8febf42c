"""Sampler, learner and reference are one model before the first update, and sampler and learner are whenever an engine
was asleep since: their log-probabilities must say so."""

from collections.abc import Iterator

import numpy as np
import torch

from mmrlhf_ray.algorithms.mismatch import Gap, gap
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.gate import ParityGate
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.experience import Experience

_SAMPLER, _REFERENCE = ("sampler and learner", "rollout_logprobs"), ("reference and learner", "ref_logprobs")


def check_agreement(experience: Experience, cfg: PPOConfig, step: int) -> None:
    """At step 0, and with generators that share their devices at every step. Raises RunError where responses of some
    modality have log-probabilities that are further apart than `parity_gate` allows."""
    pairs = [_SAMPLER] if step == 0 or "generator" in cfg.placement.sharing_roles else []
    if step == 0 and cfg.reference is None and experience.referenced:
        pairs.append(_REFERENCE)
    bounds = cfg.parity_gate.bounds(cfg.policy.compute_dtype)
    for who, column in pairs:
        for modality, theirs, ours in _by_modality(experience, column):
            found = gap(theirs, ours, bounds.outlier or 0.0)
            if said := _beyond(found, bounds):
                raise RunError(
                    f"step {step}: the log-probabilities of {who} differ for {modality} prompts: {'; '.join(said)} "
                    f"({cfg.policy.compute_dtype}; the largest of {found.tokens} tokens is {found.largest:.2e} nats). "
                    "Training would go on from a wrong KL; run `mmrlhf parity` on the policy, or set parity_gate where "
                    "the model is known to round more"
                )


def _by_modality(experience: Experience, column: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Modality, log-probabilities in the column, and the learner's."""
    modalities = np.array(experience.table.column("modality").to_pylist())
    theirs, ours = (Ragged.of_column(experience.table.column(name)) for name in (column, "old_logprobs"))
    for modality in np.unique(modalities):
        rows = np.flatnonzero(modalities == modality)
        yield str(modality), *(torch.from_numpy(own.take(rows).values) for own in (theirs, ours))


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
