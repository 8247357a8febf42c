"""A run's directory: made, claimed, and described."""

import fcntl
import logging
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mmrlhf_ray.config import RunConfig, save_config
from mmrlhf_ray.disk import problem
from mmrlhf_ray.errors import KnownError, RunError, RunFailed, UserError, first_line, known_error

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
TRACE_FILE = "error.txt"


@contextmanager
def run_directory(cfg: RunConfig, resume: bool = False) -> Iterator[Path]:
    """The run's directory on this machine with the resolved configuration. One process at a time may write to it. With
    `resume` the configuration in it stays until begin() has compared the two. Where `output_dir` is a URL all of it is
    uploaded behind the block, as mirrored() says. A block that ends well leaves the report of its run.

    Raises RunError where another one does or it cannot be written. An error in the block that is not the user's leaves
    its trace in TRACE_FILE; one that is not known becomes a RunFailed.
    """
    path = cfg.run_dir
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((path / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not resume:
                save_config(cfg, path / CONFIG_FILE)
        except BlockingIOError:
            raise RunError(
                f"{path}: another process is writing to this run; wait for it or choose another name"
            ) from None
        except OSError as error:
            reason = problem(error, path) or f"cannot write to {path}: {error.strerror}; choose another"
            raise RunError(f"output_dir: {reason}") from error
        if cfg.run_url is not None:
            from mmrlhf_ray.runtime.mirror import mirrored  # imports Ray, which a command without a run need not

            stack.enter_context(mirrored(path, cfg.run_url, resume, cfg.deadlines.stage_s))
        try:
            yield path
        except Exception as error:
            _keep_trace(error, path / TRACE_FILE)
            if known_error(error):
                raise
            raise RunFailed(problem(error, _file_of(error, path)) or _told(error)) from error
        _write_report(path)


def _write_report(path: Path) -> None:
    """Curves and responses as one file; what keeps it from being written takes nothing from the run, which is done."""
    from mmrlhf_ray.pipelines.runs.show import REPORT_FILE, write_report  # jinja, which a refused run need not wait for

    try:
        write_report([path], path / REPORT_FILE)
    except (KnownError, OSError, ValueError) as error:
        logger.warning("no report on the run: %s; try again with: mmrlhf report %s", first_line(error), path)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _file_of(error: Exception, path: Path) -> Path:
    """The file that an error is about, where it names one."""
    return Path(error.filename) if isinstance(error, OSError) and isinstance(error.filename, str) else path


def _keep_trace(error: Exception, file: Path) -> None:
    """Write the traceback of a failure, and say where; an error of the user's needs none."""
    if isinstance(known_error(error), UserError):
        return
    text = "".join(traceback.format_exception(error))
    for place in (file, Path(tempfile.gettempdir()) / f"mmrlhf-{os.getpid()}-{file.name}"):
        try:
            place.write_text(text, encoding="utf-8")
        except OSError:  # a full disk may be what it failed of
            with suppress(OSError):
                place.unlink(missing_ok=True)  # a trace that is cut off
            continue
        error.add_note(f"the full trace is in {place}")
        return
    error.add_note(f"the trace could not be written, neither to {file} nor below {tempfile.gettempdir()}")
