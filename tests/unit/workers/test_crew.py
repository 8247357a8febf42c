"""Who sits where, and on which device. (Actors themselves: tests/ray.)"""

import pytest

from mmrlhf_ray.config import Resources
from mmrlhf_ray.workers.crew import device_of


@pytest.mark.parametrize(
    ("gpus", "configured", "device"),
    [(0.0, "auto", "cpu"), (0.25, "auto", "cuda"), (1.0, "cpu", "cpu"), (0.0, "cuda", "cuda")],
)
def test_the_device_follows_what_is_reserved_unless_configured(gpus: float, configured: str, device: str) -> None:
    assert device_of(Resources(num_gpus=gpus), configured) == device
