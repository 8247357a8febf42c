"""Processes of tests find imported what they need: a server that could not import it says nothing and forks anyway."""

import sys
from multiprocessing.connection import Connection

from tests.unit.forked import SERVER

NEEDED = {"deepspeed", "vllm", "mmrlhf_ray.training.supervised", "mmrlhf_ray.weights.ipc"}
_PATIENCE_S = 60.0


def tell(pipe: Connection) -> None:
    pipe.send(NEEDED - sys.modules.keys())


def test_what_they_need_is_there() -> None:
    ours, theirs = SERVER.Pipe()
    process = SERVER.Process(target=tell, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(_PATIENCE_S), "no answer"
    assert ours.recv() == set()
    process.join(_PATIENCE_S)
