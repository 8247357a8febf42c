"""Nodes that do not see a run's directory are found before anything is trained."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.planning.shared import _see_here, check_shared

PATIENCE_S = 180.0
ONE, TWO = (Resources(num_cpus=1.0),), (Resources(num_cpus=2.0),)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Of two nodes, to which this process is connected."""
    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
    try:
        own.add_node(num_cpus=1, object_store_memory=80 << 20)
        ray.init(address=own.address, logging_level=logging.ERROR)
        yield own
    finally:
        ray.shutdown()
        own.shutdown()


@contextmanager
def node_of_its_own_disks(address: str, hidden: Path) -> Iterator[None]:
    """A node of the cluster in a mount namespace of its own, where `hidden` is another directory, an empty one."""
    command = f"mount -t tmpfs tmpfs {hidden} && exec ray start --address {address} --num-cpus 1 --block"
    command += f" --object-store-memory {80 << 20} --disable-usage-stats"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = len(ray.nodes())
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as node:
        try:
            until = time.monotonic() + PATIENCE_S
            while len(ray.nodes()) == before:
                assert node.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
            yield
        finally:
            os.killpg(node.pid, signal.SIGTERM)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount")
def test_a_node_that_does_not_see_the_directory_is_named(tmp_path: Path) -> None:
    with cluster() as own:
        check_shared(tmp_path, ONE, PATIENCE_S)
        with node_of_its_own_disks(own.address, tmp_path):
            with pytest.raises(
                RunError, match=rf"{tmp_path}: node [\d.]+ does not see what is written there; output_dir"
            ):
                check_shared(tmp_path, ONE, PATIENCE_S)
            check_shared(tmp_path, TWO, PATIENCE_S)  # none of its actors would be there
    assert list(tmp_path.iterdir()) == []


def test_what_a_node_finds_wrong(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    assert _see_here(probe, tmp_path / "answer") == "does not see what is written there"
    probe.mkdir()
    assert _see_here(probe, tmp_path / "answer") == "cannot read there: Is a directory"
    (tmp_path / "file").write_text("here")
    assert _see_here(tmp_path / "file", tmp_path) == "cannot write there: Is a directory"
    assert _see_here(tmp_path / "file", tmp_path / "answer") == ""
    assert (tmp_path / "answer").exists()
