"""Blocking calls that are waited for with a deadline."""

import subprocess
import sys
import threading
from concurrent.futures import wait

import pytest

from mmrlhf_ray.runtime.waits import in_background


def test_what_the_call_returns() -> None:
    assert in_background(lambda: 3).result() == 3


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(4), KeyboardInterrupt()])
def test_whatever_the_call_raises(error: BaseException) -> None:
    def call() -> None:
        raise error

    future = in_background(call)
    assert future.exception() is error
    with pytest.raises(type(error)):
        future.result()


def test_a_call_that_hangs_is_given_up() -> None:
    end = threading.Event()
    future = in_background(end.wait)
    assert not wait([future], 0.01).done
    end.set()
    assert future.result() is True


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import threading\n"
        "from mmrlhf_ray.runtime.waits import in_background\n"
        "in_background(threading.Event().wait)\n"
        "print('ended')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "ended\n"
