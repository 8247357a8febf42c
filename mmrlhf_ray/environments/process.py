"""The process that environments run in: a module that `sandbox.child.Child` starts, one JSON object per line.

    {"config", "limits"}                                   → {"schemas": […]}
    {"do": "reset", "episode", "start", "shown": […]}      → {"observation": […]}
    {"do": "step", "episode", "response"}                  → {"step": {…}}
    {"do": "close", "episode"}                             → {}
    {"do": "check"}                                        → {}

or {"failed": why}. `shown` are the clips that observations of the episode have shown before, in another process.
"""

import gc
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TextIO

from PIL import Image
from pydantic import TypeAdapter

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.config.environment import (
    EnvironmentConfig,
    GymnasiumEnvironment,
    HttpEnvironment,
    PythonEnvironment,
    ToolsEnvironment,
)
from mmrlhf_ray.environments.parts import CannotShow, bounded
from mmrlhf_ray.environments.protocol import Environment, EpisodeFailed, Part, Shown
from mmrlhf_ray.environments.wire import parts_from_json, parts_to_json, start_from_json, step_to_json
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.inside import converse, limit_growth, report, send

Reply = dict[str, Any]
_RELOADED: TypeAdapter[EnvironmentConfig] = TypeAdapter(EnvironmentConfig)


@dataclass(frozen=True)
class Kind:
    """How environments of a configuration are made."""

    make: Callable[[list[Shown]], Environment]
    """Takes the clips shown so far, to which later ones are added."""
    check: Callable[[], None]
    """Makes sure before the start that it can work."""
    schemas: list[dict[str, Any]]
    """Of its tools."""


@dataclass
class _Live:
    environment: Environment
    shown: list[Shown]
    """Clips of the prompt, then of observations."""
    of_prompt: int


def load(config: EnvironmentConfig, limits: MediaLimits) -> Kind:
    """Import what the configuration names. Raises ConfigError, and whatever a user's file raises."""
    if isinstance(config, ToolsEnvironment):
        return _tools(config, limits)
    if isinstance(config, PythonEnvironment):
        return _users(config)
    return _gymnasium(config) if isinstance(config, GymnasiumEnvironment) else _server(config)


def _tools(config: ToolsEnvironment, limits: MediaLimits) -> Kind:
    from mmrlhf_ray.environments.tool_environment import ToolEnvironment
    from mmrlhf_ray.environments.tools import load_tools

    tools = load_tools(config)
    schemas = [tool.schema for tool in tools.values()]
    return Kind(lambda shown: ToolEnvironment(config, tools, limits, shown), lambda: None, schemas)


def _users(config: PythonEnvironment) -> Kind:
    from mmrlhf_ray.environments.user import UserEnvironment, load_class

    own = load_class(config)
    return Kind(lambda _: UserEnvironment(own, config), lambda: None, [])


def _gymnasium(config: GymnasiumEnvironment) -> Kind:
    from mmrlhf_ray.environments.gym import GymEnvironment, try_environment

    return Kind(lambda _: GymEnvironment(config), lambda: try_environment(config), [])


def _server(config: HttpEnvironment) -> Kind:
    from mmrlhf_ray.environments.http import ServerEnvironment, check_server

    return Kind(lambda _: ServerEnvironment(config), lambda: check_server(config), [])


class Episodes:
    """The episodes of this process."""

    def __init__(self, config: EnvironmentConfig, limits: MediaLimits, kind: Kind):
        self._config, self._limits, self._kind = config, limits, kind
        self._live: dict[str, _Live] = {}

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """The reply to one request. Raises whatever the environment raises."""
        what = request["do"]
        if what == "check":
            self._kind.check()
            return {}
        name = request["episode"]
        if what == "reset":
            return self._reset(name, request)
        if what == "step":
            return self._step(self._live[name], request["response"])
        live = self._live.pop(name, None)
        if live is not None:
            live.environment.close()
        return {}

    def _reset(self, name: str, request: Mapping[str, Any]) -> Reply:
        start = start_from_json(request["start"])
        before = [part for part in parts_from_json(request["shown"]) if isinstance(part, Shown)]
        shown = [*start.media, *before]
        live = _Live(self._kind.make(shown), shown, len(start.media))
        self._live[name] = live
        parts, _ = self._bounded(live, live.environment.reset(start))
        return {"observation": parts_to_json(parts)}

    def _step(self, live: _Live, response: str) -> Reply:
        step = live.environment.step(response)
        parts, problem = self._bounded(live, step.observation)
        problems = "; ".join(filter(None, [step.problem, problem])) or None
        return {"step": step_to_json(replace(step, observation=parts, problem=problems))}

    def _bounded(self, live: _Live, parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], str | None]:
        kept, problem = bounded(parts, self._config, self._limits, len(live.shown) - live.of_prompt)
        live.shown += [part for part in kept if isinstance(part, Shown)]
        return kept, problem


def _why(error: BaseException) -> str:
    known = isinstance(error, EpisodeFailed | CannotShow | ConfigError)
    return str(error) if known else report(error, __file__)


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each line until there are no more, or until what the configuration names cannot be loaded."""
    setup = json.loads(requests.readline())
    config = _RELOADED.validate_python(setup["config"])
    limits = MediaLimits.model_validate(setup["limits"])
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused, with a reason
    limit_growth(config.memory_mb)
    try:
        kind = load(config, limits)
    except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
        send(replies, {"failed": _why(error)})
        return
    gc.freeze()  # what is imported stays, so that a collection takes no time
    send(replies, {"schemas": kind.schemas})
    episodes = Episodes(config, limits, kind)
    for line in requests:
        try:
            reply = episodes.answer(json.loads(line))
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": _why(error)}
        send(replies, reply)
        del reply
        gc.collect()  # what FFmpeg has read hangs in a cycle, and it would add up to the limit


if __name__ == "__main__":
    converse(serve)
