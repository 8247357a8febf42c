"""The rows of a run's metrics.jsonl, read without Ray and torch: for commands that only look."""

import json
from pathlib import Path
from typing import Any

from mmrlhf_ray.errors import RunError

FILE_NAME = "metrics.jsonl"


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `<run_dir>/metrics.jsonl` in order: step (int), time (Unix seconds), metrics (float or None).

    An absent file gives no rows. A half-written last line is left out; a broken line elsewhere raises RunError.
    """
    path = Path(run_dir) / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            # The start of a JSON object never parses as one, so this finds every half-written line.
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(
                f"{path}: line {number} is not JSON ({error}). Only the last line of a run that was killed may be "
                "broken; fix or delete that line."
            ) from error
    return rows
