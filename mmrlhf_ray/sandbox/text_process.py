"""The process that text hooks run in: a module that `child.Child` starts.

The first line, {"functions": ["path/to/file.py:function", …], "memory_mb"}, is answered with {}; every later one,
{"function", "texts": […]}, with {"texts": […]}; or with {"failed": why}.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from mmrlhf_ray.sandbox.inside import converse, limit_memory, load_function, report, send

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
            hooks[function] = load_function(function)
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            send(replies, {"failed": f"{function} {report(error, __file__)}"})
            return
    send(replies, {})
    for line in requests:
        request = json.loads(line)
        try:
            reply: dict[str, Any] = {"texts": changed(hooks[request["function"]], request["texts"])}
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": report(error, __file__)}
        send(replies, reply)


if __name__ == "__main__":
    converse(serve)
