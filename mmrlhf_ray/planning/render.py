"""A plan as text for a terminal of 80 columns."""

from collections.abc import Collection, Sequence
from itertools import groupby
from textwrap import wrap

from mmrlhf_ray.config import PartConfig
from mmrlhf_ray.planning.colocation import SharedDevice
from mmrlhf_ray.planning.memory import PASS_ITEMS, RoleMemory
from mmrlhf_ray.planning.placement import Reservation
from mmrlhf_ray.planning.plan import Plan
from mmrlhf_ray.planning.sizes import GIB

_ITEMS = (
    "parameters", "gradients", "optimizer", "buffers", *PASS_ITEMS, "step", "kv_cache", "graphs",
)  # fmt: skip


def render(plan: Plan) -> str:
    """The plan as text for a terminal."""
    cfg = plan.cfg
    lines = [f"Plan of {cfg.name}: {cfg.steps} steps, device {cfg.device}. Nothing was started.", ""]
    lines += [f"Placement ({cfg.placement.strategy})", *_placement_table(plan), ""]
    if plan.memory:
        lines += ["Memory per rank or replica and device, GiB (estimates)", *_memory_table(plan.memory)]
        lines += [*_host_lines(plan), ""]
    for device in plan.shared:
        lines += ["Memory of a device that roles take turns on, GiB (estimates)", *_shared_table(device), ""]
    if plan.trained:
        lines += ["Trained parameters", *_trained_lines(plan), ""]
    lines += ["Batch", *_batch_lines(plan), ""]
    lines += [*_time_lines(plan), ""]
    lines += [line for warning in plan.warnings for line in wrap(f"Warning: {warning}", 80, subsequent_indent="  ")]
    lines += [] if plan.warnings else ["No warnings."]
    return "\n".join(lines)


def _table(rows: list[list[str]], left: Collection[int] = (0,)) -> list[str]:
    """Columns that are not in `left` end at the same place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows]
    return ["  " + "  ".join(row).rstrip() for row in cells]


def role_table(roles: Sequence[Reservation]) -> list[str]:
    """Lines with what each role reserves, and all of them."""
    rows = [["role", "replicas", "CPUs each", "GPUs each", "CPUs", "GPUs"]]
    rows += [
        [r.role, *(f"{x:g}" for x in (r.replicas, r.num_cpus, r.num_gpus, r.total_cpus, r.total_gpus))] for r in roles
    ]
    cpus, gpus = sum(r.total_cpus for r in roles), sum(r.total_gpus for r in roles)
    return _table([*rows, ["total", str(sum(r.replicas for r in roles)), "", "", f"{cpus:g}", f"{gpus:g}"]])


def _placement_table(plan: Plan) -> list[str]:
    gpus = sum(r.total_gpus for r in plan.roles)
    size = f"{plan.node.gpus} GPUs and {plan.node.cpus:g} CPUs" if gpus else f"{plan.node.cpus:g} CPUs"
    nodes = [f"  {len(plan.nodes)} node{'s' if len(plan.nodes) > 1 else ''} of {size}:"]
    first = 1
    for node, alike in groupby(plan.nodes):
        last = first + len(list(alike)) - 1
        held = ", ".join(f"{count} {role}" for role, count in node.replicas.items())
        which = f"{first}" if first == last else f"{first} to {last}, each"
        nodes += wrapped(f"  {which}: {node.gpus:g} GPUs, {node.cpus:g} CPUs: {held}")
        first = last + 1
    return [*role_table(plan.roles), *nodes]


def _memory_table(memory: tuple[RoleMemory, ...]) -> list[str]:
    used = [name for name in _ITEMS if any(name in role.items for role in memory)]
    rows = [["", *(role.role for role in memory)], ["on", *("GPU" if role.on_gpu else "host" for role in memory)]]
    rows += [[name, *(_gib(role.items[name]) if name in role.items else "-" for role in memory)] for name in used]
    rows.append(["total", *(_gib(role.total) for role in memory)])
    rows.append(["usable", *("-" if role.limit is None else f"{role.limit / GIB:.1f}" for role in memory)])
    notes = ["  total: activations, towers and logits are gone when the optimizer steps"]
    return _table(rows) + (notes if "step" in used else [])


def _shared_table(device: SharedDevice) -> list[str]:
    rows = [["phase", *device.roles, "total", "usable"]]
    limit = "-" if device.limit is None else f"{device.limit / GIB:.1f}"
    rows += [
        [phase, *(_gib(held[role]) for role in device.roles), _gib(device.total(phase)), limit]
        for phase, held in device.phases.items()
    ]
    return _table(rows)


def _time_lines(plan: Plan) -> list[str]:
    if plan.time is None:
        return ["Time of a step: known for GPUs alone, and for models of known size"]
    time, rows = plan.time, [["phase", "seconds", "bound by"]]
    seconds = {phase.name: phase for phase in time.phases}
    for turn in time.turns:
        rows += [
            [("  and " if number else "") + name, f"{seconds[name].seconds:.1f}", seconds[name].bound_by]
            for number, name in enumerate(turn)
        ]
    rows.append(["step", f"{time.seconds:.1f}", time.bottleneck.name])
    how = (
        "sampling, judging and learning at the same time"
        if time.overlapped
        else "one after the other, `and` at the same time"
    )
    saved = plan.cfg.checkpoint.every_steps
    return [
        f"Time of a step on {plan.node.device.name}, all rows of full length (estimates)",
        *_table(rows, left=(0, 2)),
        f"  {how}",
        f"  a checkpoint every {saved} steps: {time.checkpoint.seconds:.0f} s, while the next step is sampled",
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _host_lines(plan: Plan) -> list[str]:
    """Of the node that holds most."""
    fullest = max(plan.nodes, key=lambda node: sum(node.host.values()))
    parts = [f"{name} {size / GIB:.0f}" for name, size in fullest.host.items() if size >= GIB / 2]
    said = f"host memory of the fullest node: {sum(fullest.host.values()) / GIB:.0f} of {plan.node.host_gb:g} GiB"
    return wrapped(f"{said} ({', '.join(parts)})")


def wrapped(text: str) -> list[str]:
    """In lines of a terminal, below a heading."""
    return wrap(text, 78, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _trained_lines(plan: Plan) -> list[str]:
    lines = []
    for role, count in plan.trained.items():
        learner = plan.cfg.learner if role == "policy" else plan.cfg.critic
        own = {name: part for name, part in learner.parts if part != PartConfig()}
        said = [f"{name} {f'at lr={p.lr:g}' if p.train and p.lr else 'frozen'}" for name, p in own.items()]
        if learner.lora:
            lora = learner.lora
            said = [f"an adapter of rank {lora.rank} in {', '.join(lora.parts)}", *lora.also_train, *said]
        lines.append(f"  {role}: {count:,}" + (f" ({', '.join(said)})" if said else ""))
    return lines


def _batch_lines(plan: Plan) -> list[str]:
    a, b = plan.cfg.algorithm, plan.batch
    lines = [
        f"  responses per PPO step: {a.prompts_per_step} prompts × {a.n_samples_per_prompt} = {b.responses_per_step}",
        f"  optimizer steps per PPO step: {b.responses_per_step} / {a.update_size} × "
        f"{a.ppo_epochs} epochs = {b.optimizer_steps}",
        f"  responses in the entire run: {b.responses_in_run}",
    ]
    for role, (least, most) in b.responses_per_rank.items():
        count = f"{least}" if least == most else f"{least} to {most}"
        passes = b.micro_batches[role]
        lines += [
            f"  {role}: about {count} responses per rank and optimizer step,",
            f"    in {passes[0]} to {passes[1]} forward passes (shortest to longest responses)",
        ]
    return lines
