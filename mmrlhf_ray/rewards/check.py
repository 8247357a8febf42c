"""Are the rewards usable? Asked before anything starts."""

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from mmrlhf_ray.config.rewards import (
    EnvironmentReward,
    FluencyReward,
    FunctionReward,
    JudgeReward,
    ModelReward,
    RemoteReward,
    Reward,
)
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.batch import OWN_COLUMNS
from mmrlhf_ray.rewards.functions import BUILT_IN, RewardFunction
from mmrlhf_ray.rewards.http import read_token
from mmrlhf_ray.rewards.user import FunctionProcess, Parameter, is_built_in
from mmrlhf_ray.schema import MODALITIES

Columns = Set[str] | None
_TRL = ("prompts", "completions")
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")


def check_rewards(rewards: Sequence[Reward], extras_columns: Columns) -> None:
    """Raise ConfigError with everything that would keep a reward from working.

    extras_columns: keys that occur in the prompts' `extras`; None where they are not known. A user's function is
    imported, in a separate process.
    """
    problems = [
        f"{reward.name}: {problem}"
        for reward in rewards
        for problem in (*_common(reward), *_KINDS[type(reward)](reward, extras_columns))
    ]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ConfigError("\n  ".join([f"rewards: {count}:", *problems]))


def _common(reward: Reward) -> list[str]:
    problems = [
        f"modalities: no modality {name!r}; {_nearest(name, MODALITIES)}"
        for name in reward.modalities or ()
        if name not in MODALITIES
    ]
    if reward.cost is not None and reward.weight != 1.0:
        problems.append(f"weight={reward.weight:g} is not used for a cost, which the multiplier weighs; leave it out")
    return problems


def _nothing(reward: ModelReward | FluencyReward | EnvironmentReward, columns: Columns) -> list[str]:
    return []


def _service(reward: RemoteReward | JudgeReward, columns: Columns) -> list[str]:
    key, address = ("url", reward.url) if isinstance(reward, RemoteReward) else ("base_url", reward.base_url)
    problems = []
    try:
        if not httpx.URL(address).host:
            problems.append(f"{key} has no host: {address}")
    except httpx.InvalidURL as error:
        problems.append(f"{key} is not an address: {address} ({error})")
    try:
        read_token(reward)
    except ConfigError as error:
        problems.append(str(error).removeprefix(f"rewards: {reward.name}: "))
    return problems


def _function(reward: FunctionReward, columns: Columns) -> list[str]:
    return (_built_in if is_built_in(reward) else _users)(reward, columns)


def _built_in(reward: FunctionReward, columns: Columns) -> list[str]:
    function = BUILT_IN.get(reward.function)
    if function is None:
        near = _nearest(reward.function, BUILT_IN)
        return [f"function: no built-in {reward.function!r}; {near}; a function of yours is path/to/file.py:function"]
    if reward.convention != "trl" or reward.conversational:
        return [f"convention and conversational are for functions of yours; leave them out for {reward.function}"]
    parameters = inspect.signature(function).parameters
    options = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n not in OWN_COLUMNS}
    required = [name for name, parameter in options.items() if parameter.default is parameter.empty]
    problems = _argument_problems(reward, options, required) or _type_problems(reward, function)
    if problems:
        return problems
    key = reward.arguments.get("key", options["key"].default) if "key" in options else None
    if key in parameters:
        return [f"arguments.key: a column may not be named {key!r}, like a parameter of {reward.function}; rename it"]
    return _value_problems(reward, function, key) + _column_problems(reward, [] if key is None else [key], columns)


def _type_problems(reward: FunctionReward, function: RewardFunction) -> list[str]:
    hints = typing.get_type_hints(function)
    problems = []
    for name, value in reward.arguments.items():
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            problems.append(f"arguments.{name}: {error.errors()[0]['msg']}, got {value!r}")
    return problems


def _value_problems(reward: FunctionReward, function: RewardFunction, key: str | None) -> list[str]:
    """Built-in functions check their options even where there is no row."""
    nothing: dict[str, Any] = {name: [] for name in inspect.signature(function).parameters if name in OWN_COLUMNS}
    if key is not None:
        nothing[key] = []
    try:
        function([], [], **nothing | reward.arguments)
    except ValueError as error:
        return [f"arguments: {error}"]
    return []


def _users(reward: FunctionReward, columns: Columns) -> list[str]:
    file = Path(reward.function.rpartition(":")[0])
    if not file.is_file():
        return [f"function: there is no file {file}"]
    if reward.convention == "verl" and reward.conversational:
        return ["conversational is for convention=trl; leave it out"]
    process = FunctionProcess(reward)
    try:
        parameters = process.start()
    except ConfigError as error:
        return [str(error).removeprefix(f"rewards: {reward.name}: ")]
    finally:
        process.close()
    return _signature_problems(reward, parameters, columns)


def _signature_problems(reward: FunctionReward, parameters: Sequence[Parameter], columns: Columns) -> list[str]:
    given = _TRL if reward.convention == "trl" else _VERL
    named = {p.name: p for p in parameters if not p.kind.startswith("VAR_")}
    takes_any = any(p.kind == "VAR_KEYWORD" for p in parameters)
    clash = [name for name in reward.arguments if name in given]
    if clash:
        return [f"arguments: {', '.join(clash)} is given by us; leave it out"]
    problems = [] if takes_any else _argument_problems(reward, named, [])
    needed = [p.name for p in named.values() if p.required and p.name not in (*given, *reward.arguments)]
    if reward.convention == "trl":
        return problems + _column_problems(reward, needed, columns)
    if needed:
        problems.append(f"function: needs {', '.join(needed)}; verl gives {', '.join(_VERL)}; use arguments for others")
    if takes_any or "ground_truth" in named:
        problems += _column_problems(reward, [reward.ground_truth], columns)
    return problems


def _argument_problems(reward: FunctionReward, known: Mapping[str, Any], required: Iterable[str]) -> list[str]:
    unknown = [name for name in reward.arguments if name not in known]
    missing = [name for name in required if name not in reward.arguments]
    return [
        *(f"arguments.{name}: {reward.function} has no such argument; {_nearest(name, known)}" for name in unknown),
        *(f"arguments.{name}: required by {reward.function}, but not given" for name in missing),
    ]


def _column_problems(reward: FunctionReward, needed: Iterable[str], columns: Columns) -> list[str]:
    if columns is None:
        return []
    there = sorted({*columns, *OWN_COLUMNS, *(["turn"] if reward.per_turn else [])})
    return [
        f"it needs the column {name!r}, which no prompt has in its extras; there are {', '.join(there)}"
        for name in needed
        if name not in there
    ]


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {close[0]}" if close else f"there are {', '.join(known) or 'none'}"


_KINDS: Mapping[type, Callable[[Any, Columns], list[str]]] = {
    ModelReward: _nothing,
    FluencyReward: _nothing,
    EnvironmentReward: _nothing,
    FunctionReward: _function,
    RemoteReward: _service,
    JudgeReward: _service,
}
