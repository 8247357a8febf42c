"""`python -m benchmarks.plans`: what the planner says of the big jobs, written into their heads and docs/scaling.md."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.planning.plan import Plan, plan_ppo
from mmrlhf_ray.planning.push_time import HOST_S_PER_GIB
from mmrlhf_ray.planning.sizes import GIB
from mmrlhf_ray.planning.step_time import ASSUMED, StepTime

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"
BIG = sorted((ROOT / "jobs").glob("qwen*.yaml"))
_FIRST, _FURTHER = "# Plan: ", "#   "
_HEADER = ("job", "nodes × GPUs", "split", "GiB of a GPU", "seconds", "a step", "longest")


def plan_of(path: Path) -> Plan:
    return plan_ppo(load_config(path, [], PPOConfig))


def head(plan: Plan) -> str:
    """Comment lines for the head of the job's file."""
    time = _time(plan)
    gpus, nodes, fullest = _gpus(plan), len(plan.nodes), max(sum(node.host.values()) for node in plan.nodes)
    said = (
        f"{nodes} node{'s' if nodes > 1 else ''}, {gpus:g} {plan.node.device.name}, {time.seconds:.0f} s a step: "
        f"{seconds(time)}; the longest: {time.bottleneck.name}. GiB of the {_usable(plan):.1f} of a GPU: "
        f"{memory(plan)}; {fullest / GIB:.0f} of a node's {plan.node.host_gb:g} in host memory. Estimates, written by "
        "`python -m benchmarks.plans`."
    )
    return "\n".join(wrap(said, 120, initial_indent=_FIRST, subsequent_indent=_FURTHER, break_on_hyphens=False)) + "\n"


def seconds(time: StepTime) -> str:
    """By phase: `|` between what runs at the same time, `+` between what runs one after the other."""
    by_name = {phase.name: f"{phase.name} {phase.seconds:.1f}" for phase in time.phases}
    lanes = [" + ".join(_turn([by_name[name] for name in turn]) for turn in lane) for lane in time.lanes if lane]
    return (" | " if time.overlapped else " + ").join(lanes)


def _turn(phases: Sequence[str]) -> str:
    return phases[0] if len(phases) == 1 else f"({' | '.join(phases)})"


def memory(plan: Plan) -> str:
    """GiB of a device that each role takes, or all roles that take turns on it."""
    shared = {role: device for device in plan.shared for role in device.roles}
    found = [f"{role.role} {role.total / GIB:.1f}" for role in plan.memory if role.role not in shared]
    found += [f"{', '.join(d.roles)} in turns {d.total(d.fullest) / GIB:.1f}" for d in plan.shared]
    return ", ".join(found)


def table(plans: Mapping[Path, Plan]) -> str:
    """A row for each job's file."""
    rows = [_HEADER, ("---",) * len(_HEADER), *(_row(path, plan) for path, plan in plans.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(path: Path, plan: Plan) -> tuple[str, ...]:
    time, nodes = _time(plan), len(plan.nodes)
    split = [
        f"{role.role} {role.replicas}" + (f" × {role.num_gpus:g}" if role.num_gpus > 1 else "")
        for role in plan.roles
        if role.num_gpus
    ]
    size = f"{nodes} × {_gpus(plan) / nodes:g}"
    said = seconds(time).replace("|", "∥")  # which would end a cell
    job = f"[{path.stem}](../jobs/{path.name})"
    return job, size, ", ".join(split), memory(plan), said, f"{time.seconds:.0f}", time.bottleneck.name


def assumed() -> str:
    """A row for each figure that the times are worked out with."""
    rows = [("figure", "value"), ("---", "---")]
    rows += [(f"`{name}`", f"{value:g}") for name, value in asdict(ASSUMED).items()]
    rows += [(f"seconds for a GiB by `{name}`", f"{value:g}") for name, value in HOST_S_PER_GIB.items()]
    return "\n".join(f"| {name} | {value} |" for name, value in rows) + "\n"


def page(text: str, plans: Mapping[Path, Plan]) -> str:
    """The page with both tables between their marks."""
    for mark, rows in (("plans", table(plans)), ("assumed", assumed())):
        begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{rows}\n{end}{rest.split(end)[1]}"
    return text


def with_head(text: str, lines: str) -> str:
    """A job's file with these lines after the comment that it begins with, instead of earlier ones."""
    kept = re.sub(rf"^{_FIRST}.*\n(?:{_FURTHER}.*\n)*", "", text, flags=re.M)
    comment = re.match(r"(?:#.*\n)*", kept)
    end = comment.end() if comment else 0
    return kept[:end] + lines + kept[end:]


def _gpus(plan: Plan) -> float:
    return sum(role.total_gpus for role in plan.roles)


def _usable(plan: Plan) -> float:
    return max(role.limit for role in plan.memory if role.limit is not None) / GIB


def _time(plan: Plan) -> StepTime:
    if plan.time is None:
        raise ValueError(f"{plan.cfg.name}: a plan without times")
    return plan.time


def main() -> None:
    plans = {path: plan_of(path) for path in BIG}
    for path, plan in plans.items():
        path.write_text(with_head(path.read_text(), head(plan)))
    PAGE.write_text(page(PAGE.read_text(), plans))


if __name__ == "__main__":
    main()
