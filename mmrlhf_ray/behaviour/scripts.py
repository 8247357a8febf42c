"""Functions of the user's that look at states: each runs in a process of its own, with a deadline."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmrlhf_ray.behaviour.segments import Recorded
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.child import Child, ChildFailed

State = Mapping[str, Any]
"""Of one step: `observation`, `action`, `facts`; arrays as lists."""
_PROGRAM = "mmrlhf_ray.behaviour.script_process"
_MEMORY_MB = 4096
_START_S = 60.0


class Script:
    """One function. Raises ConfigError, which names the key and the function, where it cannot be loaded, raises, says
    what cannot be sent, or does not answer in time. close() it."""

    def __init__(self, key: str, function: str, deadline_s: float) -> None:
        self._name, self._deadline_s = f"{key}={function}", deadline_s
        try:
            self._child = Child(_PROGRAM)
        except ChildFailed as error:
            raise ConfigError(f"{self._name}: {error}") from error
        try:
            self._asked({"function": function, "memory_mb": _MEMORY_MB}, _START_S)
        except ConfigError:
            self.close()
            raise

    def __call__(self, *arguments: Sequence[State]) -> Any:
        return self._asked({"arguments": arguments}, self._deadline_s).get("answer")

    def refuse(self, why: str) -> ConfigError:
        """An error that names the function."""
        return ConfigError(f"{self._name}: {why}")

    def close(self) -> None:
        """End the process."""
        self._child.end()

    def _asked(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            self._child.send(request)
            answer = self._child.receive(time.monotonic() + seconds)
        except ChildFailed as error:
            raise self.refuse(str(error)) from error
        if "failed" in answer:
            raise self.refuse(answer["failed"])
        return answer


def states_of(recorded: Recorded) -> list[State]:
    """The steps as scripts see them."""
    return [
        {
            "observation": {name: values[step].tolist() for name, values in recorded.segment.observations.items()},
            "action": recorded.segment.actions[step].tolist(),
            "facts": _plain(recorded.facts[step]),
        }
        for step in range(len(recorded.segment))
    ]


class Measure:
    """Figures of an episode by a function of the user's; none without one. Raises as Script does. close() it."""

    def __init__(self, function: str | None, deadline_s: float) -> None:
        self._script = None if function is None else Script("evaluation.measure", function, deadline_s)

    def __call__(self, recorded: Recorded) -> dict[str, float]:
        if self._script is None:
            return {}
        answer = self._script(states_of(recorded))
        if not isinstance(answer, dict) or not all(isinstance(v, int | float) for v in answer.values()):
            raise self._script.refuse(f"expected a dictionary of numbers, got {answer!r:.80}")
        return {name: float(value) for name, value in answer.items()}

    def close(self) -> None:
        """End the process."""
        if self._script is not None:
            self._script.close()


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
