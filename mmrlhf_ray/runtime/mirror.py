"""A run's directory on object storage: uploaded behind the run, and taken from there by --resume.

The directory on this machine is the truth: a thread looks at it every few seconds and brings what is new to the URL. A
checkpoint's manifest and a model's config.json go last, so that neither is there before all of its files are.
"""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
from fsspec import AbstractFileSystem

from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import ConfigError, DeadlineExceeded, KnownError, RunError, RunFailed, first_line
from mmrlhf_ray.runtime.waits import in_background
from mmrlhf_ray.training.checkpoint import MANIFEST, newest_complete, newest_step

logger = logging.getLogger(__name__)

T = TypeVar("T")
_EVERY_S = 10.0
_RETRIES_S = (1.0, 4.0)
_LONGEST_WAIT_S = 120.0
_POLL_S = 0.1
_CHECKPOINTS = "checkpoints"
_CONFIG = "config.json"
_SETTINGS = "config.yaml"
_FETCHED = ".fetched"
_ONLY_HERE = ("ray_train", "tune")
"""Directories of Ray's own."""

Version = tuple[int, int]
"""Size and time of change of a file."""


def storage(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. Raises ConfigError for a protocol that is not known, or whose
    package is not installed, which the message names."""
    options = {"auto_mkdir": True} if url.startswith(("file://", "local://")) else {}
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"output_dir={url}: {first_line(error)}; install that package, or give a directory or another URL"
        ) from error
    return fs, path.rstrip("/")


@contextmanager
def mirrored(run_dir: Path, url: str, resume: bool, patience_s: float, every_s: float = _EVERY_S) -> Iterator[None]:
    """Upload `run_dir` to `url` behind the block, and the rest of it at the end, however the block ends.

    With `resume` the newest complete checkpoint of the URL is brought here first, with the metrics and all else, where
    this machine has an older one or none. Each wait ends after `patience_s` in which nothing moved.

    Raises RunError where the URL cannot be written to, or holds checkpoints and `resume` is not given; RunFailed where
    not everything could be uploaded, with where it lies.
    """
    mirror = Mirror(run_dir, url)
    _patiently(mirror, mirror.check, patience_s, f"reaching {url}")
    if resume:
        _patiently(mirror, mirror.fetch, patience_s, f"downloading the newest checkpoint from {url}")
    elif (step := _patiently(mirror, mirror.newest, patience_s, f"looking into {url}")) is not None:
        raise RunError(
            f"{url}: there are checkpoints of an earlier run, up to step {step}: --resume continues from them; else "
            "choose another name, or remove them"
        )
    else:
        mirror.leave_out()
    ending = threading.Event()
    behind = in_background(lambda: _keep_up(mirror, ending, every_s))
    try:
        yield
    except KeyboardInterrupt:
        raise  # what is there was uploaded a moment ago
    except BaseException as error:
        ending.set()
        if unsent := _finished(mirror, behind, patience_s):
            error.add_note(unsent)
        raise
    ending.set()
    if unsent := _finished(mirror, behind, patience_s):
        raise RunFailed(unsent)
    logger.warning("uploaded to %s", url)


class Mirror:
    """What is at the URL, and what was brought there."""

    def __init__(self, run_dir: Path, url: str):
        self._run_dir, self._url = run_dir, url
        self._fs, self._root = storage(url)
        self._sent: dict[str, Version] = {}
        self.moved = time.monotonic()
        """When the last file arrived."""
        self.trouble = ""
        """Why the last attempt failed."""
        self.given_up = False

    @property
    def url(self) -> str:
        return self._url

    @property
    def run_dir(self) -> Path:
        return self._run_dir

    def check(self) -> None:
        """Write and remove a small file. Raises RunError where that fails."""
        probe = self._at(".probe")
        try:
            self._fs.pipe_file(probe, b"probe")
            self._fs.rm_file(probe)
        except Exception as error:
            raise RunError(
                f"output_dir: cannot write to {self._url}: {_told(error)}; check the address and the credentials of "
                "this process"
            ) from error

    def newest(self) -> int | None:
        """Step of the newest checkpoint that is complete at the URL; None where there is none."""
        return max(self._complete(), default=None)

    def fetch(self) -> None:
        """Bring here the newest complete checkpoint and all else but older ones, unless this machine has that step or a
        later one. Checkpoints that arrive damaged are passed over. Raises RunError where all are."""
        here, damaged = newest_step(self._run_dir), list[str]()
        for step in sorted(self._complete(), reverse=True):
            if here is not None and step <= here:
                return
            name = f"{_CHECKPOINTS}/step-{step:08d}"
            if self._arrives(name):
                logger.warning("step %d was taken from %s", step, self._url)
                return
            damaged.append(f"{self._url}/{name} is damaged: its files are not those that its manifest names")
            logger.warning("%s", damaged[-1])
        if damaged and here is None:
            raise RunError("no checkpoint can be resumed from:\n  " + "\n  ".join(damaged))

    def _arrives(self, checkpoint: str) -> bool:
        """Whether it did as its manifest says; nothing else is left of a download that failed."""
        apart = self._run_dir / _FETCHED
        try:
            with writing(self._run_dir, "work_dir"):
                return self._fetch(checkpoint, apart)
        finally:
            shutil.rmtree(apart, ignore_errors=True)

    def _fetch(self, checkpoint: str, apart: Path) -> bool:
        """Download into `apart`, from where all is moved to its place, the checkpoint last."""
        shutil.rmtree(apart, ignore_errors=True)
        try:
            for file in (*json.loads(self._fs.cat_file(self._at(checkpoint, MANIFEST)))["files"], MANIFEST):
                self._get(f"{checkpoint}/{file}", apart / checkpoint / file)
            newest_complete(apart)
        except (RunError, FileNotFoundError):
            return False
        for path in self._fs.find(self._root):
            name = PurePosixPath(path).relative_to(self._root).as_posix()
            if _travels(name):
                self._get(name, apart / name)
                (self._run_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (apart / name).replace(self._run_dir / name)
        (self._run_dir / _CHECKPOINTS).mkdir(exist_ok=True)
        (apart / checkpoint).replace(self._run_dir / checkpoint)
        return True

    def leave_out(self) -> None:
        """All that lies here is of an earlier run, but for the configuration."""
        files = [file for file in self._run_dir.rglob("*") if file.is_file()]
        self._sent = {self._name(file): _version(file) for file in files if self._name(file) != _SETTINGS}

    def bring(self) -> None:
        """Upload what is new, and remove checkpoints that are no longer kept. Raises what the storage raises."""
        steps = _published(self._run_dir)  # listed first: the metrics that follow go at least as far
        self._bring_files()
        for step in steps:
            self._bring_checkpoint(step)
        if steps and all(self._is_sent(step) for step in _published(self._run_dir)[-1:]):
            self._remove_others({step.name for step in _published(self._run_dir)})

    def _bring_files(self) -> None:
        """All but checkpoints."""
        files = [file for file in sorted(self._run_dir.rglob("*")) if file.is_file() and _travels(self._name(file))]
        new = [file for file in files if self._is_new(file)]
        for file in new:
            if file.name == _CONFIG:  # no model before all of it is there
                self._remove_file(self._name(file))
        for file in sorted(new, key=lambda file: file.name == _CONFIG):
            self._put(file)

    def _bring_checkpoint(self, step: Path) -> None:
        """Nothing happens to one that is there; one that goes away meanwhile is left half there, without a manifest."""
        described = step / MANIFEST
        try:
            content = described.read_bytes()
        except FileNotFoundError:
            return
        if self._is_sent(step):
            return
        target = self._at(_CHECKPOINTS, step.name, MANIFEST)
        if self._fs.exists(target) and self._fs.cat_file(target) == content:
            self._sent[self._name(described)] = _version(described)
            return
        self._remove_file(self._name(described))
        if all(self._put(step / file) for file in json.loads(content)["files"]):
            self._put(described)

    def _remove_others(self, kept: set[str]) -> None:
        for name in self._steps() - kept:
            self._remove_file(f"{_CHECKPOINTS}/{name}/{MANIFEST}")
            self._fs.rm(self._at(_CHECKPOINTS, name), recursive=True)
            self.moved = time.monotonic()

    def _complete(self) -> set[int]:
        names = {name for name in self._steps() if self._fs.exists(self._at(_CHECKPOINTS, name, MANIFEST))}
        return {int(name.removeprefix("step-")) for name in names}

    def _steps(self) -> set[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._at(_CHECKPOINTS), detail=False)
        except FileNotFoundError:
            return set()
        names = {PurePosixPath(path.rstrip("/")).name for path in found}
        return {name for name in names if name.startswith("step-") and name.removeprefix("step-").isdigit()}

    def _put(self, file: Path) -> bool:
        """Whether the file was still there to be uploaded."""
        try:
            version = _version(file)
            self._fs.put_file(str(file), self._at(self._name(file)))
        except FileNotFoundError:
            if file.exists():
                raise
            return False
        self._sent[self._name(file)] = version
        self.moved = time.monotonic()
        return True

    def _get(self, name: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(self._at(name), str(file))
        self.moved = time.monotonic()

    def _remove_file(self, name: str) -> None:
        if self._fs.exists(self._at(name)):
            self._fs.rm_file(self._at(name))

    def _is_sent(self, step: Path) -> bool:
        return not self._is_new(step / MANIFEST)

    def _is_new(self, file: Path) -> bool:
        try:
            return self._sent.get(self._name(file)) != _version(file)
        except FileNotFoundError:
            return False

    def _name(self, file: Path) -> str:
        return file.relative_to(self._run_dir).as_posix()

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *names))


def _published(run_dir: Path) -> list[Path]:
    return sorted(path.parent for path in (run_dir / _CHECKPOINTS).glob(f"step-*/{MANIFEST}"))


def _travels(name: str) -> bool:
    """Whether a file, by its name below the run's directory, is uploaded as it is."""
    parts = PurePosixPath(name).parts
    ours = parts[0] == _CHECKPOINTS or parts[0] in _ONLY_HERE or parts[0].endswith(".previous")
    return not ours and not any(part.startswith(".") or part.endswith(".partial") for part in parts)


def _version(file: Path) -> Version:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _keep_up(mirror: Mirror, ending: threading.Event, every_s: float) -> None:
    """Bring what is new again and again, and once more when `ending` is set, until that succeeds."""
    wait_s = every_s
    while not mirror.given_up:
        last = ending.wait(wait_s)
        try:
            mirror.bring()
        except Exception as error:  # noqa: BLE001  each storage has its own; all are told, and tried again
            mirror.trouble = _told(error)
            logger.warning("uploading to %s failed and will be tried again: %s", mirror.url, mirror.trouble)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            if last:
                time.sleep(every_s)
        else:
            mirror.trouble, wait_s = "", every_s
            if last:
                return


def _finished(mirror: Mirror, behind: "Future[None]", patience_s: float) -> str:
    """Wait until all is uploaded. "" if it is, else what became of it."""
    if _moves(mirror, behind, patience_s) and behind.exception() is None:
        return ""
    mirror.given_up = True
    why = mirror.trouble or (str(behind.exception()) if behind.done() else f"nothing moved for {patience_s:g} s")
    return f"{mirror.url}: not everything was uploaded: {why}; it lies in {mirror.run_dir}, and --resume uploads it"


def _patiently(mirror: Mirror, call: Callable[[], T], patience_s: float, what: str) -> T:
    """`call()`, again where it fails. Raises a KnownError of its own, else RunFailed; DeadlineExceeded."""
    for wait_s in (*_RETRIES_S, None):
        asked = in_background(call)
        if not _moves(mirror, asked, patience_s):
            raise DeadlineExceeded(f"{what}: nothing moved for {patience_s:g} s; raise deadlines.stage_s if it is slow")
        error = asked.exception()
        if error is None:
            return asked.result()
        if wait_s is None or isinstance(error, RunFailed):
            raise error if isinstance(error, KnownError) else RunFailed(f"{what}: {_told(error)}") from error
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _moves(mirror: Mirror, asked: "Future[Any]", patience_s: float) -> bool:
    """Wait while files arrive. Whether it came to its end."""
    mirror.moved = time.monotonic()
    while not asked.done():
        wait([asked], _POLL_S)
        if time.monotonic() - mirror.moved > patience_s:
            return False
    return True


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
