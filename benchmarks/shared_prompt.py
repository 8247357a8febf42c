"""The factor that each saving of a training pass brings: a clip once, a prompt once, lines with little padding.

    python -m benchmarks.shared_prompt out.json --rounds 5
    python -m benchmarks.shared_prompt out.json --middle --prompts 2 --rounds 3

Forward and backward passes of whole groups (a prompt, and its samples of lognormal lengths) on one thread, for tiny
models of every family and modality, or with `--middle` for a Qwen2.5-VL of 63M parameters. Layouts take turns; times
are medians of the process's CPU time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.middle_model import build_middle
from mmrlhf_ray.data.batches.batching import MicroBatch, PassBudget, SharedPrompts, one_pass_plan, padding_share
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import Encoder, Features, RawMedia, encode_prompt, load_encoder
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import HeadedModel, load_policy
from mmrlhf_ray.pipelines.parity.cases import MAKERS

LAYOUTS = ("plain rows", "clips once", "prompts once", "lines")
TOKENS = 4096


@dataclass(frozen=True)
class Work:
    """Groups of one modality."""

    rows: list[TokenRow]
    features: dict[str, Features]
    groups: list[int]

    @property
    def prompts(self) -> SharedPrompts:
        return SharedPrompts(self.groups, [len(row.context) for row in self.rows])

    def plan(self, *, shared: bool, padding: float) -> tuple[tuple[MicroBatch, ...], float]:
        """The passes of one rank, and the share of their positions that is padding."""
        lengths, kinds = [len(row) for row in self.rows], [frozenset[str]()] * len(self.rows)
        (shard,) = one_pass_plan(lengths, kinds, 1, PassBudget(TOKENS, padding, shared), self.prompts)
        passes = [replace(m, rows=tuple(shard.rows[row] for row in m.rows)) for m in shard.steps[0]]
        return tuple(passes), padding_share([shard], lengths, self.prompts)


def make_work(encoder: Encoder, kind: str, prompts: int, samples: int, mean: float, seed: int) -> Work:
    """`kind`: of the one clip of each prompt, or "text"."""
    rng = np.random.default_rng(seed)
    rows, groups, features = list[TokenRow](), list[int](), dict[str, Features]()
    for group in range(prompts):
        media = []
        if kind in MAKERS:
            data = MAKERS[kind](np.random.default_rng((seed, group)), group)
            media = [RawMedia(media_id(data), kind, data)]
        text = "which digit is written ? " * (1 + group % 3)
        parts = [{"type": kind} for _ in media] + [{"type": "text", "text": text.strip()}]
        encoded = encode_prompt(encoder, json.dumps([{"role": "user", "content": parts}]), media)
        features |= encoded.features
        for length in np.ceil(rng.lognormal(np.log(mean) - 0.125, 0.5, samples)).astype(int).tolist():
            first = len(encoder.tokenizer) - 20
            response = (first + rng.integers(0, 20, length)).tolist()
            rows.append(TokenRow(encoded.token_ids, response, [item.media_id for item in media]))
            groups.append(group)
    return Work(rows, features, groups)


def batches(encoder: Encoder, work: Work, layout: str) -> tuple[list[Batch], float]:
    """The passes of a layout, and their padding."""
    towers = encoder.adapter.towers
    if layout in ("plain rows", "clips once"):
        # The padding of the demo's jobs, on which a pass costs more than padding.
        passes, padding = work.plan(shared=False, padding=0.3)
        chosen = towers if layout == "clips once" else ()
        return [collate([work.rows[i] for i in p.rows], [], work.features, 0, chosen) for p in passes], padding
    passes, padding = work.plan(shared=True, padding=0.05)
    if layout == "prompts once":  # each group in a line of its own, however much padding that leaves
        passes = tuple(replace(p, lines=tuple(work.groups[i] for i in p.rows)) for p in passes)
    made = [collate_lines([work.rows[i] for i in p.rows], p.lines or (), [], work.features, 0, towers) for p in passes]
    there = sum(int((batch.inputs["line_prompt"] >= 0).sum()) for batch in made)
    return made, 1.0 - there / sum(batch.inputs["input_ids"].numel() for batch in made)


def run(model: HeadedModel, passes: Sequence[Batch]) -> tuple[float, float]:
    """CPU seconds of the passes with their gradients, and the sum of the log-probabilities."""
    model.zero_grad(set_to_none=True)
    started, total = time.process_time(), 0.0
    for batch in passes:
        logprobs = model(batch.response_positions, **batch.inputs).log_softmax(-1)
        loss = -logprobs.gather(1, batch.response_tokens[:, None]).sum()
        loss.backward()
        total += loss.item()
    return time.process_time() - started, total


def measure(encoder: Encoder, model: HeadedModel, work: Work, rounds: int) -> dict[str, float]:
    """Factors of time, from layout to layout and in all, and what was counted."""
    laid_out = {layout: batches(encoder, work, layout) for layout in LAYOUTS}
    times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    losses = {layout: run(model, passes)[1] for layout, (passes, _) in laid_out.items()}  # and warm up
    for _ in range(rounds):
        for layout, (passes, _) in laid_out.items():
            times[layout].append(run(model, passes)[0])
    seconds = {layout: median(of_layout) for layout, of_layout in times.items()}
    positions = {name: sum(b.inputs["input_ids"].numel() for b in passes) for name, (passes, _) in laid_out.items()}
    whole = losses["plain rows"]
    return {
        "clips_once": seconds["plain rows"] / seconds["clips once"],
        "prompts_once": seconds["clips once"] / seconds["prompts once"],
        "lines": seconds["prompts once"] / seconds["lines"],
        "all": seconds["plain rows"] / seconds["lines"],
        "prompt_tokens": float(np.mean(work.prompts.tokens)),
        "response_tokens": float(np.mean([len(row.response) for row in work.rows])),
        "positions_plain": float(positions["plain rows"]),
        "positions_lines": float(positions["lines"]),
        "padding_plain": laid_out["plain rows"][1],
        "padding_lines": laid_out["lines"][1],
        "loss_gap": max(abs(loss - whole) / abs(whole) for loss in losses.values()),
        "seconds_plain": seconds["plain rows"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--middle", action="store_true", help="a Qwen2.5-VL of 63M parameters instead")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--response", type=float, default=16.0, help="mean tokens of a response")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for family in ["qwen2_5_vl"] if given.middle else given.families:
            path = Path(scratch) / family
            build: Callable[[Path, int], None] = build_middle if given.middle else FAMILIES[family]
            build(path, 0)
            encoder = load_encoder(path)
            model = load_policy(encoder.adapter, path, torch.float32)
            print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")
            for kind in ["image"] if given.middle else ["text", *encoder.adapter.placeholders]:
                work = make_work(encoder, kind, given.prompts, given.samples, given.response, 0)
                found[f"{family} {kind}"] = measured = measure(encoder, model, work, given.rounds)
                print(family, kind, {name: float(f"{value:.3g}") for name, value in measured.items()}, flush=True)
    given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
