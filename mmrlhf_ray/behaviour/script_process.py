"""The process that a judge or a measure of the user's runs in: a module that `sandbox.child.Child` starts.

The first line, {"function": "path/to/file.py:function", "memory_mb"}, is answered with {}; every later one,
{"arguments": […]}, with {"answer": …}; or with {"failed": why}. Only the standard library is imported.
"""

import json
from typing import Any, TextIO

from mmrlhf_ray.sandbox.inside import converse, limit_memory, load_function, report, send


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each line until there are no more, or until the function cannot be loaded."""
    setup = json.loads(requests.readline())
    limit_memory(setup["memory_mb"])
    try:
        function = load_function(setup["function"])
    except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
        send(replies, {"failed": report(error, __file__)})
        return
    send(replies, {})
    for line in requests:
        try:
            reply: dict[str, Any] = {"answer": function(*json.loads(line)["arguments"])}
            json.dumps(reply)
        except (Exception, SystemExit) as error:  # noqa: BLE001  our parent is told
            reply = {"failed": report(error, __file__)}
        send(replies, reply)


if __name__ == "__main__":
    converse(serve)
