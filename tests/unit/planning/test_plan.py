from dataclasses import replace

import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.errors import ConfigError, PlacementError
from mmrlhf_ray.planning.devices import H100, Nodes
from mmrlhf_ray.planning.loads import cached_tokens
from mmrlhf_ray.planning.plan import plan_ppo
from mmrlhf_ray.planning.render import render
from mmrlhf_ray.planning.sizes import GIB

SHAPE = "{parameters_b: 1.0, hidden_size: 1024, num_layers: 10, num_kv_heads: 2, head_dim: 64, vocab_size: 50000}"
BASE = [
    "name=x",
    f"policy={{path: /none, dtype: bfloat16, shape: {SHAPE}}}",
    f"rewards=[{{name: rm, kind: model, model: {{path: /none, dtype: bfloat16, shape: {SHAPE}}}}}]",
    "data={path: d, max_prompt_tokens: 960}",
    "sampling.max_response_tokens=64",
]
GPUS = [f"placement.{role}.num_gpus=1" for role in ("generator", "scorer", "reference", "policy", "critic")]


def of_memory(gigabytes: float) -> Nodes:
    return Nodes(device=replace(H100, memory_gb=gigabytes))


def config(*overrides: str) -> PPOConfig:
    return load_config(None, [*BASE, *overrides], PPOConfig)


def test_batch_arithmetic_by_hand():
    plan = plan_ppo(
        config(
            "steps=10",
            "algorithm={prompts_per_step: 30, n_samples_per_prompt: 4, mini_batch_size: 40, ppo_epochs: 2}",
            "placement.policy.replicas=3",
            "learner.engine.micro_batch_tokens=2048",
        )
    )
    b = plan.batch
    assert b.responses_per_step == 120
    assert b.optimizer_steps == 6
    assert b.responses_in_run == 1200
    assert b.responses_per_rank["policy"] == (13, 14)
    # Full rows have 1,024 tokens, two to a pass: 14 / 2.
    assert b.micro_batches["policy"] == (1, 7)


def test_nodes_are_filled_by_gpus_and_cpus():
    cfg = config(*GPUS, "placement.generator.replicas=2", "placement.policy.replicas=4", "placement.critic.replicas=4")
    plan = plan_ppo(cfg, Nodes(gpus=4, cpus=8))
    assert [node.gpus for node in plan.nodes] == [4, 4, 4]
    assert sum(sum(node.replicas.values()) for node in plan.nodes) == 13
    # The same actors on nodes with two CPUs: those run out first.
    assert len(plan_ppo(cfg, Nodes(gpus=4, cpus=2)).nodes) == 7


def test_fractional_gpus_share_one():
    cfg = config(*GPUS[3:], "placement.scorer.num_gpus=0.5", "placement.reference.num_gpus=0.5")
    assert [node.gpus for node in plan_ppo(cfg).nodes] == [5]


def test_a_plan_has_no_reference_that_nothing_uses():
    used, unused = plan_ppo(config()), plan_ppo(config("algorithm.kl_coef=0"))
    assert "reference" in render(used)
    assert "reference" not in render(unused)


def test_ranks_that_hold_the_reference_together_are_planned_as_such():
    gpus = [*GPUS, "placement.reference.replicas=4", "reference_engine=zero3"]
    others = [key for key in gpus if key != "placement.reference.num_gpus=1"]
    together = next(role for role in plan_ppo(config(*gpus)).memory if role.role == "reference")
    alone = next(role for role in plan_ppo(config(*gpus[:-1])).memory if role.role == "reference")
    assert together.items["parameters"] == alone.items["parameters"] / 4
    assert together.items["buffers"] == 2e9, "each gathers what it computes with: 1e9 parameters in two bytes"
    with pytest.raises(ConfigError, match=r"reference.num_gpus=2: with reference_engine=zero3 a rank drives one"):
        plan_ppo(config(*others, "placement.reference.num_gpus=2"))
    shared = plan_ppo(config(*others, "placement.reference.num_gpus=0.5"))
    assert any("placement.reference.num_gpus=0.5: two ranks may land on one GPU" in w for w in shared.warnings)


def test_strict_strategies():
    spread = plan_ppo(config(*GPUS, "placement.strategy=STRICT_SPREAD"))
    assert len(spread.nodes) == 8
    with pytest.raises(PlacementError, match="STRICT_PACK wants one node, the actors need 2"):
        plan_ppo(config(*GPUS, "placement.strategy=STRICT_PACK"), Nodes(gpus=6))


def test_an_actor_larger_than_a_node():
    with pytest.raises(PlacementError, match=r"placement.reference: one reference needs 4 GPUs, a node has 2"):
        plan_ppo(config("placement.reference.num_gpus=4"), Nodes(gpus=2))


def test_memory_over_the_limit_warns_and_names_a_remedy():
    plan = plan_ppo(config(*GPUS), of_memory(8))
    warnings = "\n".join(plan.warnings)
    assert "policy: about" in warnings
    assert "learner.engine" in warnings
    assert "usable" in warnings
    assert plan_ppo(config(*GPUS), of_memory(80)).warnings == ()


def test_a_share_of_a_gpu_has_that_share_of_its_memory():
    plan = plan_ppo(config(*GPUS[:-1], "placement.critic.num_gpus=0.6"), of_memory(100))
    limits = {role.role: role.limit for role in plan.memory}
    assert limits["critic"] == pytest.approx(0.6 * limits["policy"])
    assert limits["policy"] == pytest.approx(92 * GIB)


def test_a_kv_cache_without_room_warns():
    plan = plan_ppo(config(*GPUS, "generator.gpu_memory_utilization=0.2"), of_memory(8))
    assert any("no room for the KV cache" in warning for warning in plan.warnings)


def test_responses_to_a_prompt_share_its_place_in_the_cache():
    assert cached_tokens(config()) == 960 + 64
    group = "algorithm={advantage_estimator: rloo, n_samples_per_prompt: 8, mini_batch_size: 64}"
    assert cached_tokens(config(group)) == 960 / 8 + 64


def test_learner_ranks_on_half_a_gpu_warn():
    plan = plan_ppo(config(*GPUS[:3], "placement.policy.num_gpus=0.5", "placement.critic.num_gpus=0.5"))
    assert sum("NCCL" in warning for warning in plan.warnings) == 2


def test_a_model_that_is_not_there_is_left_out_with_a_warning():
    plan = plan_ppo(
        load_config(
            None,
            ["policy.path=/none", "rewards=[{name: rm, kind: model, model: {path: /gone}}]", *BASE[:1], *BASE[3:]],
            PPOConfig,
        )
    )
    assert plan.memory == ()
    assert "policy: /none is not a directory here" in plan.warnings[0]
    assert "Memory" not in render(plan)


def test_a_prompt_limit_beyond_the_context(model_directory):
    with pytest.raises(ConfigError, match=r"= 1024 is more than the 512 tokens of"):
        plan_ppo(config(f"policy.path={model_directory}"))


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match=r"generator.tensor_parallel_size=2"):
        plan_ppo(config("generator.tensor_parallel_size=2"))


def test_render_shows_placement_memory_and_batch():
    text = render(plan_ppo(config(*GPUS, "placement.policy.replicas=16")))
    words = [line.split() for line in text.splitlines()]
    assert "Nothing was started" in text
    assert ["policy", "16", "1", "1", "16", "16"] in words
    assert ["total", "22", "22", "21"] in words
    assert "64 prompts × 1 = 64" in text
    assert "policy: about 4 responses per rank" in text
    assert ["generator", "scorer", "reference", "policy", "critic"] in words
    # 2 bytes × 1e9 parameters.
    assert ["parameters", *["1.86"] * 5] in words
    # 12 of them, and 4 for gradients, over 16 ranks and over 2.
    assert ["optimizer", "-", "-", "-", "0.70", "5.59"] in words
    assert ["gradients", "-", "-", "-", "0.23", "1.86"] in words


def test_nodes_that_are_alike_are_listed_together():
    text = render(plan_ppo(config(*GPUS, "placement.policy.replicas=32"), Nodes(gpus=4)))
    assert "2 to 8, each: 4 GPUs, 4 CPUs: 4 policy" in text


def test_what_is_trained_is_counted_from_the_model_s_directory(vl):
    def plan_of(*overrides):
        base = ["name=x", f"policy.path={vl}", *BASE[2:3], "data={path: d, max_prompt_tokens: 400}"]
        return plan_ppo(load_config(None, [*base, *overrides], PPOConfig))

    whole = plan_of()
    frozen = plan_of("learner.parts.language_model.train=false", "learner.parts.projector.lr=0.01")
    assert 0 < frozen.trained["policy"] < whole.trained["policy"]
    items = [next(role.items for role in plan.memory if role.role == "policy") for plan in (whole, frozen)]
    assert items[1]["parameters"] == items[0]["parameters"]
    assert items[1]["optimizer"] == items[0]["optimizer"] * frozen.trained["policy"] / whole.trained["policy"]
    assert "(language_model frozen, projector at lr=0.01)" in render(frozen)
    with pytest.raises(ConfigError, match=r"learner\.parts\.audio_tower: a qwen2_5_vl model has no such part"):
        plan_of("learner.parts.audio_tower.train=false")
    with pytest.raises(ConfigError, match=r"lora\.target_modules names 'qproj', which is not a linear layer"):
        plan_of("learner.lora.target_modules=[qproj]")


def test_an_adapter_takes_little_where_the_model_is_elsewhere():
    whole, adapter = plan_ppo(config()), plan_ppo(config("learner.lora.rank=8"))
    items = [next(role.items for role in plan.memory if role.role == "policy") for plan in (whole, adapter)]
    assert items[1]["optimizer"] < 0.05 * items[0]["optimizer"]
    assert items[1]["gradients"] < 0.05 * items[0]["gradients"]
    assert not adapter.trained
