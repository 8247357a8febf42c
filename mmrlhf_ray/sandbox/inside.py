"""Inside a child process: the tie to our parent, limits on memory, the user's function, one JSON object per line.

Only the standard library is imported, so that the process starts at once and what the user's file imports is all that
it pays for.
"""

import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

_SHOWN_CHARACTERS = 300


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
    _limit_addresses(megabytes << 20)


def limit_growth(megabytes: int) -> None:
    """Address space that may be added to what there is now; and no core files."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _limit_addresses(now + (megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_addresses(most: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def load_function(function: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:name` names. Raises ImportError, and whatever the file raises."""
    file, _, name = function.rpartition(":")
    path = Path(file).resolve()
    sys.path.insert(0, str(path.parent))  # as for a script: modules next to the file can be imported
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        defined = sorted(n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == path.stem)
        raise ImportError(f"it has no function {name!r}; its functions are {', '.join(defined) or 'none'}")
    return found


def report(error: BaseException, program: str) -> str:
    """Print an exception; returns it in one line, with the place in the user's code where it was raised.

    program: the file of ours that called that code.
    """
    traceback.print_exception(error)
    text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename not in (program, __file__) and not f.filename.startswith("<")
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}{': ' if text else ''}{text}{place}"


def converse(answer: Callable[[TextIO, TextIO], None]) -> None:
    """Run `answer(requests, replies)` as the process that `sandbox.child.Child` starts."""
    guard(int(sys.argv[1]))
    # Copies under other numbers: what a function prints or reads does not get between us and our parent.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    answer(requests, replies)


def send(replies: TextIO, reply: Mapping[str, Any]) -> None:
    """One line."""
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
