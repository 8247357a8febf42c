"""A Ray session around a run: the cluster that RAY_ADDRESS names, or a private one that ends with the run."""

import json
import logging
import os
import resource
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mmrlhf_ray.errors import RunError, RunFailed, first_line
from mmrlhf_ray.runtime import fork_server, processes
from mmrlhf_ray.runtime.auth_token import ensure_token, token_path, use_token

NOTICED = 128 + signal.SIGTERM
"""Exit status of a run that was told to end and saved what it had."""
_LOCAL = "local"
"""The address of no cluster: one is started."""
_GRACE_S = 10.0
_WATCHDOG_GRACE_S = 2.0
_CONNECT_S = 10.0
_SLOW = "timed out during startup"
"""What Ray says where its node was not up in time."""
LEAST_OPEN_FILES = 1024
"""With as many a run of two ranks works; with 256 its actors die while they start."""
_LOCAL_OBJECT_STORE_BYTES = 2 * 1024**3

# Every worker process of a run. What the user has set already wins.
WORKER_ENV: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",  # more threads than cores were up to 13 times slower
    "HF_HUB_OFFLINE": "1",  # models and data are directories; nothing is fetched behind the user's back
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # actors that reserve no GPU see none
}

# Ray's own processes of a private cluster.
_PRIVATE_ENV: Mapping[str, str] = {
    "RAY_worker_niceness": "0",  # Ray's 15 starves a run alongside anything else on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # ours are forked; these would wait for work that never comes
    # Ray's agents write their title over the start of their environment, where by chance our mark may be.
    "SPT_NOENV": "1",
}


@dataclass(frozen=True)
class SessionInfo:
    """A run's view of the cluster it is on."""

    address: str
    """host:port of the cluster's control service."""
    dashboard_url: str | None
    started_here: bool
    """A private cluster that ends with the session."""
    resources: Mapping[str, float]
    """Of the entire cluster, e.g. {"CPU": 2.0}."""


def check_open_files() -> None:
    """Raise RunError where the processes of a private cluster could not open what they need. Ray raises the soft limit
    to the hard one by itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_OPEN_FILES:
        raise RunError(
            f"a process may open {hard} files here (RLIMIT_NOFILE, the hard limit), and Ray needs {LEAST_OPEN_FILES} "
            "at least, many more with many actors; raise it: `ulimit -Hn 65536` as root, limits.conf, or a container's "
            "`--ulimit nofile=65536`"
        )


def starts_cluster() -> bool:
    """Whether ray_session() would start a private cluster on this machine, rather than use one that is there."""
    ray = sys.modules.get("ray")
    connected = ray is not None and ray.is_initialized()
    return not connected and os.environ.get("RAY_ADDRESS", _LOCAL) == _LOCAL


@contextmanager
def ray_session(
    *, num_cpus: int | None = None, log_to_driver: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[SessionInfo]:
    """Be connected to Ray for the time of the block.

    `RAY_ADDRESS` (set by hand, or by Ray for a submitted job) names a cluster to connect to. Without it a private
    one is started on this machine: dashboard on the loopback interface, token authentication on, and at the end,
    however it comes, no process of it is left. Its logs are removed after success and kept after an error, which
    then carries a note that says where.

    num_cpus: of the private cluster; default all cores. log_to_driver: show what workers print. env: variables that
    every worker process has, whatever is set there.
    Where this process is connected to Ray already, as in a session within a session, that connection is used and left.

    Raises RunError where Ray cannot be reached or started.
    """
    import ray

    given = env or {}
    if ray.is_initialized():
        _refuse_others(given, os.environ, "the session that this one is in")
        yield SessionInfo(ray.get_runtime_context().gcs_address, None, False, ray.cluster_resources())
        return
    address = os.environ.get("RAY_ADDRESS", _LOCAL)
    # Ray lets workers import from the directory in which it is started: not from the user's, where a file may be
    # called as a package is.
    with ExitStack() as stack:
        stack.enter_context(_environment(WORKER_ENV))
        stack.enter_context(_replaced(given))
        if address == _LOCAL:
            ensure_token()
            use_token()
            stack.enter_context(_environment(_PRIVATE_ENV))
            context = _start_private(stack, num_cpus, log_to_driver)
        else:
            use_token()
            stack.callback(ray.shutdown)
            with tempfile.TemporaryDirectory() as nowhere, chdir(nowhere):
                context = _connect(address, log_to_driver, given)
        stack.enter_context(_terminate_as_exit())
        url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        if url:
            print(f"Ray dashboard: {url}", file=sys.stderr)
        with _store_full_told():
            yield SessionInfo(context.address_info["gcs_address"], url, address == _LOCAL, ray.cluster_resources())


@contextmanager
def _store_full_told() -> Iterator[None]:
    """What the driver itself had no room for; of others deadline_get() says it."""
    from mmrlhf_ray.runtime.waits import NO_ROOM, STORE_FULL

    try:
        yield
    except STORE_FULL as error:
        raise RunFailed(NO_ROOM) from error


def _start_private(until: ExitStack, num_cpus: int | None, log_to_driver: bool) -> Any:
    """Start Ray in a directory of its own, which `until` ends; once more where the half minute that Ray gives itself
    was not enough, as on a machine with too much to do."""
    import ray

    for last in (False, True):
        with ExitStack() as stack:
            directory = stack.enter_context(_private_directory())
            stack.enter_context(_nothing_left())
            try:
                with chdir(directory):
                    workers_env = _forked_python(stack, directory)
                    stack.callback(ray.shutdown)
                    context = _start(num_cpus, directory, log_to_driver, workers_env)
            except RunError as error:
                if last or _SLOW not in str(error):
                    raise
                continue
            until.push(stack.pop_all())
            return context


def _forked_python(until: ExitStack, directory: Path) -> dict[str, Any]:
    """The runtime environment of workers that are forked from one process, which `until` ends. Empty on a machine with
    GPUs: it takes one import that touches a device, and no forked process can use it."""
    if _has_gpus():
        return {}
    door = directory / "fork_server"
    server = until.enter_context(fork_server.start(door))
    until.callback(server.kill)
    until.enter_context(_replaced({fork_server.DOOR: str(door)}))
    return {"py_executable": shlex.join(fork_server.forked_python())}


def _has_gpus() -> bool:
    return Path("/dev/nvidiactl").exists()


def _start(num_cpus: int | None, directory: Path, log_to_driver: bool, runtime_env: Mapping[str, Any]) -> Any:
    import ray

    try:
        return ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=_object_store_bytes(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
            runtime_env=dict(runtime_env),
            _temp_dir=str(directory),
        )
    except Exception as error:
        known = isinstance(error, RuntimeError | OSError | ValueError | ray.exceptions.RayError)
        if not known and _SLOW not in str(error):  # for that Ray raises a plain Exception
            raise
        raise RunError(
            f"Ray did not start on this machine: {first_line(error)}; `mmrlhf doctor` may say why"
        ) from error


def _connect(address: str, log_to_driver: bool, env: Mapping[str, str]) -> Any:
    import ray

    if address.startswith(("http://", "https://")):
        raise RunError(
            f"RAY_ADDRESS={address} is the address for job submission: use `mmrlhf submit`, "
            "or unset RAY_ADDRESS to run on this machine"
        )
    _check_reachable(address)
    given = _job_env_vars()
    _refuse_others({key: env[key] for key in env.keys() & given.keys()}, given, "the submitted job")
    env_vars = {key: os.environ[key] for key in (*WORKER_ENV, *env) if key not in given}
    try:
        return ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
            runtime_env={"env_vars": env_vars},
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(
            f"cannot use the Ray cluster at RAY_ADDRESS={address}: {first_line(error)}; "
            f"is it a Ray {ray.__version__}, and is its token the one in RAY_AUTH_TOKEN or {token_path()}?"
        ) from error


def _check_reachable(address: str) -> None:
    """Ray tries for minutes and then ends the entire process; find out sooner and say so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray looks the address up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise RunError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; "
            "start it, correct the address, or unset RAY_ADDRESS to run on this machine"
        ) from error


def _job_env_vars() -> dict[str, str]:
    """Variables that the submitted job's own runtime environment sets; Ray lets us set no others but new ones."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return config.get("runtime_env", {}).get("env_vars", {})


def _object_store_bytes() -> int | None:
    """Enough for media and the weights of a model that a CPU can train; on GPU machines Ray's own choice."""
    if _has_gpus():
        return None
    return min(_LOCAL_OBJECT_STORE_BYTES, max(128 * 1024**2, int(0.8 * shutil.disk_usage("/dev/shm").free)))


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    added = {key: value for key, value in defaults.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextmanager
def _replaced(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _refuse_others(env: Mapping[str, str], there: Mapping[str, str], who: str) -> None:
    """Raise RunError where `who` has set a variable to another value, which workers would have."""
    for key, value in env.items():
        if there.get(key) != value:
            raise RunError(
                f"env.{key}={value!r}, but {who} has {there.get(key)!r}, which its workers get; make them the same"
            )


@contextmanager
def _private_directory() -> Iterator[Path]:
    # Of our own, so that no other `ray.init()` on the machine takes this cluster for a public one, and directly
    # under /tmp, because a socket's path may have 107 characters only.
    path = Path(tempfile.mkdtemp(prefix="mmrlhf-", dir="/tmp"))
    try:
        yield path
    except Exception as error:
        error.add_note(f"Ray's logs of this run are kept in {path}/session_latest/logs")
        raise
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _nothing_left() -> Iterator[None]:
    mark = secrets.token_hex(16)
    outer = os.environ.get(processes.MARK)
    watchdog = processes.start_watchdog(mark, _WATCHDOG_GRACE_S)
    os.environ[processes.MARK] = mark
    try:
        yield
    finally:
        processes.end_marked(mark, _GRACE_S)
        watchdog.kill()
        watchdog.wait()
        os.environ.pop(processes.MARK)
        if outer is not None:
            os.environ[processes.MARK] = outer


@contextmanager
def notice() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM is a notice: the function says whether it came, and whoever asks can save what there is
    and raise SystemExit(NOTICED). One notice may come by several ways (a supervisor hands on what Ray has sent as well,
    a node that stops says it again), so more of them change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = signal.getsignal(signal.SIGTERM)

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the block as Ctrl-C does, so that everything is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
