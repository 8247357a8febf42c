"""A directory is there as long as somebody may use it, and no longer than until the next one is made."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrlhf_ray.runtime.own_directory import own_directory


@pytest.fixture
def near() -> Iterator[Path]:
    """A directory with a short name, as Ray's is."""
    with tempfile.TemporaryDirectory(prefix="mmrlhf-", dir="/tmp") as path:
        yield Path(path)


def test_it_is_removed_once_all_that_have_it_have_ended_however(near: Path) -> None:
    first, used = own_directory(near)
    (first / "socket").touch()
    child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[used], stdin=subprocess.PIPE)
    os.close(used)
    second, also_used = own_directory(near)
    assert first.is_dir()  # the child has it
    child.kill()
    child.wait()
    third, _ = own_directory(near)
    assert sorted(near.iterdir()) == sorted([second, third])
    os.close(also_used)


def test_a_socket_in_it_has_a_path_that_is_not_too_long(
    near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(near))
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    for parent in (deep, near):
        path, _ = own_directory(parent)
        assert path.parent == near
        assert len(f"{path}/{'0' * 36}") <= 107
