"""Online training over several hosts, some of which are cut off, killed and added while it runs (`make chaos`).

The hosts are network namespaces of this machine; the job is submitted from one that is no node of the cluster. It must
go on by itself each time, and end with the numbers of a run on one host. Writes runs/hosts.md.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.metrics import read_metrics
from tests.chaos.hosts import DASHBOARD_PORT, Network, network, possible
from tests.chaos.test_matrix import Watched, job, same_numbers
from tests.cluster import ROOT
from tests.e2e.support import mmrlhf

STEPS = 60
CPUS = 2
LINES = ("died", "gave no sign", "is back", "start again", "cannot be reached", "continuing from")

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not possible(), reason="needs root and ip netns"),
]


@dataclass(frozen=True)
class Event:
    """What was done to a host, and what came of it; seconds since the beginning of it."""

    what: str
    next_step_s: float
    repeated: int
    """Steps that were taken again."""
    said: tuple[str, ...]

    def __str__(self) -> str:
        return f"| {self.what} | {self.next_step_s:.0f} s | {self.repeated} | {'; '.join(self.said)} |"


class Disturbed:
    """The run, and what was done to it."""

    def __init__(self, watched: Watched, report: Path):
        self._watched, self._report = watched, report
        self.events: list[Event] = []

    def after(self, what: str, since: float) -> None:
        """Wait for a step that is logged after now, and note what the run said since `since` (time.time())."""
        now, before = time.time(), len(self._watched.steps)
        until = self._watched.until
        logged = until(lambda: [t for t in self._watched.steps if t > now], f"no step after: {what}", 600.0)
        clock = time.monotonic() - (time.time() - since)
        heard = [line.strip() for when, line in list(self._watched.said) if when > clock]
        told = tuple(line for line in heard if any(word in line for word in LINES))
        self.events.append(Event(what, logged[0] - since, max(0, before - len(self._watched.steps) + 1), told))
        print(self.events[-1], flush=True)
        self._report.parent.mkdir(exist_ok=True)
        head = "| what | next step after | steps repeated | what the run said |\n|---|---:|---:|---|\n"
        self._report.write_text(head + "\n".join(map(str, self.events)) + "\n")


def test_a_run_over_hosts_that_come_and_go_learns_the_same(
    model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    file = job(model_dir, reward_model_dir, data_dir, tmp_path)
    with network(("head", "b", "c"), CPUS) as net:
        disturb(net, file, tmp_path)


def disturb(net: Network, file: Path, tmp_path: Path) -> None:
    ways = (f"steps={STEPS}", "placement.strategy=SPREAD", "recovery.silent_s=20", "checkpoint.every_steps=2")
    one = mmrlhf("ppo", str(file), "name=one", *ways, cwd=tmp_path, timeout_s=3600)
    assert one.returncode == 0, one.err
    running = net.plug("desk").start(
        *("submit", file.name, "name=three", *ways, "--address", f"http://{net.head.address}:{DASHBOARD_PORT}"),
        cwd=tmp_path,
        env=net.env,
    )
    watched = Watched(running, tmp_path / "three")
    disturbed = Disturbed(watched, ROOT / "runs" / "hosts.md")
    watched.until(lambda: len(watched.steps) >= 2, "no step")
    disturbed.after("three hosts, nothing", time.time())

    for seconds in (20, 120):
        since = time.time()
        net.hosts["b"].cut()
        time.sleep(seconds)
        net.hosts["b"].heal()
        disturbed.after(f"the link of a host down for {seconds} s", since)
    since = time.time()
    net.hosts["c"].kill()
    disturbed.after("a host killed", since)
    since = time.time()
    net.join("e")
    disturbed.after("a host added", since)
    assert running.process.wait(3600) == 0, watched.last_words()
    same_numbers(read_metrics(tmp_path / "three"), read_metrics(tmp_path / "one"), STEPS)


def test_a_generator_joins_with_its_host_and_leaves_with_it(
    model_dir: Path, reward_model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    file = job(model_dir, reward_model_dir, data_dir, tmp_path)
    with network(("head", "b"), 1) as net:
        running = net.head.start(
            *("ppo", file.name, "name=joining", "steps=1000", "placement.strategy=SPREAD", "recovery.silent_s=20"),
            *("stream.max_staleness=1", "algorithm.mismatch.correction=tis"),
            # With the other roles this takes all there is, so that there is no room for a second one.
            *("placement.generator.num_cpus=0.6", "placement.generator.replicas={min: 1, max: 2}"),
            cwd=tmp_path,
            env=net.env | {"RAY_ADDRESS": net.address},
        )
        watched = Watched(running, tmp_path / "joining")
        disturbed = Disturbed(watched, ROOT / "runs" / "joining.md")

        def generators() -> list[float]:
            return [row["generators"] for row in read_metrics(tmp_path / "joining")]

        watched.until(lambda: len(watched.steps) >= 3, "no step")
        assert set(generators()) == {1.0}
        since = time.time()
        host = net.join("c")
        watched.until(lambda: generators()[-1] == 2, "nobody joins")
        disturbed.after("a host added", since)
        since = time.time()
        host.kill()
        watched.until(lambda: generators()[-1] == 1, "nobody leaves")
        disturbed.after("that host killed", since)
        running.process.terminate()
        assert running.process.wait(600) == 143, watched.last_words()
        steps = [row["step"] for row in read_metrics(tmp_path / "joining")]
        assert steps == list(range(len(steps)))
