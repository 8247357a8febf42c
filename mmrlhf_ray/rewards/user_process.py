"""The process that a reward function runs in; `rewards.user` starts it as a module.

One JSON object per line comes in on standard input and goes out on what was standard output when the process started;
what the function prints goes to standard error.

The first line is answered with the function's parameters, every later one with its numbers:

    {"function", "convention", "memory_mb"}               → {"parameters": [[name, kind, required], …]}
    {"prompts", "completions", "columns", "arguments"}    → {"values": […], "problems": […]}    (trl)
    {"rows": [keyword arguments of a row, …], "arguments"} → the same                            (verl)

or with {"failed": why}.
"""

import asyncio
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from mmrlhf_ray.sandbox.inside import converse, limit_memory, load_function, report, send

_SHOWN_CHARACTERS = 300

Reply = dict[str, Any]
Result = tuple[float | None, str | None]
"""A number, or None with what is wrong, or None alone: not applicable."""


def load(function: str) -> Callable[..., Any]:
    """`path/to/file.py:name`, or the name of a function that is built in."""
    if ":" in function:
        return load_function(function)
    from mmrlhf_ray.rewards.functions import BUILT_IN

    return BUILT_IN[function]


def parameters(function: Callable[..., Any]) -> list[tuple[str, str, bool]]:
    """Name, kind and whether it must be given, of each parameter."""
    return [
        (p.name, p.kind.name, p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        for p in inspect.signature(function).parameters.values()
    ]


def call_trl(function: Callable[..., Any], request: Mapping[str, Any]) -> Reply:
    """`f(prompts, completions, **columns) -> list[float | None]`, with the keyword arguments that it takes."""
    given = {"prompts": request["prompts"], "completions": request["completions"]}
    answer = _finished(function(**_taken(function, request["columns"] | given), **request["arguments"]))
    count = len(request["completions"])
    if isinstance(answer, str | bytes | Mapping) or not hasattr(answer, "__iter__"):
        return {"failed": f"returned {_shown(answer)}, expected a list of {count} numbers or None"}
    values = list(answer)
    if len(values) != count:
        return {"failed": f"returned {len(values)} numbers for {count} responses"}
    return _reply([as_number(value) for value in values])


def call_verl(function: Callable[..., Any], request: Mapping[str, Any]) -> Reply:
    """`compute_score(data_source, solution_str, ground_truth, extra_info)` for each row; each fails on its own."""
    results: list[Result] = []
    for row in request["rows"]:
        try:
            answer = _finished(function(**_taken(function, row), **request["arguments"]))
        except (Exception, SystemExit) as error:  # noqa: BLE001  the reason why this row has no number
            results.append((None, report(error, __file__)))
        else:
            results.append(as_number(answer.get("score", answer) if isinstance(answer, Mapping) else answer))
    return _reply(results)


CONVENTIONS: dict[str, Callable[[Callable[..., Any], Mapping[str, Any]], Reply]] = {
    "trl": call_trl,
    "verl": call_verl,
}


def as_number(value: Any) -> Result:
    """A function's return value for one row, as a finite number. Numbers of other libraries are taken, text is not."""
    if value is None:
        return None, None
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None, f"returned {_shown(value)}, expected a number or None"
    return (number, None) if math.isfinite(number) else (None, f"returned {_shown(value)}, expected a finite number")


def _taken(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    own = parameters(function)
    if any(kind == "VAR_KEYWORD" for _, kind, _ in own):
        return dict(given)
    names = {name for name, _, _ in own}
    return {name: value for name, value in given.items() if name in names}


def _finished(answer: Any) -> Any:
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


def _reply(results: list[Result]) -> Reply:
    return {"values": [value for value, _ in results], "problems": [problem for _, problem in results]}


def _shown(value: Any) -> str:
    return f"{repr(value)[:_SHOWN_CHARACTERS]} ({type(value).__name__})"


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each line until there are no more, or until the function cannot be loaded."""
    setup = json.loads(requests.readline())
    limit_memory(setup["memory_mb"])
    call = CONVENTIONS[setup["convention"]]
    try:
        function = load(setup["function"])
        own = parameters(function)
    except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
        send(replies, {"failed": report(error, __file__)})
        return
    send(replies, {"parameters": own})
    for line in requests:
        try:
            reply = call(function, json.loads(line))
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": report(error, __file__)}
        send(replies, reply)


if __name__ == "__main__":
    converse(serve)
