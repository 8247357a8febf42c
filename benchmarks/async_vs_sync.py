"""What bounded staleness gains where sampling and learning have a device each: here a core of a two-core machine.

    python -m benchmarks.async_vs_sync OUT.json --rounds 3

The same GRPO run of a Qwen2.5-VL of 63M parameters with `stream.max_staleness` 0 and 1, in turns. Whatever samples and
judges is held on one core, the learner on the other, in both; so at 0 the cores take turns, as the roles do. Responses
end by chance, and `--tokens` lets some grow ten times as long as the mean. `benchmarks/stream_simulator.py` is given
what the runs at 0 say of the machine (seconds of a token, an update, a push) and the lengths, and its gain is printed
beside the measured one.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.middle_model import SIDE, build_middle
from benchmarks.stream_simulator import Machine, Workload, simulate
from benchmarks.vs_trl import job, make_prompts, run_job
from mmrlhf_ray.pipelines.ppo.job import ROLLOUTS_DIR
from mmrlhf_ray.runtime.metrics import read_metrics

_SAMPLING = ("ray::Generator", "ray::Reference", "ray::RewardFunctions", "ray::PromptEncoder")
_LEARNING = ("ray::Learner",)
_LOOK_S = 2.0


@contextmanager
def held(sampling: int, learning: int) -> Iterator[None]:
    """Until the end of the block, keep the actors of a run, and what they start, on their core."""
    ended = Event()

    def hold() -> None:
        while not ended.wait(_LOOK_S):
            for process in psutil.process_iter():
                with suppress(psutil.Error, OSError):
                    title = " ".join(process.cmdline())
                    core = next((c for c, titles in ((sampling, _SAMPLING), (learning, _LEARNING))
                                 if title.startswith(titles)), None)  # fmt: skip
                    if core is not None:
                        for own in (process, *process.children(recursive=True)):
                            for thread in own.threads():
                                os.sched_setaffinity(thread.id, {core})

    thread = Thread(target=hold, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure(settings: Mapping[str, Any], staleness: int, name: str, scratch: Path) -> dict[str, Any]:
    """Seconds of a step, and of what it consists of; lengths of all responses."""
    asked = job(settings, name, scratch) | {"rollouts_logged": settings["prompts"] * settings["samples"]}
    asked["stream"] = {"max_staleness": staleness}
    asked["algorithm"] |= {"mismatch": {"correction": "tis"}, "old_logprobs": "auto"}
    with held(0, 1):
        run_job(asked, name, scratch)
    rows, first = read_metrics(scratch / name), settings["warmup"]
    ended = [row["time"] for row in rows]
    files = sorted((scratch / name / ROLLOUTS_DIR).iterdir())[first:]
    lengths = [pq.read_table(file).column("response_tokens").to_pylist() for file in files]
    parts = ("generate", "reference", "policy_update", "push")
    return {
        "step_s": (ended[-1] - ended[first - 1]) / (len(ended) - first),
        "parts": {part: [row[f"seconds_{part}"] for row in rows[first:]] for part in parts},
        "staleness": float(np.mean([row["staleness_mean"] for row in rows[first:]])),
        "lengths": lengths,
    }


def machine_of(runs: list[dict[str, Any]]) -> Machine:
    """What runs at staleness 0 say: a token of all running responses takes `token_s` and `batch_s` for each of them.

    The reference computes on the sampling core, for as many tokens as are sampled.
    """
    seconds, longest, tokens, reference = [], [], [], []
    for run in runs:
        seconds += run["parts"]["generate"]
        reference += run["parts"]["reference"]
        longest += [max(step) for step in run["lengths"]]
        tokens += [sum(step) for step in run["lengths"]]
    (token_s, batch_s), *_ = np.linalg.lstsq(np.stack([longest, tokens], axis=1), np.array(seconds), rcond=None)
    medians = {part: statistics.median(x for run in runs for x in run["parts"][part]) for part in runs[0]["parts"]}
    own = float(batch_s) + sum(reference) / sum(tokens)
    return Machine("measured", medians["policy_update"], medians["push"], max(0.0, float(token_s)), own)


def expected_gain(runs: list[dict[str, Any]], settings: Mapping[str, Any]) -> float:
    """The simulator's, with this machine and these lengths."""
    logs = np.log([length for run in runs for step in run["lengths"] for length in step])
    load = Workload(
        generators=1,
        slots=settings["prompts"] * settings["samples"] * 2,
        n_samples=settings["samples"],
        prompts_per_step=settings["prompts"],
        steps=60,
        mean=float(np.exp(logs).mean()),
        sigma=float(logs.std()),
        cap=settings["tokens"],
    )
    return simulate(machine_of(runs), load, 0).step_s / simulate(machine_of(runs), load, 1).step_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--prompts", type=int, default=8, help="of a step")
    parser.add_argument("--samples", type=int, default=8, help="to a prompt")
    parser.add_argument("--tokens", type=int, default=256, help="most of a response")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        build_middle(scratch / "model")
        settings = {
            **{name: getattr(given, name) for name in ("prompts", "samples", "tokens", "steps", "warmup")},
            "updates": 1,
            "threads": 1,
            "seed": 0,
            "model": str(scratch / "model"),
            "data": str(make_prompts(scratch, given.prompts * (given.steps + 2), SIDE)),
        }
        for number in range(given.rounds):
            for staleness, runs in found.items():
                runs.append(measure(settings, staleness, f"staleness-{staleness}-{number}", scratch))
                print(f"staleness {staleness}: {runs[-1]['step_s']:.2f} s a step", flush=True)
    seconds = {staleness: statistics.median(run["step_s"] for run in runs) for staleness, runs in found.items()}
    result = {
        "settings": settings,
        "gain": seconds[0] / seconds[1],
        "simulated_gain": expected_gain(found[0], settings),
        "samples_per_s": {k: given.prompts * given.samples / s for k, s in seconds.items()},
        "tokens": float(np.mean([x for run in found[0] for step in run["lengths"] for x in step])),
        "parts": {k: {p: statistics.median(x for run in runs for x in run["parts"][p]) for p in runs[0]["parts"]}
                  for k, runs in found.items()},
    }  # fmt: skip
    given.out.write_text(json.dumps(result | {"runs": found}, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
