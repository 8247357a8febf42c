"""Log-probabilities of the response tokens of a pass, and a frozen policy that they are asked of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.models import load_policy
from mmrlhf_ray.training.passes import Inference, Passes, device_map


class ResponseLogprobs:
    """Reads log p of tokens [N] from logits [N, V], float32, under the distribution that is sampled from:
    at `temperature`, and without the tokens that the sampler may not emit."""

    def __init__(self, encoder: Encoder, temperature: float = 1.0):
        self.temperature = temperature
        self._banned = torch.tensor(encoder.banned_token_ids, dtype=torch.long)

    def __call__(self, output: Tensor, tokens: Tensor) -> Tensor:
        return token_logprobs(output, tokens, self.temperature, self.banned_on(output.device))

    def with_entropy(self, output: Tensor, tokens: Tensor) -> Tensor:
        """[N, 2]: the same, and the entropy in nats of the distribution at each token."""
        banned = self.banned_on(output.device)
        return torch.stack(token_logprobs_and_entropy(output, tokens, self.temperature, banned), dim=1)

    def banned_on(self, device: torch.device) -> Tensor:
        """Ids of the tokens that the sampler may not emit."""
        self._banned = self._banned.to(device)
        return self._banned


@dataclass(frozen=True)
class FrozenPolicy:
    """A policy that only answers."""

    model: Inference
    passes: Passes
    read: ResponseLogprobs


def frozen_policy(model: ModelConfig, temperature: float, device: str, allowed: Sequence[str] = ()) -> FrozenPolicy:
    """The policy in `model.path`, which only answers. `allowed`: as of load_encoder(). Raises ModelError."""
    encoder = load_encoder(model.path, allowed=allowed)
    policy = load_policy(encoder.adapter, Path(model.path), getattr(torch, model.compute_dtype), device_map(device))
    inference = Inference(policy)
    passes = Passes(inference, encoder, torch.device(device))
    return FrozenPolicy(inference, passes, ResponseLogprobs(encoder, temperature))
