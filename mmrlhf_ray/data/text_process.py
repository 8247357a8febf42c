"""The process that text hooks run in: this file, run as a script by `rewards.child.Child`.

The first line, {"functions": ["path/to/file.py:function", …], "memory_mb"}, is answered with {}; every later one,
{"function", "texts": […]}, with {"texts": […]}; or with {"failed": why}.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[2]))  # the package that this file belongs to

from mmrlhf_ray.rewards.user_process import guard, limit_memory, load, report

Hook = Callable[[str], str]


def changed(hook: Hook, texts: Sequence[str]) -> list[str]:
    """Each text as the hook returns it. Raises TypeError when it returns something else."""
    out = [hook(text) for text in texts]
    for text in out:
        if not isinstance(text, str):
            raise TypeError(f"returned a {type(text).__name__}, expected text")
    return out


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each line until there are no more, or until a hook cannot be loaded."""
    setup = json.loads(requests.readline())
    limit_memory(setup["memory_mb"])
    hooks: dict[str, Hook] = {}
    for function in setup["functions"]:
        try:
            hooks[function] = load(function)
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            _send(replies, {"failed": f"{function} {report(error)}"})
            return
    _send(replies, {})
    for line in requests:
        request = json.loads(line)
        try:
            reply: dict[str, Any] = {"texts": changed(hooks[request["function"]], request["texts"])}
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": report(error)}
        _send(replies, reply)


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def main() -> None:
    guard(int(sys.argv[1]))
    # Copies under other numbers: what a hook prints or reads does not get between us and our parent.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    serve(requests, replies)


if __name__ == "__main__":
    main()
