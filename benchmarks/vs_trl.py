"""GRPO here and with TRL on the same CPUs: samples a second, and the time until the first step begins.

    pip install --no-deps --target DIR trl
    python -m benchmarks.vs_trl OUT.json --trl DIR --rounds 3
    python -m benchmarks.vs_trl OUT.json --trl DIR --tiny --prompts 16 --steps 12

Both read the same prompts in TRL's format, each with a picture, start from the same random weights, draw equally many
responses of at most `--tokens` tokens, and take `--updates` optimizer steps with each batch, with the KL to a reference
in the loss. The learning rate is so low that lengths stay those of the random model. TRL samples with transformers in
its one process, since its vLLM mode needs a GPU; ours is as it runs anywhere: generator, encoder, reference, rewards
and learner are processes, which take turns and compute on all cores. Runs take turns; what is printed are medians. The
first steps of a run, which compile and warm up, are not counted.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.middle_model import SIDE, build_middle
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.runtime.metrics import read_metrics

_LR, _KL_COEF = 1e-6, 0.04
_ROOT = Path(__file__).parent.parent
_RUN_S = 3600.0


def make_prompts(directory: Path, count: int, side: int) -> Path:
    """Questions of a few lengths, each with a picture of its own, as a file of TRL's."""
    lines = []
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = directory / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(picture)
        asked = " ".join(["which digit is written ?"] * (1 + number % 3))
        lines.append({"prompt": [{"role": "user", "content": asked}], "images": [str(picture)]})
    file = directory / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def job(settings: Mapping[str, Any], name: str, out: Path) -> dict[str, Any]:
    """Ours: roles that take turns reserve little, and compute on all cores."""
    seat = {"num_cpus": 0.2, "threads": settings["threads"]}
    responses = settings["prompts"] * settings["samples"]
    reward = {"name": "vowels", "kind": "function", "function": f"{_ROOT}/benchmarks/vs_trl_reward.py:vowels"}
    return {
        "job": "ppo",
        "name": name,
        "output_dir": str(out),
        "device": "cpu",
        "seed": settings["seed"],
        "steps": settings["steps"],
        "policy": {"path": settings["model"]},
        "rewards": [reward],
        "data": {"path": settings["data"], "max_prompt_tokens": 256},
        "sampling": {"max_response_tokens": settings["tokens"]},
        "generator": {"max_num_seqs": responses},
        "algorithm": {
            "advantage_estimator": "grpo",
            "aggregation": "sequence_mean",
            "kl_in": "loss",
            "kl_estimator": "k3",
            "kl_coef": _KL_COEF,
            "prompts_per_step": settings["prompts"],
            "n_samples_per_prompt": settings["samples"],
            "mini_batch_size": responses // settings["updates"],
            "old_logprobs": "sampler",
        },
        "learner": {"engine": {"zero_stage": 0, "micro_batch_tokens": 8192}, "optimizer": {"lr": _LR}},
        "placement": {
            "encoder": {"num_cpus": 0.2},
            "functions": {"num_cpus": 0.2},
            "generator": seat,
            "reference": seat,
            "policy": {"replicas": 1, **seat},
        },
        "checkpoint": {"every_steps": 10_000},
    }


def run(command: list[str], log: Path, environment: Mapping[str, str]) -> float:
    """time.time() at which the process was started; it has ended well on return, and ends when this one is told to."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True
        )
        try:
            code = process.wait(_RUN_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    if code:
        sys.exit(f"{' '.join(command)} ended with status {code}; see {log}:\n{log.read_text()[-2000:]}")
    return began


def run_job(asked: Mapping[str, Any], name: str, scratch: Path) -> float:
    """Run a job of ours; as run()."""
    file = scratch / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(asked)))
    command = [sys.executable, "-m", "mmrlhf_ray.cli.main", "ppo", str(file)]
    return run(command, scratch / f"{name}.log", {"OMP_NUM_THREADS": "1"})


def run_ours(settings: Mapping[str, Any], name: str, scratch: Path) -> dict[str, Any]:
    """Seconds of each step, mean tokens of its responses, and seconds from the start to the first step."""
    began = run_job(job(settings, name, scratch), name, scratch)
    rows = read_metrics(scratch / name)
    # A step ends where the next begins, so that what happens between steps counts as well.
    ended = [row["time"] for row in rows]
    first = ended[0] - rows[0]["seconds_step"]
    parts = {key: [row[key] for row in rows] for key in rows[-1] if key.startswith("seconds_")}
    lengths = [row["response_tokens"] for row in rows]
    return _figures(began, [first, *ended], lengths, settings) | {"parts": parts}


def run_trl(settings: Mapping[str, Any], name: str, scratch: Path, trl: Path) -> dict[str, Any]:
    """As run_ours()."""
    given, out = scratch / f"{name}.settings.json", scratch / f"{name}.json"
    given.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "benchmarks.vs_trl_peer", str(given), str(out)]
    environment = {"PYTHONPATH": str(trl), "OMP_NUM_THREADS": str(settings["threads"])}
    began = run(command, scratch / f"{name}.log", environment)
    found, updates = json.loads(out.read_text()), settings["updates"]
    marks = [found["began"][0], *found["ended"][updates - 1 :: updates]]
    return _figures(began, marks, found["lengths"][::updates], settings)


def _figures(began: float, marks: list[float], lengths: list[float], settings: Mapping[str, Any]) -> dict[str, Any]:
    counted = slice(settings["warmup"], None)
    seconds = np.diff(marks).tolist()
    return {
        "start_s": marks[0] - began,
        "step_s": seconds,
        "tokens": float(np.mean(lengths[counted])),
        "samples_per_s": settings["prompts"] * settings["samples"] / statistics.median(seconds[counted]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--trl", type=Path, required=True, help="directory that TRL was installed into")
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1M parameters instead of 63M")
    parser.add_argument("--prompts", type=int, default=8, help="of a step")
    parser.add_argument("--samples", type=int, default=8, help="to a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="most of a response")
    parser.add_argument("--updates", type=int, default=2, help="optimizer steps with each batch of responses")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sides: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        build, side = (FAMILIES["qwen2_5_vl"], 32) if given.tiny else (build_middle, SIDE)
        build(scratch / "model", 0)
        settings = {
            **{name: getattr(given, name) for name in ("prompts", "samples", "tokens", "updates", "steps", "warmup")},
            "model": str(scratch / "model"),
            "data": str(make_prompts(scratch, given.prompts * given.steps, side)),
            "threads": len(os.sched_getaffinity(0)),
            "seed": 0,
            "lr": _LR,
            "kl_coef": _KL_COEF,
        }
        for number in range(given.rounds):
            for name, found in sides.items():
                own = f"{name}-{number}"
                trl = given.trl.resolve()
                found.append(
                    run_trl(settings, own, scratch, trl) if name == "trl" else run_ours(settings, own, scratch)
                )
                shown = {key: round(found[-1][key], 2) for key in ("samples_per_s", "tokens", "start_s")}
                print(own, shown, flush=True)
    medians = {
        name: {key: statistics.median(f[key] for f in found) for key in ("samples_per_s", "tokens", "start_s")}
        for name, found in sides.items()
    }
    ratio = medians["ours"]["samples_per_s"] / medians["trl"]["samples_per_s"]
    given.out.write_text(json.dumps({"settings": settings, "ratio": ratio, "medians": medians, **sides}, indent=1))
    print(json.dumps({"ratio": ratio, **medians}, indent=1))


if __name__ == "__main__":
    main()
