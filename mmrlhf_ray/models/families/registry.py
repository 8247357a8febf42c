"""Which adapter reads which model directory."""

from pathlib import Path

from mmrlhf_ray.models.adapter import ModelAdapter, read_config
from mmrlhf_ray.models.families.generic import discover
from mmrlhf_ray.models.families.known import KNOWN
from mmrlhf_ray.models.verdict import check_verdict


def adapter_for(path: Path, *, unverified: bool = False) -> ModelAdapter:
    """The adapter of the family that config.json names; for an unknown family, a generic adapter.

    Raises ModelError for such a family unless `mmrlhf parity` passed on the directory; `unverified` is for parity.
    """
    path = Path(path)
    family = str(read_config(path).get("model_type"))
    if family in KNOWN:
        return KNOWN[family]
    if not unverified:
        check_verdict(path, family, ", ".join(KNOWN))
    return discover(path)
