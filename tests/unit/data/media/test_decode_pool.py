"""Decoding in other processes: the same results, and whatever a file does to its process stays there."""

import array
import fcntl
import io
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from mmrlhf_ray.config.data import DataConfig, DecodeConfig, MediaLimits, VideoSampling
from mmrlhf_ray.data.media import Clip, decode_audio, decode_image, decode_video
from mmrlhf_ray.data.media.decode_pool import DecodePool, DecodeSettings, decode_pool
from mmrlhf_ray.pipelines.parity.cases import MAKERS
from tests.unit.tiny import picture, raw


@pytest.fixture
def pool():
    made: list[DecodePool] = []
    OTHERS[:] = [child.pid for child in psutil.Process().children()]

    def make(limits=None, video=None, **decode):
        made.append(
            DecodePool(DecodeSettings(limits or MediaLimits(), video or VideoSampling(), DecodeConfig(**decode)))
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


OTHERS: list[int] = []
"""Processes that other tests left to the end of the session."""


def workers():
    """The test's decoding processes, without their guards."""
    children = psutil.Process().children()
    return [c for c in children if c.pid not in OTHERS and "mmrlhf_ray.data.media.decode_process" in c.cmdline()]


def test_results_are_those_of_decoding_here(pool):
    image, audio, video = (raw(kind, 1).data for kind in ("image", "audio", "video"))
    here = pool()
    got_image, got_audio, got_video = here.decode([("image", image), ("audio", audio), ("video", video)], 8_000)
    assert np.array_equal(np.asarray(got_image), np.asarray(decode_image(image)))
    assert got_image.mode == "RGB"
    assert np.array_equal(got_audio, decode_audio(audio, 8_000))
    assert isinstance(got_video, Clip)
    want = decode_video(video)
    assert np.array_equal(got_video.frames, want.frames)
    assert (got_video.fps, got_video.indices, got_video.total) == (want.fps, want.indices, want.total)
    samples, rate = here.samples(audio)
    assert rate == 16_000
    assert np.array_equal(samples, decode_audio(audio, None))
    assert here.sound_track(video) is None


def test_large_results_arrive_whole(pool):
    big = picture(3, (1_500, 1_200))
    here = pool()
    for _ in range(3):
        assert np.array_equal(np.asarray(here.decode([("image", big)], None)[0]), np.asarray(decode_image(big)))


def test_large_results_of_one_request_do_not_overwrite_each_other(pool):
    here, files = pool(), [picture(seed, (300, 200)) for seed in range(8)]
    for _ in range(3):
        for file, got in zip(files, here.decode([("image", file) for file in files], None), strict=True):
            assert np.array_equal(np.asarray(got), np.asarray(decode_image(file)))


def test_settings_reach_the_process(pool):
    video = raw("video", 1).data
    (clip,) = pool(video=VideoSampling(max_frames=2)).decode([("video", video)], None)
    assert len(clip) == 2
    with pytest.raises(ValueError, match="the limit is 10"):
        pool(limits=MediaLimits(pixels=10)).decode([("image", picture(1))], None)


def test_settings_come_from_the_configuration():
    data = DataConfig(path="x", limits={"pixels": 7}, video={"fps": 3}, decode={"workers": 2})
    settings = DecodeSettings.of(data)
    assert (settings.limits.pixels, settings.video.fps, settings.decode.workers) == (7, 3, 2)
    assert DecodeSettings.of(None) == DecodeSettings()
    assert decode_pool(settings) is decode_pool(DecodeSettings.of(data))


def test_the_message_is_the_decoders(pool):
    with pytest.raises(ValueError, match="got an empty file"):
        pool().decode([("image", b"")], None)


def test_each_file_of_many_has_its_own_answer(pool):
    good = picture(1)
    media = [("image", good if i % 3 else good[: len(good) // 2]) for i in range(150)]
    problems = pool().problems(media)
    assert [problem is None for problem in problems] == [bool(i % 3) for i in range(150)]


def test_memory_is_bounded_and_the_next_file_is_served(pool):
    buffer = io.BytesIO()
    Image.new("RGB", (6_000, 6_000)).save(buffer, "PNG")
    here = pool(memory_mb=64)
    small = picture(1)
    problems = here.problems([("image", small), ("image", buffer.getvalue()), ("image", small)])
    assert problems[0] is None
    assert "data.decode.memory_mb=64" in problems[1]
    assert problems[2] is None


def stopped(here):
    """The pool's one process, which now answers nothing."""
    here.problem("image", picture(1))
    (worker,) = workers()
    worker.suspend()
    return worker


def waiting(worker):
    """Bytes of a request that it has not read."""
    count = array.array("i", [0])
    with open(f"/proc/{worker.pid}/fd/0", "rb") as pipe:
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_process_that_hangs_is_replaced(pool):
    here = pool(deadline_s=0.5)
    worker = stopped(here)
    assert here.problem("image", picture(1)) == "was not decoded within data.decode.deadline_s=0.5"
    assert not psutil.pid_exists(worker.pid)
    assert here.problem("image", picture(1)) is None


def test_a_process_that_dies_costs_the_file_at_hand(pool):
    here = pool()
    worker = stopped(here)
    asked = threading.Thread(target=lambda: results.extend(here.problems([("image", picture(i)) for i in range(3)])))
    results: list[str | None] = []
    asked.start()
    while not waiting(worker):
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGSEGV)
    worker.resume()
    asked.join()
    assert results[0].startswith("the process that decodes it ended by SIGSEGV")
    assert results[1:] == [None, None]


def test_a_process_that_died_idle_costs_nothing(pool):
    here = pool()
    here.problem("image", picture(1))
    (worker,) = workers()
    worker.kill()
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert here.problem("image", picture(1)) is None


def test_processes_are_replaced_after_their_time(pool):
    here = pool(recycle_after=2)
    pids = []
    for _ in range(4):
        here.problem("image", picture(1))
        pids += [worker.pid for worker in workers()]
    assert len(pids) == 2  # none is left after the second and the fourth
    assert pids[0] != pids[1]


def test_threads_share_the_pool(pool):
    here = pool(workers=2)
    data = [picture(i) for i in range(40)]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda d: here.decode([("image", d)], None)[0], data))
    assert all(np.array_equal(np.asarray(a), np.asarray(decode_image(d))) for a, d in zip(got, data, strict=True))
    assert len(workers()) <= 2


PROGRAM = """
import sys, time
from mmrlhf_ray.data.media.decode_pool import DecodePool, DecodeSettings
import psutil
pool = DecodePool(DecodeSettings())
pool.problem("image", b"")
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["stay", "leave"])
def test_no_process_is_left_behind(how, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = str(Path(__file__).parents[4])
    with subprocess.Popen(
        [sys.executable, str(program), how], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2  # the decoder and its guard
        if how == "stay":
            parent.kill()
        parent.wait(60)
    until = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in children if psutil.pid_exists(pid)] == []


def test_the_process_is_light():
    """No torch, no Ray: what a decoder imports, it imports again after each replacement."""
    code = "import mmrlhf_ray.data.media.decode_process, mmrlhf_ray.data.media, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "transformers", "pyarrow"} & set(loaded)


def test_threads_of_files_that_were_read_are_gone(pool):
    """They used to end with a collection of garbage alone: hundreds of them, each with its stack, up to the limit."""
    here, data = pool(workers=1), MAKERS["video"](np.random.default_rng(0), 0)
    threads = []
    for _ in range(15):
        here.decode([("video", data)], None)
        (child,) = (p for p in psutil.Process().children() if p.pid not in OTHERS)
        threads.append(child.num_threads())
    assert min(threads[8:]) < 40, threads
