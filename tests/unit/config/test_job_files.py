"""Every file in jobs/ loads as the job it says it is, and every PPO job can be planned."""

from pathlib import Path

import pytest

from mmrlhf_ray.config import JobKind, PPOConfig, load_config, read_job_kind
from mmrlhf_ray.planning.plan import plan_ppo, render

JOBS = sorted((Path(__file__).parents[3] / "jobs").glob("*.yaml"))
PPO = [path for path in JOBS if read_job_kind(path) is JobKind.PPO]


def test_all_kinds_are_there():
    assert {read_job_kind(path) for path in JOBS} == set(JobKind)


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_loads(path):
    load_config(path, [], read_job_kind(path).config)


@pytest.mark.parametrize("path", PPO, ids=lambda p: p.stem)
def test_dry_run(path):
    plan = plan_ppo(load_config(path, [], PPOConfig))
    assert plan.cfg.name in render(plan)
    for role in plan.memory:
        assert role.limit is None or role.total <= role.limit


@pytest.mark.parametrize(
    ("name", "gpus", "nodes"),
    [("qwen2.5-vl-3b-1node", 8, 1), ("qwen2.5-omni-7b-4nodes", 32, 4), ("qwen2.5-vl-72b-16nodes", 128, 16)],
)
def test_real_scale_jobs_fill_the_nodes_they_name_without_a_warning(name, gpus, nodes):
    path = next(path for path in JOBS if path.stem == name)
    plan = plan_ppo(load_config(path, [], PPOConfig))
    assert sum(role.total_gpus for role in plan.roles) == gpus
    assert len(plan.nodes) == nodes
    assert {role.role for role in plan.memory} == {"generator", "scorer", "reference", "policy", "critic"}
    assert plan.warnings == ()


@pytest.mark.parametrize("path", [p for p in PPO if p.stem.startswith("demo")], ids=lambda p: p.stem)
def test_demo_jobs_fit_two_cores(path):
    plan = plan_ppo(load_config(path, [], PPOConfig), gpus_per_node=0, cpus_per_node=2)
    assert len(plan.nodes) == 1
