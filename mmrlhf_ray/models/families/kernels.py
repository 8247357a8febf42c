"""Which kernel computes attention: chosen once for a model, and for each of its calls by whether there is a mask."""

import logging
from importlib.util import find_spec

from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

SDPA = "sdpa"
FLASH = {"flash_attention_3": "flash_attn_interface", "flash_attention_2": "flash_attn"}
"""Kernels without masks, the newest first → the module that has each."""


def is_flash(kernel: str) -> bool:
    """Whether the kernel takes rows end to end, and no mask."""
    return kernel.startswith("flash")


def why_not(kernel: str, dtype: str, device: str) -> str | None:
    """The reason for which `kernel` (FLASH, sdpa or auto) cannot run in `dtype` on `device`; None = it can."""
    if kernel not in FLASH:
        return None
    if device == "cpu":
        return "needs a GPU"
    if dtype != "bfloat16":
        return f"computes in bfloat16, and the model's dtype is {dtype}"
    if find_spec(FLASH[kernel]) is None:
        return f"needs the module {FLASH[kernel]}, which is not installed"
    return None


def chosen_kernel(wanted: str, dtype: str, device: str) -> str:
    """`wanted`, or for `auto` the newest flash attention that can run, else sdpa. Raises ValueError where `wanted`
    cannot run."""
    if wanted == "auto":
        kernel = next((kernel for kernel in FLASH if why_not(kernel, dtype, device) is None), SDPA)
        if device != "cpu":
            logger.warning("attention=auto is %s here", kernel)  # a warning, since logs show nothing below
        return kernel
    reason = why_not(wanted, dtype, device)
    if reason is not None:
        raise ValueError(f"attention={wanted} {reason}; choose sdpa or auto")
    return wanted


def set_kernel(model: PreTrainedModel, kernel: str) -> None:
    """From now on `model` and its towers compute attention with `kernel`, the language model in calls with masks of
    lines with sdpa."""
    if is_flash(kernel):  # transformers loads with sdpa
        model.set_attn_implementation(kernel)
    model.attention_kernel = kernel


def kernel_of(model: PreTrainedModel) -> str:
    """The kernel that set_kernel() set, else the one that the model was loaded with."""
    found: str = getattr(model, "attention_kernel", None) or model.config.get_text_config()._attn_implementation
    return found


def use_kernel(model: PreTrainedModel, *, masked: bool = False) -> None:
    """For the call that begins. It holds until the next one, since layers may be computed again in the backward pass.
    `masked`: with the mask of lines, which flash attention does not take."""
    kernel = kernel_of(model)
    if is_flash(kernel):
        model.config.get_text_config()._attn_implementation = SDPA if masked else kernel
