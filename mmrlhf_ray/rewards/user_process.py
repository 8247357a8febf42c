"""The process that a reward function runs in: this file, run as a script.

One JSON object per line comes in on standard input and goes out on what was standard output when the process started;
what the function prints goes to standard error. Only the standard library is imported, so that the process starts at
once and the function's imports are the only ones it pays for.

The first line is answered with the function's parameters, every later one with its numbers:

    {"function", "convention", "memory_mb"}               → {"parameters": [[name, kind, required], …]}
    {"prompts", "completions", "columns", "arguments"}    → {"values": […], "problems": […]}    (trl)
    {"rows": [keyword arguments of a row, …], "arguments"} → the same                            (verl)

or with {"failed": why}.
"""

import asyncio
import importlib.util
import inspect
import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

_SHOWN_CHARACTERS = 300

Reply = dict[str, Any]
Result = tuple[float | None, str | None]
"""A number, or None with what is wrong, or None alone: not applicable."""


def load(function: str) -> Callable[..., Any]:
    """`path/to/file.py:name`, or the name of a function that is built in."""
    file, _, name = function.rpartition(":")
    if not file:
        sys.path.insert(0, str(Path(__file__).parents[2]))  # the package that this file belongs to
        from mmrlhf_ray.rewards.functions import BUILT_IN

        return BUILT_IN[name]
    path = Path(file).resolve()
    sys.path.insert(0, str(path.parent))  # as for a script: modules beside the file can be imported
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        defined = sorted(n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == path.stem)
        raise ImportError(f"it has no function {name!r}; its functions are {', '.join(defined) or 'none'}")
    return found


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
            results.append((None, report(error)))
        else:
            results.append(as_number(answer.get("score", answer) if isinstance(answer, Mapping) else answer))
    return _reply(results)


CONVENTIONS: dict[str, Callable[[Callable[..., Any], Mapping[str, Any]], Reply]] = {
    "trl": call_trl,
    "verl": call_verl,
}


def as_number(value: Any) -> Result:
    """What a function returned for one row, as a finite number. Numbers of other libraries are taken, text is not."""
    if value is None:
        return None, None
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None, f"returned {_shown(value)}, expected a number or None"
    return (number, None) if math.isfinite(number) else (None, f"returned {_shown(value)}, expected a finite number")


def report(error: BaseException) -> str:
    """Print an exception; returns it in one line, with the place in the function's code where it was raised."""
    traceback.print_exception(error)
    text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename != __file__ and not f.filename.startswith("<")
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}{': ' if text else ''}{text}{place}"


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


def guard(life: int) -> None:
    """Fork a process that kills this group as soon as the other end of `life` is closed: our parent is gone.

    A thread would not do: a function that holds the interpreter's lock would stop it too.
    """
    if os.fork() == 0:
        os.closerange(0, 3)  # or our parent would wait for the end of output that never comes
        os.read(life, 1)
        os.killpg(0, signal.SIGKILL)
    os.close(life)


def limit_memory(megabytes: int) -> None:
    """Address space of this process; never more than it may have already."""
    most = megabytes << 20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each line until there are no more, or until the function cannot be loaded."""
    setup = json.loads(requests.readline())
    limit_memory(setup["memory_mb"])
    call = CONVENTIONS[setup["convention"]]
    try:
        function = load(setup["function"])
        own = parameters(function)
    except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
        send(replies, {"failed": report(error)})
        return
    send(replies, {"parameters": own})
    for line in requests:
        try:
            reply = call(function, json.loads(line))
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": report(error)}
        send(replies, reply)


def send(replies: TextIO, reply: Reply) -> None:
    """One line."""
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def converse(answer: Callable[[TextIO, TextIO], None]) -> None:
    """Run `answer(requests, replies)` as the process that `rewards.child.Child` starts."""
    guard(int(sys.argv[1]))
    # Copies under other numbers: what a function prints or reads does not get between us and our parent.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    answer(requests, replies)


if __name__ == "__main__":
    converse(serve)
