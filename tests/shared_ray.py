"""One Ray for all modules of a directory that ask for `session`; a conftest.py imports the fixtures from here.

tests/conftest.py lets the other modules, with commands or a cluster of their own, come first, while it is not there.
"""

import gc
import time
from collections.abc import Iterator

import pytest
import ray
from ray._private.state import actors  # the public one asks a dashboard, of whichever Ray it finds

from mmrlhf_ray.runtime.session import SessionInfo, ray_session

PATIENCE_S = 180.0


@pytest.fixture(scope="package")
def session() -> Iterator[SessionInfo]:
    """A private Ray of two CPUs, which publishes its metrics every five seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "5000")
        with ray_session(num_cpus=2) as info:
            yield info


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Once a module is done, no actor of it is alive and no CPU is reserved.

    Actors that Ray Data keeps for a session's time are detached; ours are not.
    """
    yield
    if not ray.is_initialized():
        return
    until = time.monotonic() + PATIENCE_S
    while (left := _left()) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.2)
    assert not left, f"left behind: {left}"


def _left() -> list[str]:
    alive = actors(actor_state_name="ALIVE").values()
    left = [f"{actor['ActorClassName']} {actor['Name']}" for actor in alive if not actor["IsDetached"]]
    reserved = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0)
    return left + ([f"{reserved:g} CPUs"] if reserved else [])
