"""An object store at a quarter of what lies in it: objects are spilled to the disk and read again; where the disk is
full as well, whoever finds no room says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STORE_MIB = 80
"""Ray's least is 75."""
SCRIPT = f"""
import hashlib, shutil, sys
from pathlib import Path
import numpy as np, pyarrow as pa, ray
from mmrlhf_ray.runtime import session
from mmrlhf_ray.runtime.waits import deadline_get

def clip(number):
    data = np.random.default_rng(number).integers(0, 255, 8 << 20, np.uint8).tobytes()
    return pa.table({{"media_id": [hashlib.sha256(data).hexdigest()], "data": [data]}})

class Role:
    def right(self, *clips):
        return all(hashlib.sha256(c["data"][0].as_py()).hexdigest() == c["media_id"][0].as_py() for c in clips)

    def make(self, number):
        return [ray.put(clip(i)) for i in range(number)]

session._LOCAL_OBJECT_STORE_BYTES = {STORE_MIB << 20}
try:
    with session.ray_session(num_cpus=1) as info:
        assert info.resources["object_store_memory"] == {STORE_MIB << 20}
        directory = ray._private.worker._global_node.get_session_dir_path()
        role = ray.remote(Role).options(num_cpus=0, name="encoder-0").remote()
        if sys.argv[1] == "full":
            try:
                deadline_get([role.make.remote(40)], 120, "encoding", ["encoder-0"])
            except Exception as error:
                print(type(error).__name__, error)
        clips = [ray.put(clip(number)) for number in range(40)]
        print("right", deadline_get([role.right.remote(*clips)], 120, "score", ["scorer-0"]))  # all at once
        spilled = [file for file in Path(directory).rglob("*") if "spilled" in str(file) and file.is_file()]
        print("spilled", sum(file.stat().st_size for file in spilled) >> 20, "MiB")
except Exception as error:
    print(type(error).__name__, error)
finally:
    print("left", Path(directory).exists())
    shutil.rmtree(Path(directory).parent, ignore_errors=True)  # the logs, which are kept after an error
"""


def run(tmp_path: Path, disk: str, shm: str = "", **environment: str) -> str:
    """What the script prints. `shm`: size of a /dev/shm of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    mounted = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={shm} tmpfs /dev/shm && exec "$@"', "sh"]
    done = subprocess.run(
        [*(mounted if shm else []), sys.executable, script, disk],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.mark.parametrize("shm", ["", pytest.param("16m", marks=_ROOT)])
def test_what_does_not_fit_is_spilled_and_read_again(tmp_path: Path, shm: str) -> None:
    """With a /dev/shm that is smaller than the store as well, which then lies on the disk."""
    right, spilled, left = run(tmp_path, "roomy", shm).splitlines()
    assert right == "right [True]"
    assert int(spilled.split()[1]) >= 3 * STORE_MIB
    assert left == "left False"


def test_a_full_disk_below_the_store_is_told_by_whom_it_concerns(tmp_path: Path) -> None:
    """Ray takes any disk for full here."""
    actor, driver, _ = run(tmp_path, "full", RAY_local_fs_capacity_threshold="0.0").splitlines()
    full = "the object store is full, and so is the disk that it spills to: Ray's temporary directory, in /tmp unless"
    assert actor.startswith(f"RunFailed encoding: encoder-0: {full}")
    assert driver.startswith(f"RunFailed {full}")
