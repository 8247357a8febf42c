"""`mmrlhf submit`: a job on a cluster, through Ray's job submission.

The job's driver runs on the cluster in a copy of the working directory, which holds code and job files but no data
(runs/ is left out). Relative paths of the configuration are therefore taken from `root`, a directory that every node
sees; by default the current directory, which is right for a cluster on this machine.
"""

import asyncio
import fnmatch
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mmrlhf_ray.config import load_config, read_job_kind
from mmrlhf_ray.config.source import read_source
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.runtime.auth_token import read_token

# Patterns as in .gitignore; a name without a slash is left out wherever it is.
EXCLUDES = (
    ".git", ".venv", "venv", "runs", "__pycache__", "*.egg-info",
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache",
)  # fmt: skip
MAX_UPLOAD_BYTES = 512 * 1024**2
_MIB = 1024**2
_NO_AGENT = "No available agent"
_AGENT_S = 60.0
_POLL_S = 2.0


@dataclass(frozen=True)
class Job:
    """The job as handed to the cluster."""

    entrypoint: str
    working_dir: Path
    env_vars: Mapping[str, str] = field(repr=False)  # may hold secrets


def prepare(
    file: Path,
    overrides: Sequence[str],
    address: str,
    *,
    root: Path | None = None,
    env: Sequence[str] = (),
    python: str | None = None,
    resume: bool = False,
    supervise: int = 0,
) -> Job:
    """Check the job here, before anything is uploaded, and write its command line. `supervise`: how often the cluster
    starts it again when it fails.

    Raises ConfigError for a wrong configuration, RunError where a variable is unset or the upload is too large.
    """
    kind = read_job_kind(file)
    load_config(file, overrides, kind.config)
    working_dir = Path.cwd()
    for used in read_source(file, ()).files:  # the file, and those that it is based on
        if not used.resolve().is_relative_to(working_dir):
            raise ConfigError(f"{used} is outside {working_dir}, which is what the job gets: copy it below")
    relative = file.resolve().relative_to(working_dir)
    missing = [name for name in env if name not in os.environ]
    if missing:
        raise RunError(f"--env {', '.join(missing)}: not set in this environment; export it or leave it out")
    check_size(working_dir)
    command = [python or _python_for(address), "-P", "-m", "mmrlhf_ray.cli", kind.value, str(relative), *overrides]
    command += ["--root", str((root or working_dir).resolve()), *(["--resume"] if resume else [])]
    command += ["--supervise", str(supervise)] if supervise else []
    return Job(shlex.join(command), working_dir, {name: os.environ[name] for name in env})


def submit(job: Job, address: str, *, wait: bool = True) -> bool:
    """Submit and, if asked, follow the log to standard output. True unless a job that was waited for failed.

    Raises RunError where the cluster does not answer or refuses.
    """
    client = _client(address)
    with _copy(job.working_dir) as working_dir:
        runtime_env = {"working_dir": str(working_dir), "excludes": list(EXCLUDES), "env_vars": dict(job.env_vars)}
        job_id = _submit(client, job.entrypoint, runtime_env, address)
    print(f"submitted {job_id}: {job.entrypoint}", file=sys.stderr)
    # Ray's own commands use the token only where they are told to.
    ray_job = "RAY_AUTH_MODE=token ray job" if read_token() else "ray job"
    if not wait:
        print(f"follow it with: {ray_job} logs --address {address} --follow {job_id}", file=sys.stderr)
        return True
    try:
        asyncio.run(_follow(client, job_id))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; end it with: {ray_job} stop --address {address} {job_id}", file=sys.stderr)
        raise
    info = client.get_job_info(job_id)
    reason = (info.message or "").split(", last available logs", 1)[0]  # the log was shown
    print(f"{job_id}: {info.status.value}. {reason}", file=sys.stderr)
    return info.status.value == "SUCCEEDED"


def _submit(client: Any, entrypoint: str, runtime_env: dict[str, Any], address: str) -> str:
    """The job's id. A cluster that has just started has no agent to take the job for some seconds."""
    until = time.monotonic() + _AGENT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
        except (RuntimeError, ValueError, OSError) as error:
            if _NO_AGENT not in str(error):
                raise RunError(f"the cluster at {address} did not take the job: {error}") from error
            if time.monotonic() > until:
                raise RunError(
                    f"the cluster at {address} has no agent to take the job, {_AGENT_S:g} s after it was asked; where "
                    "two Rays share a machine, start this one with another --dashboard-agent-listen-port"
                ) from error
        time.sleep(_POLL_S)


@contextmanager
def _copy(directory: Path) -> Iterator[Path]:
    """A copy of what is uploaded. Ray reads a directory twice, and fails when a log in it has grown meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mmrlhf-upload-") as parent:
        copy = Path(parent) / directory.name
        copy.mkdir()
        files, size = 0, 0
        for path in _uploaded(directory):
            target = copy / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            files, size = files + 1, size + target.stat().st_size
        print(f"uploading {files} file{'s' if files != 1 else ''}, {size / _MIB:.1f} MiB", file=sys.stderr)
        yield copy


def check_size(directory: Path, limit: int = MAX_UPLOAD_BYTES) -> int:
    """Bytes that would be uploaded. Raises RunError above `limit`, naming the largest entries."""
    sizes: dict[str, int] = {}
    for path in _uploaded(directory):
        top = path.relative_to(directory).parts[0]
        sizes[top] = sizes.get(top, 0) + path.stat().st_size
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        raise RunError(
            f"{directory} holds {total / _MIB:.0f} MiB to upload, the limit is {limit / _MIB:.0f} MiB; largest: "
            + ", ".join(f"{name} ({size / _MIB:.0f} MiB)" for name, size in largest)
            + "; move data below runs/ (it is not uploaded) or submit from the checkout's root"
        )
    return total


def _uploaded(directory: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not _excluded(name)]
        for name in files:
            path = Path(parent) / name
            if not _excluded(name) and not path.is_symlink():
                yield path


def _excluded(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDES)


def _python_for(address: str) -> str:
    return sys.executable if urlparse(address).hostname in ("127.0.0.1", "localhost", "::1") else "python"


def _client(address: str) -> Any:
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.ERROR)
    token = read_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return JobSubmissionClient(address, headers=headers)
    except ray.exceptions.AuthenticationError as error:
        has = "another token than this machine's" if token else "token authentication on, and there is no token here"
        raise RunError(
            f"the cluster at {address} has {has}: put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no Ray dashboard answers at {address}: {error}; start a cluster (cluster/local.sh), or correct --address"
        ) from error


async def _follow(client: Any, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)
