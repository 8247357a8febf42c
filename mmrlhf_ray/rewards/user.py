"""Reward functions, each in its own process: one that hangs, dies or eats memory loses its numbers and nothing else."""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.config.rewards import FunctionReward
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.batch import OWN_COLUMNS, RewardBatch, prompt_text
from mmrlhf_ray.rewards.functions import BUILT_IN
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.sandbox.child import Child, ChildFailed

IMPORT_S = 60.0
"""How long a function's file may take to be imported when a run starts."""

_PROGRAM = "mmrlhf_ray.rewards.user_process"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a reward function."""

    name: str
    kind: str
    """As in `inspect.Parameter`: POSITIONAL_OR_KEYWORD, KEYWORD_ONLY, VAR_KEYWORD, …"""
    required: bool


def is_built_in(reward: FunctionReward) -> bool:
    """Whether the function is one of ours, not one in the user's file."""
    return ":" not in reward.function


class FunctionProcess:
    """Runs a reward function, the user's or a built-in one, in its own process.

    The process is killed with all that it started when an answer is not there by the deadline, on close(), and when
    our own process ends in whatever way. One that was killed is replaced for the next call. Not for several threads.
    """

    def __init__(self, reward: FunctionReward):
        self._reward = reward
        self._child: Child | None = None
        self._parameters: tuple[Parameter, ...] | None = None

    def start(self, seconds: float = IMPORT_S) -> tuple[Parameter, ...]:
        """Import the function; returns its parameters. Raises ConfigError when it cannot be imported."""
        try:
            return self._ready(time.monotonic() + seconds)
        except ChildFailed as error:
            self.close()
            reward = self._reward
            raise ConfigError(f"rewards: {reward.name}: {reward.function} cannot be imported: {error}") from None

    def score(self, batch: RewardBatch) -> ComponentScores:
        """Numbers of all rows, or why there are none, after `deadline_s` at most."""
        until = time.monotonic() + self._reward.deadline_s
        try:
            self._ready(until)
            child = self._running()
            child.send(_REQUESTS[self._reward.convention](self._reward, batch))
            reply = child.receive(until)
        except ChildFailed as error:
            self.close()
            with suppress(ChildFailed):  # the next call will say so
                self._running()  # so that its imports are done by the next call
            return ComponentScores.missing(len(batch), self._limits(str(error)))
        if "failed" in reply:
            return ComponentScores.missing(len(batch), self._limits(reply["failed"]))
        problems = (p and self._limits(p) for p in reply["problems"])
        return ComponentScores(tuple(reply["values"]), tuple(problems))

    def close(self) -> None:
        """Kill the process and all that it started."""
        if self._child is not None:
            self._child.end()
        self._child = self._parameters = None

    def _running(self) -> Child:
        if self._child is None:
            self._child = Child(_PROGRAM)
            reward = self._reward
            self._child.send(
                {"function": reward.function, "convention": reward.convention, "memory_mb": reward.memory_mb}
            )
        return self._child

    def _ready(self, until: float) -> tuple[Parameter, ...]:
        child = self._running()
        if self._parameters is None:
            reply = child.receive(until)
            if "failed" in reply:
                raise ChildFailed(reply["failed"])
            self._parameters = tuple(Parameter(*p) for p in reply["parameters"])
        return self._parameters

    def _limits(self, reason: str) -> str:
        """A reason with the limit that may be behind it."""
        for sign, limit in (
            ("deadline", f"deadline_s={self._reward.deadline_s:g}"),
            ("MemoryError", f"memory_mb={self._reward.memory_mb}"),
            ("ended by SIG", f"memory_mb={self._reward.memory_mb}"),
        ):
            if sign in reason:
                return f"{reason} ({limit})"
        return reason


def _trl_request(reward: FunctionReward, batch: RewardBatch) -> Mapping[str, Any]:
    prompts: Any = batch.prompts
    completions: Any = [[{"role": "assistant", "content": text}] for text in batch.completions]
    if not reward.conversational:
        prompts, completions = [prompt_text(p) for p in batch.prompts], batch.completions
    return {
        "prompts": prompts,
        "completions": completions,
        "columns": {name: batch.columns[name] for name in _columns_read(reward, batch.columns)},
        "arguments": reward.arguments,
    }


def _columns_read(reward: FunctionReward, columns: Iterable[str]) -> list[str]:
    """Arguments come before columns of the same name. Built-in functions read one column, the one that `key` names,
    and what they name themselves; a column is never taken for one of their options."""
    if not is_built_in(reward):
        return [name for name in columns if name not in reward.arguments]
    own = inspect.signature(BUILT_IN[reward.function]).parameters
    key = reward.arguments.get("key", own["key"].default) if "key" in own else None
    return [name for name in columns if name == key or (name in own and name in OWN_COLUMNS)]


def _verl_request(reward: FunctionReward, batch: RewardBatch) -> Mapping[str, Any]:
    rows = []
    for i, (text, task) in enumerate(zip(batch.completions, batch.tasks, strict=True)):
        row = {name: values[i] for name, values in batch.columns.items()}
        rows.append(
            {
                "data_source": row.get("data_source") or task,
                "solution_str": text,
                "ground_truth": row.get(reward.ground_truth),
                "extra_info": row,
            }
        )
    return {"rows": rows, "arguments": reward.arguments}


_REQUESTS: Mapping[str, Callable[[FunctionReward, RewardBatch], Mapping[str, Any]]] = {
    "trl": _trl_request,
    "verl": _verl_request,
}
