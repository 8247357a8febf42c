"""The soft penalty on responses that come close to the length limit."""

import torch
from torch import Tensor


def overlong_penalty(lengths: Tensor, max_response_tokens: int, buffer_tokens: int, penalty: float) -> Tensor:
    """What is added to each response's score [B] (float64, ≤ 0), from its `lengths` [B] in tokens.

    0 up to max_response_tokens − buffer_tokens, then falling linearly to −penalty at max_response_tokens, and
    −penalty beyond. Source: Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    equation 13 (where penalty is 1). Raises ValueError unless 0 < buffer_tokens ≤ max_response_tokens.
    """
    if not 0 < buffer_tokens <= max_response_tokens:
        raise ValueError(
            f"buffer_tokens expects a number from 1 to max_response_tokens={max_response_tokens}, got {buffer_tokens}"
        )
    excess = lengths.to(torch.float64) - (max_response_tokens - buffer_tokens)
    return -penalty * (excess / buffer_tokens).clamp(0.0, 1.0)
