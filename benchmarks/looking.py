"""Accuracy and tool use of the policies of jobs/looking-evaluate.yaml, by task, as the table of docs/agents.md.

python -m benchmarks.looking runs/looking/evaluate
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.demo.looking import FAR, TASKS
from mmrlhf_ray.pipelines.evaluate.job import RESPONSES_FILE
from mmrlhf_ray.schema import RESPONSE

LABELS = {"baseline": "SFT", "policy": "GRPO"}


def table(run_dir: Path) -> list[str]:
    """Lines of Markdown: of each task, right answers and episodes with more than one turn, with 95 % intervals."""
    responses = pq.read_table(run_dir / RESPONSES_FILE, schema=RESPONSE).to_pylist()
    lines = ["| task | needs a tool | policy | right | calls a tool |", "|---|---|---|---|---|"]
    for task in TASKS:
        for policy, label in LABELS.items():
            own = [row for row in responses if row["task"] == task and row["policy"] == policy]
            right = [row["score"] == 1.0 for row in own]
            calls = [sum(turn["kind"] == "response" for turn in json.loads(row["turns"])) > 1 for row in own]
            needs = "yes" if task in FAR else "no"
            lines.append(f"| `{task}` | {needs} | {label} | {_share(right)} | {_share(calls)} |")
    return lines


def _share(hits: list[bool]) -> str:
    found: Interval = wilson_interval(int(np.sum(hits)), len(hits))
    return f"{found:.2f}"


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]))))
