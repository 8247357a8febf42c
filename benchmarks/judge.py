"""A judge that was trained to say which of two answers about a picture is right, an untrained one and a reward model,
on the same held-out pairs.

python -m benchmarks.judge runs/judge

Writes a tiny model and Omni-Digits' pictures with a right and a wrong answer each, trains the judge (`sft`), serves it
and the untrained model (`serve`), trains a reward model that starts from the judge (`reward-model`), and prints the
headline of its report (docs/reward-models.md). `--size small` is for a test.
"""

import argparse
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from mmrlhf_ray.data.media import MediaRow, media_row
from mmrlhf_ray.data.records.readers import write_records
from mmrlhf_ray.demo.digits import Split, digit_png, digits_of
from mmrlhf_ray.demo.model import build_model
from mmrlhf_ray.pipelines.supervised.reward_report import SUMMARY_FILE
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PREFERENCE

QUESTION = "which digit is written ?"
ASKED = QUESTION + " one says {first} and two says {second} . which is better ?"
LABELS = ("one", "two")
TOKEN = "MMRLHF_SERVE_TOKEN"
_WORDS = (QUESTION + " one says and two . which is better answer :").split()
_START_S, _END_S = 600.0, 240.0


@dataclass(frozen=True)
class Size:
    """How much is made and trained."""

    judgements: int
    """Pictures, of each a judgement and the answer to what is written."""
    pairs: int
    pairs_heldout: int
    steps: int
    """Of the judge."""
    reward_steps: int
    judges: tuple[str, ...] = ("trained", "untrained")


SIZES: Mapping[str, Size] = {"small": Size(32, 64, 60, 2, 2, ("trained",)), "full": Size(10_000, 4000, 400, 900, 120)}


def build(out: Path, size: Size, seed: int = 0) -> None:
    """Write `base`, `judgements`, `pairs` and `pairs_heldout` under `out`. No held-out picture is in the others. The
    judge is shown how to read a picture as well: it cannot judge what it cannot read."""
    build_model(out / "base", seed, _WORDS)
    rng = np.random.default_rng(seed)
    judgements, clips = [], dict[str, MediaRow]()
    for number in range(size.judgements):
        clip, right, wrong = _drawn("train", rng)
        clips[clip["media_id"]] = clip
        first = bool(rng.integers(2))
        asked = ASKED.format(first=right if first else wrong, second=wrong if first else right)
        judgements.append(_prompt(clip, asked, f"judge-{number}") | {"response": LABELS[not first], "feedback": 0.0})
        judgements.append(_prompt(clip, QUESTION, f"read-{number}") | {"response": right, "feedback": 0.0})
    _write(out / "judgements", judgements, DEMONSTRATION, clips)
    splits: tuple[tuple[str, Split, int], ...] = (
        ("pairs", "train", size.pairs),
        ("pairs_heldout", "heldout", size.pairs_heldout),
    )
    for name, split, count in splits:
        pairs, clips = [], {}
        for number in range(count):
            clip, right, wrong = _drawn(split, rng)
            clips[clip["media_id"]] = clip
            pairs.append(
                _prompt(clip, QUESTION, f"{name}-{number}") | {"chosen": right, "rejected": wrong, "margin": 0.0}
            )
        _write(out / name, pairs, PREFERENCE, clips)


def _drawn(split: Split, rng: np.random.Generator) -> tuple[MediaRow, str, str]:
    """A picture, the right answer and a wrong one."""
    digits = digits_of(split)
    digit = digits[rng.integers(len(digits))]
    wrong = (digit.value + int(rng.integers(1, 10))) % 10
    return media_row("image", digit_png(digit.source)), f"answer : {digit.value}", f"answer : {wrong}"


def _prompt(clip: MediaRow, text: str, prompt_id: str) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps([{"role": "user", "content": content}]),
        "media_ids": [clip["media_id"]],
        "task": "digit",
        "modality": "image",
        "extras": "{}",
    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, clips: Mapping[str, MediaRow]) -> None:
    write_records(path, pa.Table.from_pylist(list(rows), schema), pa.Table.from_pylist(list(clips.values()), MEDIA))


def jobs(out: Path, size: Size, addresses: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Name → the job. addresses: of each judge."""
    common = {
        "output_dir": str(out),
        "device": "cpu",
        "batch_size": 64,
        "workers": {"replicas": 2, "num_cpus": 0.2},
        "checkpoint": {"every_steps": 1000, "keep": 1},
    }
    rates = {"warmup_steps": min(50, size.steps - 1), "schedule": "cosine", "weight_decay": 0.01}
    learner = {"engine": {"zero_stage": 1, "micro_batch_tokens": 4096}, "optimizer": {"lr": 2e-3} | rates}
    sft = common | {"job": "sft", "name": "sft", "steps": size.steps, "learner": learner}
    sft |= {"model": {"path": str(out / "base")}, "data": {"path": str(out / "judgements"), "max_prompt_tokens": 64}}
    reward = common | {"job": "reward-model", "name": "reward-model", "steps": size.reward_steps}
    reward |= {"model": {"path": str(out / "sft" / "model")}, "center_coef": 0.01}
    reward["data"] = {"path": str(out / "pairs"), "max_prompt_tokens": 64}
    reward["eval_data"] = {"path": str(out / "pairs_heldout"), "max_prompt_tokens": 64}
    few = rates | {"warmup_steps": min(10, size.reward_steps - 1)}
    reward["learner"] = learner | {"optimizer": {"lr": 1e-3} | few}
    reward["judges"] = [
        {
            "kind": "judge",
            "name": name,
            "base_url": address,
            "model": name,
            "token_env": TOKEN,
            "prompt": ASKED,
            "media": ["image"],
            "pairs": {"labels": list(LABELS), "probabilities": True},
            "deadline_s": 600,
        }
        for name, address in addresses.items()
    ]
    return {"sft": sft, "reward-model": reward}


def command(*arguments: str) -> None:
    """Run `mmrlhf` to its end. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "mmrlhf_ray.cli", *arguments], check=True)


def train(out: Path, name: str, job: Mapping[str, Any]) -> None:
    """Run a job from a file under `out`."""
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(job)))
    command(str(job["job"]), str(file))


@contextmanager
def served(model: Path, name: str) -> Iterator[str]:
    """The address at which a model answers within the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mmrlhf_ray.cli", "serve", str(model)]
    server = subprocess.Popen(
        [*words, "--name", name, "--port", str(port), "--context", "128"], stdout=subprocess.PIPE, text=True
    )
    try:
        _wait_for_address(server, name)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(_END_S)


def _wait_for_address(server: "subprocess.Popen[str]", name: str) -> None:
    assert server.stdout is not None
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.poll() is None:
        if select.select([server.stdout], [], [], 1.0)[0] and server.stdout.readline().endswith("/v1 answers\n"):
            return
    raise SystemExit(f"{name} is not served within {_START_S:g} s, see above")


def measure(out: Path, size: Size) -> dict[str, Any]:
    """All of it; the summary of the reward model's report."""
    os.environ.setdefault(TOKEN, secrets.token_urlsafe(16))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    build(out, size)
    train(out, "sft", jobs(out, size, {})["sft"])
    with ExitStack() as stack:
        models = {"trained": out / "sft" / "model", "untrained": out / "base"}
        addresses = {name: stack.enter_context(served(models[name], name)) for name in size.judges}
        train(out, "reward-model", jobs(out, size, addresses)["reward-model"])
    found: dict[str, Any] = json.loads((out / "reward-model" / SUMMARY_FILE).read_text())
    return found


def main() -> None:
    """Measure in the directory that the command line names. Exit status 2 where it exists."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write, e.g. runs/judge")
    parser.add_argument("--size", choices=SIZES, default="full")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already; choose another directory")
    arguments.out.mkdir(parents=True)
    measure(arguments.out.resolve(), SIZES[arguments.size])


if __name__ == "__main__":
    main()
