"""The engine's process dies while somebody waits for responses: he hears of it at once, and nothing is left."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from mmrlhf_ray.config import DataConfig, GeneratorConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.errors import EngineDied
from mmrlhf_ray.runtime.own_directory import own_directory
from mmrlhf_ray.workers.roles.sampler_process import Heartbeat, SamplerProcess, SamplerSpec
from tests.family import engine_of

SOON_S = 30.0

pytestmark = pytest.mark.e2e


def test_who_waits_for_a_dead_engine_is_told(model_dir: Path) -> None:
    config, data = GeneratorConfig(max_num_seqs=4), DataConfig(path="none")
    spec = SamplerSpec(ModelConfig(path=str(model_dir)), config, SamplingConfig(), 64, 0, None, data)
    scratch = Path(tempfile.mkdtemp(prefix="mmrlhf-", dir="/tmp"))  # short, for the sake of sockets
    sampler = SamplerProcess(spec, scratch)
    engine = engine_of(psutil.Process())

    async def die_while_asked() -> None:
        assert await sampler.ask(Heartbeat()) > 0.0
        os.kill(engine.pid, signal.SIGSTOP)  # so that the next answer cannot come
        waiting = asyncio.create_task(sampler.ask(Heartbeat()))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match=r"the sampler's engine process died"):
            await asyncio.wait_for(waiting, SOON_S)
        with pytest.raises(EngineDied, match="engine process died"):
            await asyncio.wait_for(sampler.ask(Heartbeat()), SOON_S)

    asyncio.run(die_while_asked())
    (left,) = scratch.iterdir()  # all that vLLM made, and nobody has removed: it has ended by force
    assert {path.is_socket() for path in left.iterdir()} == {True, False}
    assert any(path.name.startswith("vllm_dist_") for path in left.iterdir())
    until = time.monotonic() + SOON_S  # a process that was killed holds it a moment longer
    while left.exists() and time.monotonic() < until:
        own_directory(scratch)  # the next one's
        time.sleep(0.2)
    assert not left.exists()
    shutil.rmtree(scratch)
