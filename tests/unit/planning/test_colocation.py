import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.errors import PlacementError
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.plan import Plan, plan_ppo
from mmrlhf_ray.planning.render import render
from mmrlhf_ray.planning.sizes import GIB
from tests.unit.planning.test_plan import BASE, of_memory

ROLES = ("generator", "policy", "critic", "reference", "scorer")
SHARED = [f"placement.colocate=[[{', '.join(ROLES)}]]", *(f"placement.{role}.num_gpus=1" for role in ROLES)]
SHARED += [f"placement.{role}.replicas=4" for role in ROLES]
CONTEXTS = len(ROLES) * 0.5 * GIB


def plan(*overrides: str, node: Nodes | None = None) -> Plan:
    return plan_ppo(load_config(None, [*BASE, *SHARED, *overrides], PPOConfig), node or of_memory(80))


def test_a_device_holds_who_is_at_work():
    found = plan()
    (device,) = found.shared
    memory = {role.role: role for role in found.memory}
    assert device.total("generate") == memory["generator"].total + CONTEXTS
    assert device.total("learn") == memory["policy"].total + memory["critic"].total + CONTEXTS
    # To answer, learners have a pass that keeps nothing; for a push an engine wakes with its weights alone, 2e9 bytes.
    answering = sum(memory[role].resident + memory[role].asked for role in ("policy", "critic"))
    assert device.total("judge") == memory["scorer"].total + memory["reference"].total + answering + CONTEXTS
    assert device.total("push") == memory["policy"].resident + 2e9 + CONTEXTS
    assert memory["policy"].asked < memory["policy"].total - memory["policy"].resident


def test_the_others_wait_in_host_memory():
    found = plan()
    (device,) = found.shared
    learner = 2e9 + 4e9 / 4 + 12e9 / 4  # weights; gradients in float32 and optimizer over four ranks
    assert device.waiting["generate"] == 2 * learner + 2 * 2e9
    assert device.waiting["judge"] == 2e9
    assert device.waiting["learn"] == 3 * 2e9
    assert device.waiting["push"] == learner + 2 * 2e9
    # All four devices are on one node.
    assert found.nodes[0].host["waiting"] == 4 * device.waiting["generate"]


def test_ranks_that_hold_the_reference_together_stay():
    (device,) = plan("reference_engine=zero3").shared
    assert device.phases["generate"]["reference"] == 2e9 / 4 + CONTEXTS / 5
    assert device.waiting["generate"] == 2 * 6e9 + 2e9


def test_more_than_the_device_has_is_said_with_who_has_it():
    assert plan().warnings == ()
    (warning,) = [w for w in plan(node=of_memory(24)).warnings if "colocate" in w]
    assert "while roles learn" in warning
    assert "of which 22.1 are usable" in warning
    assert "policy" in warning
    assert "Memory of a device that roles take turns on" in render(plan())
    assert max(map(len, render(plan()).splitlines())) <= 80


def test_roles_that_share_a_device_are_on_one_node_and_take_it_once():
    found = plan(node=Nodes(gpus=2))
    assert [node.gpus for node in found.nodes] == [2, 2]
    assert found.nodes[0].replicas == {"encoder": 1, **dict.fromkeys(ROLES, 2)}
    with pytest.raises(PlacementError, match="one seat of generator, scorer, reference, policy, critic needs 5 CPUs"):
        plan(node=Nodes(gpus=8, cpus=4))
