"""Argument checks shared by the losses: wrong shapes broadcast silently in torch, so they are refused here."""

import torch
from torch import Tensor


def check_tokens(mask: Tensor, **tensors: Tensor) -> None:
    """Raise ValueError unless `mask` is bool [B, T] and every named tensor has its shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask expects dtype bool, got {mask.dtype}")
    if mask.dim() != 2:
        raise ValueError(f"mask expects shape [B, T], got {list(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} expects the mask's shape {list(mask.shape)}, got {list(tensor.shape)}")


def check_denominator(denominator: float) -> None:
    """Raise ValueError unless `denominator` is positive."""
    if not denominator > 0:
        raise ValueError(f"denominator expects a positive number, got {denominator}")
