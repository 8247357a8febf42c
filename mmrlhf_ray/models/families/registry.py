"""Which adapter reads which model directory."""

from collections.abc import Mapping
from pathlib import Path

from mmrlhf_ray.models.adapter import ModelAdapter, read_config
from mmrlhf_ray.models.families.gemma3 import Gemma3Adapter
from mmrlhf_ray.models.families.generic import discover
from mmrlhf_ray.models.families.internvl import InternVLAdapter
from mmrlhf_ray.models.families.qwen2_5_omni import Qwen2_5OmniAdapter
from mmrlhf_ray.models.families.qwen2_5_vl import Qwen2_5VLAdapter
from mmrlhf_ray.models.families.qwen3_omni import Qwen3OmniAdapter
from mmrlhf_ray.models.families.qwen3_vl import Qwen3VLAdapter
from mmrlhf_ray.models.verdict import check_verdict

_ADAPTERS: tuple[ModelAdapter, ...] = (
    Qwen2_5VLAdapter(),
    Qwen3VLAdapter(),
    Qwen2_5OmniAdapter(),
    Qwen3OmniAdapter(),
    Gemma3Adapter(),
    InternVLAdapter(),
)
ADAPTERS: Mapping[str, ModelAdapter] = {adapter.family: adapter for adapter in _ADAPTERS}
"""`model_type` of config.json → the family's own adapter."""


def adapter_for(path: Path, *, unverified: bool = False) -> ModelAdapter:
    """The adapter of the family that config.json names; for a family without one, a generic adapter.

    Raises ModelError for such a family unless `mmrlhf parity` passed on the directory; `unverified` is for parity.
    """
    path = Path(path)
    family = str(read_config(path).get("model_type"))
    if family in ADAPTERS:
        return ADAPTERS[family]
    if not unverified:
        check_verdict(path, family, ", ".join(ADAPTERS))
    return discover(path)
