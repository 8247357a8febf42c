"""The process that the tool `python` runs code in: a module that `sandbox.child.Child` starts, for one request.

{"code", "directory", "memory_mb", "characters"} is answered with {"printed", "problem"}: text, and why the
code ended early or null.
"""

import io
import json
import os
import resource
import sys
import traceback
from typing import TextIO

from mmrlhf_ray.sandbox.child import MARK
from mmrlhf_ray.sandbox.inside import converse, limit_growth, send

_FILE_BYTES = 16 << 20
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", MARK)


class _Output(io.StringIO):
    """Keeps the first `most` characters of what is printed and drops the rest."""

    def __init__(self, most: int):
        super().__init__()
        self._left = most

    def write(self, text: str) -> int:
        kept = text[: self._left]
        self._left -= len(kept)
        super().write(kept)
        return len(text)


def run(code: str, characters: int) -> tuple[str, str | None]:
    """What the code prints, and the exception that ended it."""
    printed, own = _Output(characters), (sys.stdout, sys.stderr)
    sys.stdout = sys.stderr = printed
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        return printed.getvalue(), None
    except BaseException as error:  # noqa: BLE001  the policy is told
        return printed.getvalue(), traceback.format_exception_only(error)[-1].strip()
    finally:
        sys.stdout, sys.stderr = own
    return printed.getvalue(), None


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer one request."""
    request = json.loads(requests.readline())
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    with open(os.devnull, "w") as nothing:  # the code's own programs print there
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os.chdir(request["directory"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    limit_growth(request["memory_mb"])
    printed, problem = run(request["code"], request["characters"])
    send(replies, {"printed": printed, "problem": problem})


if __name__ == "__main__":
    converse(serve)
