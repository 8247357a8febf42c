"""Who computes attention is decided before anything starts."""

import sys
from types import ModuleType

import pytest

from mmrlhf_ray.models import chosen_kernel, why_not
from mmrlhf_ray.models.families.kernels import FLASH


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of these names can be found; nothing of them is run."""
    for name in FLASH.values():
        module = ModuleType(name)
        module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch, installed: None) -> None:
    assert chosen_kernel("auto", "bfloat16", "cuda") == "flash_attention_3"
    monkeypatch.delitem(sys.modules, "flash_attn_interface")
    assert chosen_kernel("auto", "bfloat16", "cuda") == "flash_attention_2"
    monkeypatch.delitem(sys.modules, "flash_attn")
    assert chosen_kernel("auto", "bfloat16", "cuda") == "sdpa"


def test_auto_is_sdpa_where_flash_attention_cannot_run(installed: None) -> None:
    assert chosen_kernel("auto", "bfloat16", "cpu") == "sdpa"
    assert chosen_kernel("auto", "float32", "cuda") == "sdpa"
    assert chosen_kernel("sdpa", "bfloat16", "cuda") == "sdpa"


def test_what_is_asked_for_and_cannot_run_is_refused() -> None:
    assert why_not("flash_attention_3", "bfloat16", "cuda") == (
        "needs the module flash_attn_interface, which is not installed"
    )
    with pytest.raises(ValueError, match="attention=flash_attention_2 needs a GPU; choose sdpa or auto"):
        chosen_kernel("flash_attention_2", "bfloat16", "cpu")
