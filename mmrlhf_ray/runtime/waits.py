"""Waiting for Ray with a deadline, and saying who did not answer."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, overload

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayError,
    RayTaskError,
)

from mmrlhf_ray.errors import DeadlineExceeded, EngineDied, KnownError, RoleFailed, RunFailed, Unreachable, first_line

T = TypeVar("T")
STORE_FULL = (OutOfDiskError, ObjectStoreFullError)
"""What Ray raises where an object finds room neither in the object store nor on the disk that it spills to."""
NO_ROOM = (
    "the object store is full, and so is the disk that it spills to: Ray's temporary directory, in /tmp unless "
    "`ray start --temp-dir` says otherwise, where Ray uses 95 % at most; free some there, or have a larger /dev/shm "
    "(a container's --shm-size)"
)
_OURS = re.compile(r"^mmrlhf_ray\.errors\.(?P<kind>\w+): ", re.MULTILINE)
_RAYS_NAMES = ("class_name:", "actor_id:", "name:", "namespace:")
"""Starts of lines that say what the message says in our words."""


@overload
def deadline_get(refs: "ray.ObjectRef[T]", seconds: float, what: str, names: Sequence[str] | None = None) -> T: ...


@overload
def deadline_get(
    refs: Sequence["ray.ObjectRef[T]"], seconds: float, what: str, names: Sequence[str] | None = None
) -> list[T]: ...


def deadline_get(
    refs: "ray.ObjectRef[T] | Sequence[ray.ObjectRef[T]]", seconds: float, what: str, names: Sequence[str] | None = None
) -> T | list[T]:
    """`ray.get(refs)` that gives up after `seconds`.

    what: the stage, for messages. names: who answers each of `refs`; without, Ray is asked.
    The first failure is raised at once, although others may still be at work (they may be waiting for the failed one).

    Raises DeadlineExceeded naming the stage and who did not answer; the remote code's own error where it is a
    KnownError; RoleFailed where it raised anything else, an actor died or an object was lost; Unreachable.
    """
    if isinstance(refs, ray.ObjectRef):
        return deadline_get([refs], seconds, what, names)[0]
    wanted = list(refs)
    until = time.monotonic() + seconds
    answers: dict[ray.ObjectRef, Any] = {}
    while waiting := [ref for ref in wanted if ref not in answers]:
        ready, _ = ray.wait(waiting, num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            silent = sorted({_who(wanted.index(ref), ref, names) for ref in waiting})
            raise DeadlineExceeded(
                f"{what}: no answer within {seconds:g} s from {', '.join(silent)} "
                f"({len(answers)} of {len(wanted)} answered); raise the deadline in `deadlines` if this is expected"
            )
        ref = ready[0]
        answers[ref] = _get(ref, until, seconds, what, lambda ref=ref: _who(wanted.index(ref), ref, names))
    return [answers[ref] for ref in wanted]


def in_background(call: Callable[[], T]) -> Future[T]:
    """`call()` in a separate thread, for calls that block and take no deadline: wait for the future instead.

    The future holds whatever the call raises. The thread is a daemon, so a call that never returns does not keep the
    process alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  handed to whoever waits for the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def unwrap(error: BaseException) -> BaseException:
    """The exception that the remote code raised, where `error` is Ray's wrapping of it."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def role_error(error: BaseException, what: str, who: str) -> KnownError:
    """How `error`, which came in the place of an answer, is told.

    The remote code's own error where it is a KnownError, else RoleFailed. what: the stage. who: whose answer it was.
    """
    cause = unwrap(error)
    if isinstance(cause, EngineDied):
        return RoleFailed(f"{what}: {who}: {cause}")
    if isinstance(cause, KnownError):
        return cause
    if isinstance(cause, STORE_FULL):
        return RunFailed(f"{what}: {who}: {NO_ROOM}")
    if isinstance(error, ActorUnavailableError):
        return Unreachable(
            f"{what}: {who} cannot be reached; its node, or the network to it, was gone at least for a moment: "
            f"{_reason(error)}"
        )
    if isinstance(error, RayActorError):
        return _raised_at_its_start(str(error)) or RoleFailed(f"{what}: {who} died: {_reason(error)}")
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return RoleFailed(f"{what}: the answer of {who} was lost: {_reason(error)}")
    return RoleFailed(f"{what}: {who} raised {type(cause).__name__}: {first_line(cause)}")


def _get(ref: ray.ObjectRef, until: float, seconds: float, what: str, who: Any) -> Any:
    try:
        return ray.get(ref, timeout=max(1.0, until - time.monotonic()))
    except GetTimeoutError as error:
        raise DeadlineExceeded(f"{what}: the answer of {who()} did not arrive within {seconds:g} s") from error
    except RayError as error:
        raise role_error(error, what, who()) from error


def _raised_at_its_start(text: str) -> KnownError | None:
    """Of an actor's death in its constructor Ray keeps the traceback only; our own errors are read from it."""
    kinds = {kind.__name__: kind for kind in _kinds(KnownError)}
    found = list(_OURS.finditer(text))
    kind = kinds.get(found[-1]["kind"]) if found else None
    return None if kind is None else kind(text[found[-1].end() :].strip())


def _kinds(kind: type[KnownError]) -> Iterator[type[KnownError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _reason(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return lines[-1]  # the last line of the remote traceback names the exception
    told = [line for line in lines if not line.startswith(_RAYS_NAMES)]
    return " ".join(told).partition(" Some common causes include")[0]


def _who(index: int, ref: ray.ObjectRef, names: Sequence[str] | None) -> str:
    if names is not None:
        return names[index]
    actor_id = ref.task_id().actor_id()
    if actor_id.is_nil():
        return f"task {ref.task_id().hex()}"
    info = ray._private.state.actors(actor_id.hex())
    name = info.get("Name") if info else None
    return name or f"{info.get('ActorClassName', 'actor') if info else 'actor'} {actor_id.hex()}"
