"""Whether the nodes of a cluster see one directory: learners on any of them write a run's files there."""

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.runtime.waits import deadline_get


def check_shared(directory: Path, roles: Iterable[Resources], seconds: float) -> None:
    """Have every other node that can hold an actor of `roles` read a file of this process's and write one of its own.

    Raises RunError where one cannot, DeadlineExceeded where one does not answer within `seconds`.
    """
    roles, here = tuple(roles), ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and any(_holds(node["Resources"], role) for role in roles)
    }
    if not nodes:
        return
    probe = directory / f".seen-{secrets.token_hex(8)}"
    answers = [probe.with_name(f"{probe.name}-{number}") for number in range(len(nodes))]
    try:
        probe.write_text("here")
        asked = [
            _see.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(probe, answer)
            for node, answer in zip(nodes, answers, strict=True)
        ]
        problems = deadline_get(asked, seconds, f"looking for {directory} on every node", list(nodes.values()))
        for address, problem, answer in zip(nodes.values(), problems, answers, strict=True):
            if problem or not answer.exists():
                raise RunError(
                    f"{directory}: node {address} {problem or 'wrote a file there that cannot be seen from here'}; "
                    "output_dir (work_dir, where it is a URL) must be on a file system that every node mounts at the "
                    "same path, or all actors must fit on one node"
                )
    finally:
        for file in (probe, *answers):
            file.unlink(missing_ok=True)


def _holds(resources: Mapping[str, float], role: Resources) -> bool:
    return resources.get("CPU", 0.0) >= max(role.num_cpus, 1e-9) and resources.get("GPU", 0.0) >= role.num_gpus


def _see_here(probe: Path, answer: Path) -> str:
    """On another node: what is wrong there; "" where nothing is."""
    try:
        probe.read_text()
    except FileNotFoundError:
        return "does not see what is written there"
    except OSError as error:
        return f"cannot read there: {error.strerror}"
    try:
        answer.write_text("there")
    except OSError as error:
        return f"cannot write there: {error.strerror}"
    return ""


_see: Any = ray.remote(num_cpus=0)(_see_here)
