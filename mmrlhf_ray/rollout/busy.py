"""How long actors had something to do."""

import time


class Busy:
    """Several like actors, each of which is at work on any number of things at a time."""

    def __init__(self, actors: int):
        self._at_work = [0] * actors
        self._since = [0.0] * actors
        self._seconds = 0.0

    def start(self, actor: int) -> None:
        """An actor was given something more to do."""
        if not self._at_work[actor]:
            self._since[actor] = time.monotonic()
        self._at_work[actor] += 1

    def end(self, actor: int) -> None:
        """An actor has done one of the things that it was given."""
        self._at_work[actor] -= 1
        if not self._at_work[actor]:
            self._seconds += time.monotonic() - self._since[actor]

    def drain(self, actors: int) -> float:
        """Seconds that an actor was at work since the last call, on average over so many of them."""
        now = time.monotonic()
        seconds, self._seconds = self._seconds, 0.0
        for actor, busy in enumerate(self._at_work):
            if busy:
                seconds += now - self._since[actor]
                self._since[actor] = now
        return seconds / max(1, actors)
