import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import EvaluateConfig, IterateConfig, PPOConfig, load_config
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning.auto import Machine, machine_here, machine_of, placed
from mmrlhf_ray.planning.devices import H100, Nodes
from mmrlhf_ray.planning.placement import check_consistent, check_fits, reservations
from mmrlhf_ray.planning.plan import plan_ppo
from mmrlhf_ray.planning.sizes import GIB
from tests.unit.planning.test_plan import BASE

ROOT = Path(__file__).parents[3]
README = next(
    job
    for job in re.findall(r"^```yaml\n(job: .*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    if "ppo" in job
)
EVALUATE = ["name=x", "policy.path=p", "data.path=d", "baseline.path=b", "reward_model.path=r"]


def cpus(count: float, nodes: int = 1) -> Machine:
    return Machine(nodes, Nodes(gpus=0, cpus=count))


def readme(tmp_path: Path, *overrides: str) -> PPOConfig:
    file = tmp_path / "my-ppo.yaml"
    file.write_text(README)
    return load_config(file, overrides, PPOConfig)


@pytest.mark.parametrize("given", ["left out", "auto"])
def test_the_readme_s_job_starts_on_two_cpus(given, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = tmp_path / "my-ppo.yaml"
    file.write_text(README)
    words = ["ppo", str(file), "--dry-run", *(["placement=auto"] if given == "auto" else [])]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "1 node of 2 CPUs" in done.stdout
    assert re.search(r"^  policy +2 +0.25 ", done.stdout, re.M)


def test_more_processors_are_taken(tmp_path):
    cfg = readme(tmp_path)
    for count, each in ((2, 0.25), (3, 0.37), (8, 1), (20, 2), (64, 8)):
        own = placed(cfg, cpus(count))
        check_fits(own, count, 0)
        assert {r.num_cpus for r in reservations(own)} == {each}
        assert own.placement.policy.computing_threads == max(1, int(each))
    # Sixteen over four nodes, of which one holds no more than its own four.
    assert placed(cfg, cpus(4, nodes=4)).placement.generator.num_cpus == 2
    assert placed(cfg, cpus(1, nodes=64)).placement.generator.num_cpus == 1


def test_what_is_said_stays(tmp_path):
    said = readme(tmp_path, "placement.generator.num_cpus=3")
    assert placed(said, cpus(2)) is said
    own = placed(readme(tmp_path), cpus(2))
    assert placed(own, cpus(64)) is own
    with pytest.raises(ConfigError, match="placement .*: must be auto, or a section"):
        readme(tmp_path, "placement=otto")


def test_other_jobs_are_placed_too():
    evaluate = load_config(None, EVALUATE, EvaluateConfig)
    assert placed(evaluate, cpus(2)).placement.scorer.num_cpus == 0.5
    loop = load_config(ROOT / "jobs" / "iterate.yaml", ["placement=auto"], IterateConfig)
    assert loop.placement.is_auto
    check_fits(placed(loop, cpus(2)), 2, 0)


def test_gpus_are_taken_where_there_are_some():
    cfg = load_config(None, BASE, PPOConfig)
    for count, machine in ((1, Machine(1, Nodes(1, 12))), (8, Machine(1, Nodes())), (16, Machine(2, Nodes()))):
        own = placed(cfg, machine)
        check_consistent(own)
        plan = plan_ppo(own, machine.node)
        assert plan.warnings == ()
        assert len(plan.nodes) <= machine.count
        assert sum(role.total_gpus for role in plan.roles) == count
        assert own.learner == cfg.learner
    assert not any(
        r.num_gpus for r in reservations(placed(cfg.model_copy(update={"device": "cpu"}), Machine(1, Nodes())))
    )
    # A model that is not here is for preflight() to refuse.
    unknown = load_config(None, [*BASE[:1], "policy.path=/none", *BASE[2:]], PPOConfig)
    assert placed(unknown, Machine(1, Nodes())).placement.is_auto


@pytest.mark.parametrize(
    ("gpus", "generators", "each", "scorer"), [(1, 1, 0.6, 0.2), (2, 1, 1.0, 0.5), (3, 1, 1.0, 1.0), (8, 6, 1.0, 1.0)]
)
def test_who_samples_and_scores_shares_gpus(gpus, generators, each, scorer):
    own = placed(load_config(None, EVALUATE, EvaluateConfig), Machine(1, Nodes(gpus, 12.0 * gpus))).placement
    assert (own.generator.actors, own.generator.num_gpus, own.scorer.num_gpus) == (generators, each, scorer)
    assert own.reference.num_gpus == scorer
    check_consistent(load_config(None, [*EVALUATE], EvaluateConfig).model_copy(update={"placement": own}))


def test_this_machine_s_gpus_have_their_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = SimpleNamespace(name="NVIDIA L40S", total_memory=44 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    cfg = load_config(None, BASE, PPOConfig)
    node = machine_here(cfg).node
    assert (node.gpus, node.device.name, node.device.memory_gb) == (2, "NVIDIA L40S", 44)
    assert node.device.flops == H100.flops
    assert machine_here(cfg.model_copy(update={"device": "cpu"})).gpus == 0


def test_a_cluster_is_its_nodes_with_most_gpus():
    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": {"memory": 100 * GIB, **resources}}

    big = {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H200": 1.0}
    found = machine_of([node(CPU=0.0), node(CPU=4.0), node(**big), node(**big | {"CPU": 90.0}), node(False, **big)])
    assert (found.count, found.node.gpus, found.node.cpus, found.node.device.name) == (2, 8, 90, "H200")
    assert found.node.host_gb == 100
    assert machine_of([node(CPU=4.0), node(CPU=2.0)]) == Machine(2, Nodes(0, 2.0, host_gb=100))
    with pytest.raises(ConfigError, match=r"placement: auto cannot be worked out: .* got 'V100'; say what each role"):
        machine_of([node(**{"CPU": 4.0, "GPU": 1.0, "accelerator_type:V100": 1.0})])
    with pytest.raises(ConfigError, match="no node of the cluster has processors"):
        machine_of([node(CPU=0.0)])
