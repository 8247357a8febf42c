"""What a function of the user's says of an environment, after each of its steps and within a deadline."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from mmrlhf_ray.behaviour.segments import Facts
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.inside import load_function

_Said = tuple[Facts | None, BaseException | None]


class FactsOf:
    """Asks `environment.facts`. It needs the environment itself, which cannot leave its process, so it runs in a thread
    there: one that no one waits for at the end, so that a function that hangs ends the run and does not keep it.

    Raises ConfigError where the function does not answer in time, and whatever it raises.
    """

    def __init__(self, function: str, deadline_s: float) -> None:
        self._name, self._deadline_s = f"environment.facts={function}", deadline_s
        self._function: Callable[[Any], Facts] = load_function(function)
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, environment: object) -> Facts:
        if self._thread is None:
            self._thread = threading.Thread(target=self._answer, name="facts", daemon=True)
            self._thread.start()
        self._asked.put(environment)
        try:
            facts, error = self._said.get(timeout=self._deadline_s)
        except queue.Empty:
            raise ConfigError(
                f"{self._name}: no answer within environment.facts_s={self._deadline_s:g} s; make it faster, or raise "
                "that"
            ) from None
        if error is not None:
            raise error
        assert facts is not None
        return facts

    def close(self) -> None:
        """End the thread, unless the function hangs in it."""
        self._asked.put(None)

    def _answer(self) -> None:
        while (environment := self._asked.get()) is not None:
            try:
                self._said.put((self._function(environment), None))
            except BaseException as error:  # noqa: BLE001  raised where it was asked
                self._said.put((None, error))
