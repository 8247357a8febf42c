"""Actors that die or fall silent are started again, until it is too often; real actors of next to nothing."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray

from mmrlhf_ray.config.base import DeadlineConfig, RecoveryConfig
from mmrlhf_ray.config.placement import RolePlacement
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed
from mmrlhf_ray.runtime.actors import Seat, reserve
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.workers.crew import Crew
from mmrlhf_ray.workers.watch import Watch

SOON_S = 60.0

pytestmark = pytest.mark.usefixtures("session")


class Role:
    """Answers with its process; `work` takes its time, and `sulk` is an answer that says it is of no more use."""

    def __init__(self, crash: bool = False):
        if crash:
            os._exit(3)

    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def sulk(self) -> None:
        raise RoleFailed("out of order")


@contextmanager
def crew_of(*seats: tuple[str, str], **recovery: Any) -> Iterator[Crew]:
    """Seats (role, name) that are watched."""
    watch = Watch(RecoveryConfig(**{"silent_s": 2.0, **recovery}))
    reserved = tuple((Seat(role, name, RolePlacement(num_cpus=0.1)),) for role, name in seats)
    group = reserve(reserved, "PACK", DeadlineConfig(placement_s=SOON_S))
    own = Crew(reserved, group, f"watched-{time.monotonic_ns()}", watch)
    try:
        with watch:
            yield own
    finally:
        own.give_back()


def start(own: Crew, number: int, *arguments: Any, **named: Any) -> Any:
    return own.spawn(own.bundles[number][0], Role, *arguments, **named)


def pid_of(actor: Any) -> int:
    return deadline_get(actor.pid.remote(), SOON_S, "pid")


def test_what_a_dead_actor_was_asked_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("scorer", "scorer-0")) as own, caplog.at_level(logging.WARNING):
        actor = start(own, 0)
        before = pid_of(actor)
        asked = actor.work.remote(4.0)
        own.watch.wait(["scorer-0"], SOON_S)
        os.kill(before, signal.SIGKILL)
        assert deadline_get(asked, SOON_S, "work") != before
        own.watch.wait(["scorer-0"], SOON_S)
        assert own.watch.restarts(["scorer-0"]) == 1
    assert "scorer-0 died and is started again (1 of 6 within an hour)" in caplog.text
    assert "scorer-0 is back after" in caplog.text


def test_a_silent_actor_is_ended_while_a_busy_one_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("scorer", "scorer-0"), ("reference", "reference-0")) as own, caplog.at_level(logging.WARNING):
        silent, busy = start(own, 0), start(own, 1)
        before, other = pid_of(silent), pid_of(busy)
        working = busy.work.remote(6.0)
        own.watch.wait(["scorer-0"], SOON_S)
        os.kill(before, signal.SIGSTOP)
        assert pid_of(silent) != before
        assert deadline_get(working, SOON_S, "work") == other
    assert "scorer-0 gave no sign of life for 2 s" in caplog.text
    assert "reference-0" not in caplog.text


def test_a_learner_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("policy", "policy-0")) as own:
        actor = start(own, 0)
        asked, before = actor.work.remote(30.0), None
        own.watch.wait(["policy-0"], SOON_S)
        before = ray.get(actor.__ray_call__.options(concurrency_group="watch").remote(lambda self: os.getpid()))
        os.kill(before, signal.SIGKILL)
        with pytest.raises(RoleFailed, match="work: policy-0"):
            deadline_get(asked, SOON_S, "work", ["policy-0"])
        own.watch.wait(["policy-0"], SOON_S)
        assert pid_of(actor) != before


def test_actors_are_started_again_on_purpose_and_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("policy", "policy-0"), ("policy", "policy-1"), max_restarts=1) as own:
        actors = [start(own, 0), start(own, 1)]
        before = [pid_of(actor) for actor in actors]
        own.watch.wait(["policy-0", "policy-1"], SOON_S)
        for _ in range(2):
            own.watch.start_again(["policy-0", "policy-1"], SOON_S)
        after = [pid_of(actor) for actor in actors]
        assert not set(before) & set(after)
    assert "is started again" not in caplog.text


def test_too_many_deaths_within_an_hour_are_the_last(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("scorer", "scorer-0"), max_restarts=1) as own, caplog.at_level(logging.WARNING):
        actor = start(own, 0)
        for _ in range(2):
            own.watch.wait(["scorer-0"], SOON_S)
            os.kill(pid_of(actor), signal.SIGKILL)
            time.sleep(2.0)
        with pytest.raises(RoleFailed, match="pid: .* died"):
            deadline_get(actor.pid.remote(), SOON_S, "pid", ["the actor"])
        with pytest.raises(RoleFailed, match="scorer-0: dead, and not started again"):
            own.watch.wait(["scorer-0"], SOON_S)
    assert "scorer-0 died 2 times within an hour, more than recovery.max_restarts=1" in caplog.text


def test_with_no_restarts_the_first_death_is_the_last() -> None:
    with crew_of(("scorer", "scorer-0"), max_restarts=0) as own:
        actor = start(own, 0)
        os.kill(pid_of(actor), signal.SIGKILL)
        with pytest.raises(RoleFailed, match="work: scorer-0 died"):
            deadline_get(actor.work.remote(0.0), SOON_S, "work", ["scorer-0"])


def test_an_actor_that_dies_as_it_starts_stays_dead(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("scorer", "scorer-0")) as own, caplog.at_level(logging.WARNING):
        actor = start(own, 0, crash=True)
        with pytest.raises(RoleFailed, match="pid: scorer-0 died"):
            deadline_get(actor.pid.remote(), SOON_S, "pid", ["scorer-0"])
    assert "scorer-0 died while it started; it is not started again" in caplog.text


def test_an_actor_that_says_it_is_broken_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(("generator", "generator-0")) as own, caplog.at_level(logging.WARNING):
        actor = start(own, 0)
        before = pid_of(actor)
        own.watch.wait(["generator-0"], SOON_S)
        beats = iter([actor.pid.remote, actor.sulk.remote])
        own.watch.add("generator-0", actor, lambda: next(beats, actor.pid.remote)())
        until = time.monotonic() + SOON_S
        while "generator-0 is back" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert pid_of(actor) != before
    assert "generator-0: out of order" in caplog.text


def test_an_actor_that_takes_its_time_to_start_is_not_taken_for_silent() -> None:
    """Importing holds back its other threads, too."""
    with crew_of(("scorer", "scorer-0")) as own:
        actor, seconds = start(own, 0), iter([5.0])
        own.watch.add("scorer-0", actor, lambda: actor.work.remote(next(seconds, 0.0)))
        own.watch.wait(["scorer-0"], SOON_S)
        assert own.watch.restarts(["scorer-0"]) == 0


def test_who_waits_for_a_sign_of_life_is_told_who_gave_none() -> None:
    with crew_of(("scorer", "scorer-0"), silent_s=60.0) as own:
        actor = start(own, 0)
        own.watch.wait(["scorer-0"], SOON_S)
        os.kill(pid_of(actor), signal.SIGSTOP)
        with pytest.raises(
            DeadlineExceeded, match=r"no sign of life within 2 s from scorer-0; raise deadlines\.start_s"
        ):
            own.watch.wait(["scorer-0"], 2.0)


def test_a_driver_that_was_stopped_itself_takes_nobody_for_silent() -> None:
    with crew_of(("scorer", "scorer-0"), silent_s=4.0) as own:
        actor = start(own, 0)
        before = pid_of(actor)
        own.watch.wait(["scorer-0"], SOON_S)
        os.kill(before, signal.SIGSTOP)  # as everybody, where a machine sleeps
        time.sleep(1.5)
        with own.watch._changed:
            time.sleep(6.0)
        time.sleep(0.5)
        os.kill(before, signal.SIGCONT)
        own.watch.wait(["scorer-0"], SOON_S)
        assert own.watch.restarts(["scorer-0"]) == 0
        assert pid_of(actor) == before
