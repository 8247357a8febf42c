"""The watch over a fleet's actors: who dies is started again by Ray, who is silent is ended first, and it is told.

Ray starts an actor again on its seat, or on another node's where its own is gone, under the same name and handle, and
sends what was asked of it once more where that can be repeated. What Ray does not see is an actor that no longer does
anything; what it does not know is when to stop.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import ray
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import RayActorError, RayError

from mmrlhf_ray.config.base import RecoveryConfig
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed, first_line
from mmrlhf_ray.runtime.waits import unwrap

logger = logging.getLogger(__name__)
_LOOK_S = 0.5
_LONGEST_LOOK_S = 2.0
"""What counts as waiting between two looks, at most: a driver that was stopped must not take all others for silent."""
_BEATS = 4
"""Signs of life that are asked for within the time that one may take."""
_HOUR_S = 3600.0


@dataclass
class _Watched:
    name: str
    handle: ActorProxy[Any]
    beat: Callable[[], "ray.ObjectRef[Any]"]
    """Asks for a sign of life."""
    restarts: int = 0
    asked: "ray.ObjectRef[Any] | None" = None
    """The sign of life that is waited for."""
    since: float = float("-inf")
    """When it was asked for."""
    wanted: bool = False
    """Somebody waits for one."""
    waited: float = 0.0
    """Seconds that it was waited for; only those in which this process was itself at work."""
    heard: float = float("-inf")
    """When that sign of life was asked for which came last."""
    lost: float | None = None
    """When it was found dead or silent; None = it is at work."""
    deaths: deque[float] = field(default_factory=deque)
    """Of the last hour."""
    meant: bool = False
    """It was ended on purpose."""
    over: bool = False
    """It is not started again any more."""

    @property
    def at_work(self) -> bool:
        """It was heard of, and nothing is known against it since."""
        return self.heard > float("-inf") and self.lost is None and not self.over


class Watch:
    """Context manager. The block sees an actor's death as the failure of what it asked that actor for.

    An actor that dies before it was heard of once has a fault that another start would not remedy: it is left dead.
    """

    def __init__(self, recovery: RecoveryConfig):
        self._recovery = recovery
        self._watched: dict[str, _Watched] = {}
        self._changed, self._ended = threading.Condition(), False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep_looking, name="watch", daemon=True)

    def add(self, name: str, handle: ActorProxy[Any], beat: Callable[[], "ray.ObjectRef[Any]"]) -> None:
        """Watch an actor. beat: asks it for something that it answers at once, whatever it is at work on."""
        with self._changed:
            self._watched[name] = _Watched(name, handle, beat)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def actors(self) -> dict[str, str]:
        """Hexadecimal actor id → name of everyone who is watched."""
        with self._changed:
            return {_actor_id(own.handle): own.name for own in self._watched.values()}

    @property
    def starts_again(self) -> bool:
        """Whether anybody is started again at all."""
        return self._recovery.max_restarts > 0

    def restarts(self, names: Collection[str]) -> int:
        """How often these actors were started again."""
        with self._changed:
            return sum(self._watched[name].restarts for name in names)

    def at_work(self, names: Collection[str]) -> list[str]:
        """Those of these actors that were heard of and are not known to be dead or silent."""
        with self._changed:
            return [name for name in names if self._watched[name].at_work]

    def wait(self, names: Collection[str], seconds: float, at_least: int | None = None) -> list[str]:
        """Until all of these actors have given a sign of life that was asked for after now; with `at_least`, until so
        many have, and of the others it is known that they are dead, silent or yet to start. Returns who has.

        Raises RoleFailed where too many are not started again any more, DeadlineExceeded.
        """
        now = time.monotonic()
        with self._changed:
            for name in names:
                self._watched[name].wanted = True
        return self._wait_for(names, lambda own: own.heard > now, now + seconds, at_least)

    def start_again(self, names: Collection[str], seconds: float) -> None:
        """End these actors and wait until they have been started again. Raises as wait()."""
        with self._changed:
            before = {name: self._watched[name].restarts for name in names}
            for name in names:
                self._watched[name].meant = True
                self._kill(self._watched[name])
        until = time.monotonic() + seconds
        self._wait_for(names, lambda own: own.restarts > before[own.name] and own.lost is None, until)

    def _wait_for(
        self, names: Collection[str], there: Callable[[_Watched], bool], until: float, at_least: int | None = None
    ) -> list[str]:
        start, wanted = time.monotonic(), [self._watched[name] for name in names]
        enough = len(wanted) if at_least is None else at_least
        with self._changed:
            while True:
                found, missing = [own.name for own in wanted if there(own)], [own for own in wanted if not there(own)]
                if len(found) >= enough and not any(own.at_work for own in missing):
                    return found
                if self._error is not None:
                    raise RoleFailed(f"nobody looks after the actors: {first_line(self._error)}") from self._error
                gone = [own.name for own in missing if own.over]
                if len(wanted) - len(gone) < enough:
                    raise RoleFailed(f"{', '.join(gone)}: dead, and not started again; see above")
                if time.monotonic() > until:
                    raise DeadlineExceeded(
                        f"starting again: no sign of life within {until - start:.0f} s from "
                        f"{', '.join(own.name for own in missing)}; raise deadlines.start_s if this is expected"
                    )
                self._changed.wait(_LOOK_S)

    def _keep_looking(self) -> None:
        try:
            last = time.monotonic()
            while not self._ended:
                now = time.monotonic()
                passed, last = min(now - last, _LONGEST_LOOK_S), now
                for own in list(self._watched.values()):
                    self._look_after(own, passed)
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, _LOOK_S)
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            self._error = error
            logger.warning("nobody looks after the actors any more: %s: %s", type(error).__name__, first_line(error))

    def _look_after(self, own: _Watched, passed: float) -> None:
        restarts, state = _state(own.handle)
        with self._changed:
            if not self._ended and not own.over:
                self._look(own, restarts, state, passed)
            self._changed.notify_all()

    def _look(self, own: _Watched, restarts: int, state: str, passed: float) -> None:
        now, own.waited = time.monotonic(), own.waited + passed
        if restarts > own.restarts:
            own.restarts = restarts
            self._died(own, now)
        if state == "DEAD":
            own.over = True
        elif state != "ALIVE":
            own.asked = None
        elif own.asked is None:
            if own.wanted or own.lost is not None or now - own.since > self._recovery.silent_s / _BEATS:
                own.asked, own.since, own.wanted, own.waited = own.beat(), now, False, 0.0
        elif ray.wait([own.asked], timeout=0)[0]:
            self._answered(own, own.asked, now)
        elif own.waited > self._recovery.silent_s and own.heard > float("-inf"):  # who starts it has a deadline
            if own.lost is None:  # else it cannot be reached: Ray ends it as soon as it can
                logger.warning("%s gave no sign of life for %.0f s", own.name, own.waited)
            self._kill(own)

    def _answered(self, own: _Watched, asked: "ray.ObjectRef[Any]", now: float) -> None:
        own.asked = None
        try:
            ray.get([asked])
        except RayActorError:  # it died, or cannot be reached: Ray's next state says which
            return
        except RayError as error:
            logger.warning("%s: %s", own.name, first_line(unwrap(error)))
            self._kill(own)
            return
        own.heard = own.since
        if own.lost is not None:
            logger.warning("%s is back after %.1f s", own.name, now - own.lost)
            own.lost = None

    def _died(self, own: _Watched, now: float) -> None:
        own.asked, own.lost = None, own.lost or now
        if own.meant:
            own.meant = False
            return
        own.deaths.append(now)
        while own.deaths[0] < now - _HOUR_S:
            own.deaths.popleft()
        most = self._recovery.max_restarts
        if own.heard == float("-inf"):
            self._end(own, "died while it started")
        elif len(own.deaths) > most:
            self._end(own, f"died {len(own.deaths)} times within an hour, more than recovery.max_restarts={most}")
        else:
            logger.warning("%s died and is started again (%d of %d within an hour)", own.name, len(own.deaths), most)

    def _kill(self, own: _Watched) -> None:
        own.asked, own.lost = None, own.lost or time.monotonic()
        ray.kill(cast(ActorHandle[Any], own.handle), no_restart=False)

    def _end(self, own: _Watched, why: str) -> None:
        logger.warning("%s %s; it is not started again", own.name, why)
        own.over = True
        ray.kill(cast(ActorHandle[Any], own.handle))


def _state(handle: ActorProxy[Any]) -> tuple[int, str]:
    """How often Ray started the actor again, and what it is now: ALIVE, RESTARTING, DEAD or on its way."""
    info = ray._private.state.actors(_actor_id(handle))
    return (info["NumRestarts"], info["State"]) if info else (0, "PENDING_CREATION")


def _actor_id(handle: ActorProxy[Any]) -> str:
    return str(cast(ActorHandle[Any], handle)._actor_id.hex())
