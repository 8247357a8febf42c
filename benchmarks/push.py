"""A push of all weights against a memory copy of the same bytes, by each transport that a machine without GPUs has.

A learner and its generators live for each transport, all at once; they take turns with each other and with the copy,
from memory into memory that both have been used before. A push is all of it: the sampler pauses, the weights are
gathered, packed, sent, loaded into vLLM and proven, and the sampler goes on.

    python -m benchmarks.push OUT.json

The model has 63M parameters in float32, unless --model names another.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import ray

from benchmarks.middle_model import build_middle
from mmrlhf_ray.config import AlgorithmConfig, DataConfig, GeneratorConfig, LearnerConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.runtime.actors import ActorGroup, with_watch_lane
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.learner import Learner, Learners, LearnerSpec

_LONGEST_S = 1800.0
_COPY = "memory copy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument(
        "--transports", nargs="+", choices=get_args(WeightTransport), default=["object_store", "gloo", "ipc"]
    )
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bucket-mb", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        model = options.model or Path(scratch) / "model"
        if options.model is None:
            build_middle(model)
        found = measure(options, ModelConfig(path=str(model)))
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "seconds"}, indent=1))


def measure(options: argparse.Namespace, model: ModelConfig) -> dict[str, Any]:
    """Medians of the seconds, and of each round's ratio to the copy; the load of the machine before and after."""
    load = os.getloadavg()[0]
    pushes = {name: _stage(name, model, options) for name in options.transports}
    nbytes = max([push() for push in pushes.values()])  # the first ones also learn which tensor has which place
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    calls: dict[str, Callable[[], object]] = {_COPY: lambda: np.copyto(target, source), **pushes}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    copies = seconds[_COPY]
    return {
        "MiB": nbytes >> 20,
        "load": [load, os.getloadavg()[0]],
        "median": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio": {name: statistics.median(np.divide(seconds[name], copies)) for name in pushes},
        "seconds": seconds,
    }


def _stage(transport: WeightTransport, model: ModelConfig, options: argparse.Namespace) -> Callable[[], int]:
    """A push from a learner of one rank; bytes that it sent to each generator."""
    sampling, data = SamplingConfig(max_response_tokens=8), DataConfig(path="none", max_prompt_tokens=64)
    arguments = (model, GeneratorConfig(max_num_seqs=4), sampling, data, 0)
    start = ray.remote(Generator).options(num_cpus=0).remote
    handles = [start(*arguments, transport=transport) for _ in range(options.generators)]
    names = tuple(f"generator-{number}" for number in range(options.generators))
    generators = Generators(ActorGroup(names, tuple(handles)), _LONGEST_S)
    spec = LearnerSpec(model, LearnerConfig(), 1, 0, 1, "cpu", transport=transport)
    rank = with_watch_lane(Learner).options(num_cpus=0).remote(spec, PolicyObjective(AlgorithmConfig(), 1.0))
    learners = Learners(ActorGroup(("learner-0",), (rank,)), PassBudget(4096), _LONGEST_S)
    generators.wait_ready(_LONGEST_S)
    learners.wait_joined(learners.join(_LONGEST_S), _LONGEST_S)
    return lambda: learners.push(generators, 1, options.bucket_mb << 20)


if __name__ == "__main__":
    main()
