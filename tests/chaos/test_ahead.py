"""Every way in which a push may meet running responses, with the sampler one and two steps ahead, with and without a
critic (`make chaos`); those that tests/e2e/test_stream.py leaves out."""

from pathlib import Path
from typing import get_args

import pytest

from mmrlhf_ray.weights.layout import InFlight
from tests.command import Here
from tests.e2e.conftest import here, ppo_job
from tests.e2e.test_stream import stream_job, stream_rows
from tests.shared_ray import nothing_is_left, session

__all__ = ["here", "nothing_is_left", "ppo_job", "session"]

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("max_staleness", [1, 2])
@pytest.mark.parametrize("in_flight", get_args(InFlight))
def test_whole_batches_of_what_is_not_too_old(
    here: Here, ppo_job: Path, tmp_path: Path, in_flight: InFlight, max_staleness: int, critic: bool
) -> None:
    stream = {"max_staleness": max_staleness, "in_flight": in_flight}
    stream_rows(here, stream_job(ppo_job, tmp_path, stream, critic=critic), tmp_path)
