"""Bounds on the distance between the log-probabilities of sampler, learner and reference."""

from pydantic import Field, PositiveFloat

from mmrlhf_ray.config.section import Section


class ParityGate(Section):
    """How far apart the log-probabilities of sampler, learner and reference may be at step 0, when all three are the
    same model. No bound grows with the number of tokens. `null` = by the policy's dtype."""

    mean: PositiveFloat | None = None
    """Of the distance, in nats. float32: 1e-4, bfloat16: 0.05."""
    kl: PositiveFloat | None = None
    """KL divergence per token, k3 estimate, in nats. float32: 1e-6, bfloat16: 0.01."""
    outlier: PositiveFloat | None = None
    """Distance in nats beyond which a token is an outlier. float32: 1e-4, bfloat16: 0.5."""
    outliers: float | None = Field(None, ge=0, le=1)
    """Share of the tokens. float32: 0, bfloat16: 0.001."""

    def bounds(self, dtype: str) -> "ParityGate":
        """All of them, for a policy of this dtype."""
        given = self.model_dump(exclude_none=True)
        return _PARITY[dtype].model_copy(update=given)


_PARITY = {
    "float32": ParityGate(mean=1e-4, kl=1e-6, outlier=1e-4, outliers=0.0),
    "bfloat16": ParityGate(mean=0.05, kl=0.01, outlier=0.5, outliers=1e-3),
}
"""In bfloat16 vLLM and a trainer are 0.03 nats (root of the mean square) apart for small models and more for large and
mixture-of-experts ones: Fast-LLM #525, vLLM #18352, verl #2996."""
