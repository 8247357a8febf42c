from dataclasses import replace

import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.planning.devices import H100, Nodes
from mmrlhf_ray.planning.push_time import push_seconds
from mmrlhf_ray.planning.sizes import GIB

JOB = ["name=x", "policy={path: /none, dtype: bfloat16}", "rewards=[{name: a, kind: function, function: accuracy}]"]
JOB += ["data.path=d", "algorithm={advantage_estimator: rloo, n_samples_per_prompt: 2, kl_coef: 0}"]
JOB += ["placement.policy={num_gpus: 1, replicas: 4}"]
# Round figures: 100 GB a second within a node, 10 between nodes.
NODE = Nodes(gpus=8, device=replace(H100, link_rate=1e11, network_rate=1e10))
PER_NODE_4 = replace(NODE, gpus=4)
NBYTES = 20e9


def push(*overrides: str, node: Nodes = NODE, generators: int = 4, each: int = 1) -> tuple[float, str]:
    placed = f"placement.generator={{num_gpus: {each}, replicas: {generators}}}"
    cfg = load_config(None, [*JOB, placed, f"generator.tensor_parallel_size={each}", *overrides], PPOConfig)
    return push_seconds(cfg, NBYTES, node, 0.5)


def test_nccl_is_as_fast_as_the_slowest_link():
    assert push() == (pytest.approx(20 / 50), "network")
    assert push(node=PER_NODE_4) == (pytest.approx(20 / 5), "network")


def test_divided_weights_come_to_the_first_rank_before():
    assert push("learner.engine.zero_stage=3")[0] == pytest.approx(20 / 50 * 2)
    # The ranks are on one node, the generators on another.
    assert push("learner.engine.zero_stage=3", node=PER_NODE_4)[0] == pytest.approx(20 / 5 + 20 / 50)


def test_through_the_object_store_hosts_work_and_each_node_fetches():
    host = 3.24 * NBYTES / GIB
    assert push("weights.transport=object_store") == (pytest.approx(host), "host")
    # Sixteen GPUs for generators are on four nodes, of which a slow network has each fetch.
    slow = replace(PER_NODE_4, device=replace(H100, network_rate=2e9))
    wide = push("weights.transport=object_store", node=slow, generators=16)
    assert wide == (pytest.approx(4 * 20 / 1), "network")
    shards = push("weights.transport=object_store", generators=1, each=4)
    assert shards[0] == pytest.approx(host + 3 * 0.5 * NBYTES / GIB)


def test_gloo_works_on_hosts_and_goes_down_a_tree():
    assert push("weights.transport=gloo") == (pytest.approx(2.18 * NBYTES / GIB), "host")
    slow = replace(PER_NODE_4, device=replace(H100, network_rate=2e9))
    # The first rank and four workers: three levels.
    assert push("weights.transport=gloo", node=slow) == (pytest.approx(3 * 20 / 1), "network")


def test_roles_that_share_a_device_push_through_the_object_store():
    shared = ["placement.colocate=[[generator, policy]]", "learner.engine.zero_stage=2"]
    assert push(*shared) == (pytest.approx(3.24 * NBYTES / GIB), "host")


def test_one_gpu_that_both_share_reads_and_writes_its_own_memory():
    alone = ["placement.colocate=[[generator, policy]]", "placement.policy.replicas=1", "weights.transport=ipc"]
    assert push(*alone, generators=1) == (pytest.approx(6 * NBYTES / 3.35e12), "memory")
