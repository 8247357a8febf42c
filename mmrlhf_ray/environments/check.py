"""Whether an environment can work, and its tools as a chat template shows them: asked of a child process, once."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrlhf_ray.config.environment import (
    EnvironmentConfig,
    HttpEnvironment,
    PythonEnvironment,
    ToolsEnvironment,
    named_tools,
)
from mmrlhf_ray.environments.pool import IMPORT_S, PROGRAM, setup_of
from mmrlhf_ray.errors import ConfigError, needs
from mmrlhf_ray.sandbox.child import Child, ChildFailed

_KEYS = {"tools": "tools", "python": "environment", "gymnasium": "id", "http": "url"}


def check_environment(config: EnvironmentConfig) -> list[dict[str, Any]]:
    """Import what the configuration names, make a Gymnasium environment once, ask a server whether it is there.

    Returns what tool_schemas() does, without another process. Raises ConfigError that names the key.
    """
    if isinstance(config, HttpEnvironment) and config.url.startswith("ws"):
        needs("environments")
    for file in lacking_files(config):
        raise _problem(config, f"there is no file {file}")
    schemas: list[dict[str, Any]] = _asked(config)["schemas"]
    return schemas


def lacking_files(config: EnvironmentConfig) -> list[str]:
    """Files that the configuration names (`path/to/file.py:name`) and that are not there."""
    named: list[str] = []
    if isinstance(config, ToolsEnvironment):
        named = [name for name, _ in named_tools(config.tools) if ":" in name]
    elif isinstance(config, PythonEnvironment):
        named = [config.environment]
    files = (name.rpartition(":")[0] for name in named)
    return [file for file in files if not Path(file).is_file()]


def tool_schemas(config: EnvironmentConfig) -> list[dict[str, Any]]:
    """For `tools=` of a chat template: {"type": "function", "function": {name, description, parameters}} of each tool,
    nothing for other environments. Raises ConfigError."""
    if config.kind != "tools":
        return []
    schemas: list[dict[str, Any]] = _asked(config)["schemas"]
    return schemas


def _asked(config: EnvironmentConfig) -> Mapping[str, Any]:
    """What a process says once it has loaded all and looked at it."""
    try:
        child = Child(PROGRAM)
    except ChildFailed as error:
        raise _problem(config, str(error)) from None
    try:
        until = time.monotonic() + IMPORT_S + config.call_s
        child.send(setup_of(config))
        reply = loaded = child.receive(until)
        if "failed" not in loaded:
            child.send({"do": "check"})
            reply = child.receive(until)
    except ChildFailed as error:
        raise _problem(config, str(error)) from None
    finally:
        child.end()
    if "failed" in reply:
        raise _problem(config, reply["failed"])
    return loaded


def _problem(config: EnvironmentConfig, why: str) -> ConfigError:
    key = _KEYS[config.kind]
    return ConfigError(f"environment.{key}={getattr(config, key)!r} cannot be used: {why}")
