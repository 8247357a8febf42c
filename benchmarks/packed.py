"""Tokens a second of forward and backward passes over rows that share nothing: padded, and packed end to end.

    python -m benchmarks.packed out.json --rounds 5

Rows of one prompt and one response each, of lognormal lengths, on one thread of a CPU, where a packed line has a block
mask and so costs the square of its length; flash attention, which has no mask and costs the rows' squares, needs a GPU.
Layouts: rows as they come, eight to a pass; rows of like length together with at most 0.05 padding, as without
`engine.shared_prompt`; packed. They take turns; rates are of the process's CPU time, ratios medians over rounds.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.middle_model import build_middle
from benchmarks.shared_prompt import Work, make_work, run
from mmrlhf_ray.data.batches.batching import PassBudget, one_pass_plan
from mmrlhf_ray.data.batches.collate import Batch, collate
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import load_policy

LAYOUTS = ("as they come", "by length", "packed")
_ROWS = 8


def batches(encoder: Encoder, work: Work, layout: str, tokens: int) -> list[Batch]:
    """The passes of a layout."""
    towers, lengths = encoder.adapter.towers, list(map(len, work.rows))
    if layout == "as they come":
        cuts = [work.rows[first : first + _ROWS] for first in range(0, len(work.rows), _ROWS)]
        return [collate(rows, [], work.features, 0, towers) for rows in cuts]
    budget = PassBudget(tokens, packed=layout == "packed")
    (shard,) = one_pass_plan(lengths, [frozenset[str]()] * len(lengths), 1, budget)
    made = []
    for micro_batch in shard.steps[0]:
        rows = [work.rows[shard.rows[row]] for row in micro_batch.rows]
        if micro_batch.packed:
            made.append(collate_lines(rows, (0,) * len(rows), [], work.features, 0, towers, packed=True))
        else:
            made.append(collate(rows, [], work.features, 0, towers))
    return made


def measure(encoder: Encoder, path: Path, work: Work, tokens: int, rounds: int) -> dict[str, float]:
    """Tokens a second of each layout, padding left out; its padding; and the ratios of packed to the others."""
    model = load_policy(encoder.adapter, path, torch.float32)
    laid_out = {layout: batches(encoder, work, layout, tokens) for layout in LAYOUTS}
    losses = {layout: run(model, passes)[1] for layout, passes in laid_out.items()}  # and warm up
    times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in range(rounds):
        for layout, passes in laid_out.items():
            times[layout].append(run(model, passes)[0])
    real = sum(map(len, work.rows))
    found = {f"tokens/s {layout}": real / median(seconds) for layout, seconds in times.items()}
    for layout, passes in laid_out.items():
        found[f"padding {layout}"] = 1.0 - real / sum(b.inputs["input_ids"].numel() for b in passes)
        found[f"passes {layout}"] = float(len(passes))
    for layout in LAYOUTS[:-1]:
        pairs = zip(times[layout], times["packed"], strict=True)
        found[f"packed to {layout}"] = median(other / packed for other, packed in pairs)
    return found | {"loss_gap": max(abs(loss / losses["packed"] - 1.0) for loss in losses.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--middle", action="store_true", help="a Qwen2.5-VL of 63M parameters instead of a tiny one")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--response", type=float, default=60.0, help="mean tokens of a response")
    parser.add_argument("--tokens", type=int, default=1024, help="most of a pass")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model"
        build: Callable[[Path, int], None] = build_middle if given.middle else FAMILIES["qwen2_5_vl"]
        build(path, 0)
        encoder = load_encoder(path)
        for kind in ("text", "image"):
            work = make_work(encoder, kind, given.rows, 1, given.response, 0)
            found[kind] = measured = measure(encoder, path, work, given.tokens, given.rounds)
            print(kind, {name: float(f"{value:.3g}") for name, value in measured.items()}, flush=True)
    given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
