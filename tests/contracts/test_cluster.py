"""cluster/: scripts, and the image. The manifests are in test_kuberay.py."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = [*sorted(CLUSTER.glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_stop_at_errors_and_can_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_extras_of_the_image_and_the_makefile_are_the_packages() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought_by_others = {"serve", "quantize", "environments"}  # ray[serve] and feedback, vLLM, Ray
    own = {
        "cpu",
        "gpu",
        "feedback",
        "onnx",
        "scenarios",
        "behaviour",
        "modelscope",
        "wandb",
        "mlflow",
        "swanlab",
        "docs",
        "dev",
    }
    assert own | brought_by_others == set(extras)
    assert ".[$(EXTRA),feedback,onnx,scenarios,behaviour,docs,dev]" in (ROOT / "Makefile").read_text()
    assert all((ROOT / "constraints" / f"{extra}.txt").is_file() for extra in ("cpu", "gpu"))
    assert "ARG EXTRA=cpu" in (CLUSTER / "Dockerfile").read_text()
    assert "EXTRA ?= cpu" in (ROOT / "Makefile").read_text()


def test_the_image_runs_as_nobody_special_and_has_what_the_scripts_and_nccl_need() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    (user,) = (line.split()[1] for line in lines if line.startswith("USER"))
    assert int(user) > 0  # a number: Kubernetes' runAsNonRoot cannot look a name up
    (installed,) = (line.split() for line in lines if "build-essential procps" in line)
    assert {"procps", "wget", "libibverbs1", "ibverbs-providers", "librdmacm1"} <= set(installed)


STUBS = {
    # `srun … COMMAND`: with the cores that Slurm would give it.
    "srun": "while [[ $1 == -* ]]; do case $1 in --overlap) shift ;; *) shift 2 ;; esac; done\n"
    'echo "cores ${SRUN_CPUS_PER_TASK:-1}: $*" >> "$LOG"\n'
    # A Debian host calls itself 127.0.1.1.
    'case "$1 $2" in "hostname --all-ip-addresses") echo 10.0.0.1 172.17.0.1 ;; hostname*) echo 127.0.1.1 ;; esac',
    "scontrol": 'echo "scontrol $*" >> "$LOG"\nif [[ $1 == show ]]; then printf "one\\ntwo\\n"; fi',
    "ray": "true",
    "python": "cat > /dev/null; echo token",
    "mmrlhf": 'if [[ $2 == --help ]]; then echo "--resume"; exit; fi\necho "mmrlhf $*" >> "$LOG"\n'
    'if [[ -n $ENDS ]]; then exit "$ENDS"; fi\n'
    'trap "exit 143" TERM; touch "$LOG.running"; while :; do sleep 0.05; done',
}


def _slurm(tmp_path: Path, ends: str, **environment: str) -> "subprocess.Popen[str]":
    """cluster/slurm.sh with commands in the place of Slurm's, Ray's and ours, which write down what they are asked."""
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, body in STUBS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": tmp_path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]",
             "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "64"}  # fmt: skip
    known = {"PATH": os.environ["PATH"], "LOG": tmp_path / "log", "ENDS": ends, **slurm, **environment}
    return subprocess.Popen(
        [CLUSTER / "slurm.sh", "ppo", "job.yaml"], env=known, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_under_slurm_every_node_has_its_cores(tmp_path: Path) -> None:
    run = _slurm(tmp_path, ends="0")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    log = (tmp_path / "log").read_text().splitlines()
    assert [line for line in log if "ray start" in line] != []
    assert all(line.startswith("cores 64: ") for line in log if line.startswith("cores"))
    assert any("--node-ip-address 10.0.0.1 --port" in line for line in log)
    head = next(n for n, line in enumerate(log) if "ray start --head" in line)
    assert head < log.index("mmrlhf ppo job.yaml")  # the other nodes start beside it
    assert not list(tmp_path.glob(".ray-token*"))


@pytest.mark.parametrize(("ends", "status"), [("1", 1), ("2", 2)])
def test_under_slurm_a_failure_is_the_jobs_status(tmp_path: Path, ends: str, status: int) -> None:
    run = _slurm(tmp_path, ends, SLURM_RESTART_COUNT="1")
    run.communicate(timeout=60)
    assert run.returncode == status
    assert "mmrlhf ppo job.yaml --resume" in (tmp_path / "log").read_text()
    assert "requeue" not in (tmp_path / "log").read_text()


def test_before_slurms_time_limit_a_run_saves_and_queues_again(tmp_path: Path) -> None:
    run = _slurm(tmp_path, ends="")
    until = time.monotonic() + 60
    while not (tmp_path / "log.running").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 143, err
    assert (tmp_path / "log").read_text().splitlines()[-1] == "scontrol requeue 7"


DRIVER = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    print("saved", file=open("log", "a"))
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
open("ready", "w").close()
time.sleep(60)
"""
CONTAINER = """
"$PYTHON" ./bin/mmrlhf ppo job.yaml &
(exec -a ray::IDLE sleep 60) &
(exec -a ray::DashboardAgent sleep 60) &
(exec -a ray::Learner.update bash -c 'sleep 1; echo "learner gone" >> log') &
until [[ -e ready ]]; do sleep 0.05; done
"$NOTICE"
echo ended >> log
"""
IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*IN_A_CONTAINER, "true"], stderr=subprocess.DEVNULL).returncode != 0,
    reason="needs processes of its own, for which one must be root",
)
def test_a_container_that_stops_has_its_runs_saved_and_waits_for_them(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mmrlhf").write_text(DRIVER)
    ray = tmp_path / "bin" / "ray"  # one job is running when it is asked first, and then none
    ray.write_text('#!/usr/bin/env bash\n[[ -e asked ]] || echo RUNNING\ntouch asked\necho "ray $*" >> log\n')
    ray.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    known = {"PATH": path, "PYTHON": sys.executable, "NOTICE": str(CLUSTER / "notice.sh")}
    subprocess.run([*IN_A_CONTAINER, "bash", "-c", CONTAINER], cwd=tmp_path, env=known, check=True, timeout=60)
    log = (tmp_path / "log").read_text().splitlines()
    asked = "ray job list --address http://127.0.0.1:8265"
    assert sorted(log[:2]) == ["learner gone", "saved"]
    assert log[2:] == [asked, asked, "ended"]
