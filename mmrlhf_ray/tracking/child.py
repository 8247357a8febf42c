"""The process of a tracker that uses the network: `python -m mmrlhf_ray.tracking.child NAME`.

Pickled calls come by standard input; lines for the user go out by standard output, the first one when the tracker is
ready. All that libraries print goes to standard error, which is a file.
"""

import os
import pickle
import sys
from importlib import import_module
from typing import BinaryIO

from mmrlhf_ray.tracking.tracker import TrackedRun, Tracker

CLASSES = {"wandb": "Wandb", "mlflow": "Mlflow", "swanlab": "SwanLab"}
"""Tracker, which is also its module here → class."""


def opened(name: str, run: TrackedRun) -> Tracker:
    """The tracker of that name at work."""
    made: Tracker = getattr(import_module(f"mmrlhf_ray.tracking.{name}"), CLASSES[name])(run)
    return made


def serve(name: str, calls: BinaryIO, say: BinaryIO) -> None:
    """Do what `calls` asks for until it ends. Raises what the tracker raised."""
    tracker = opened(name, pickle.load(calls))
    say.write(f"{tracker.place}\n".encode())
    say.flush()
    try:
        while True:
            kind, step, what = pickle.load(calls)
            if kind == "log":
                tracker.log(step, what)
            else:
                tracker.show(step, what)
    except EOFError:  # the run is over, however it ended
        tracker.close()


def main() -> int:
    say = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
