from dataclasses import replace

import pytest

from mmrlhf_ray.config import PPOConfig, load_config
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning import step_time as module
from mmrlhf_ray.planning.devices import H100, Nodes, device_named
from mmrlhf_ray.planning.plan import plan_ppo
from mmrlhf_ray.planning.render import render
from mmrlhf_ray.planning.step_time import Assumed, Phase, StepTime

# A billion parameters without a vocabulary to speak of, so that a token is two billion operations and the attention.
SHAPE = "{parameters_b: 1.0, hidden_size: 1000, num_layers: 10, num_kv_heads: 1, head_dim: 100, vocab_size: 1}"
JOB = [
    "name=x",
    f"policy={{path: /none, dtype: bfloat16, shape: {SHAPE}}}",
    f"rewards=[{{name: rm, kind: model, model: {{path: /none, dtype: bfloat16, shape: {SHAPE}}}}}]",
    "data={path: d, max_prompt_tokens: 900}",
    "sampling.max_response_tokens=100",
    "algorithm={prompts_per_step: 64, n_samples_per_prompt: 1, mini_batch_size: 32}",
    "learner.engine.zero_stage=2",
    *(f"placement.{role}.num_gpus=1" for role in ("generator", "scorer", "reference", "policy", "critic")),
]
# Round figures: a million million operations a second and as many bytes.
NODE = Nodes(device=replace(H100, flops=1e12, memory_rate=1e12, link_rate=1e12, network_rate=1e10, host_rate=1e12))
ALL = Assumed(1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 0.0, 1e9, 1e9)


@pytest.fixture(autouse=True)
def reaches_all(monkeypatch):
    monkeypatch.setattr(module, "ASSUMED", ALL)


def phases(*overrides: str) -> dict[str, Phase]:
    found = time(*overrides)
    return {phase.name: phase for phase in found.phases} | {"checkpoint": found.checkpoint}


def time(*overrides: str) -> StepTime:
    found = plan_ppo(job(*overrides), NODE).time
    assert found is not None
    return found


def job(*overrides: str) -> PPOConfig:
    """JOB with these instead of what it says of the same keys."""
    keys = tuple(override.partition("=")[0] for override in overrides)
    return load_config(None, [*(said for said in JOB if not said.startswith(keys)), *overrides], PPOConfig)


# 64,000 tokens, each of two operations for a billion parameters (its embedding, of one word, is not multiplied with)
# and of four for each of ten layers, a thousand query numbers and a thousand positions.
FORWARD = 64_000 * (2 * (1e9 - 1000) + 4 * 10 * 1000 * 1000) / 1e12


def test_who_answers_goes_forward_once():
    one, two = phases(), phases("placement.scorer.replicas=2", "placement.reference.replicas=4")
    assert one["scoring"].seconds == pytest.approx(FORWARD)
    assert two["scoring"].seconds == pytest.approx(FORWARD / 2)
    assert two["reference"].seconds == pytest.approx(FORWARD / 4)
    assert one["values"].seconds == pytest.approx(FORWARD / 2)  # two ranks


def test_layers_on_several_devices_take_turns():
    assert phases("placement.reference.num_gpus=4")["reference"].seconds == pytest.approx(FORWARD)


def test_an_update_is_three_forward_passes_its_gradients_and_its_steps():
    # Two ranks pass on twice their rate. 64,000 tokens over them in passes of 4,096: 8 gradients, 2 weights.
    moved = (8 + 2) * 2e9 / 2e12
    steps = 2 * 28 * 1e9 / 2 / 1e12
    assert phases()["policy update"].seconds == pytest.approx(3 * FORWARD / 2 + moved + steps)
    checkpoints = phases("learner.engine.gradient_checkpointing=true")["policy update"].seconds
    assert checkpoints == pytest.approx(4 * FORWARD / 2 + moved + steps)


def test_zero_3_gathers_all_weights_in_every_pass_and_hides_that_behind_computing():
    slow = replace(NODE, gpus=1)  # a rank to a node
    update = {p.name: p for p in plan_ppo(job("learner.engine.zero_stage=3"), slow).time.phases}["policy update"]
    moved, steps = 8 * (1 + 2) * 2e9 / 2e10, 2 * 28 * 1e9 / 2 / 1e12
    assert update.seconds == pytest.approx(max(3 * FORWARD / 2, moved) + steps)
    # Slow enough, and the network it is.
    cfg = job("learner.engine.zero_stage=3", "learner.engine.micro_batch_tokens=1000")
    slower = replace(slow, device=replace(NODE.device, network_rate=1e8))
    update = {p.name: p for p in plan_ppo(cfg, slower).time.phases}["policy update"]
    assert update.bound_by == "network"


def test_an_adapter_computes_no_gradients_of_frozen_weights_and_pushes_little():
    adapter = phases("learner.lora.rank=8", "placement.policy.replicas=1")
    assert adapter["policy update"].seconds == pytest.approx(2 * FORWARD, rel=0.01)
    assert adapter["push"].seconds < 0.05 * phases("weights.transport=object_store")["push"].seconds
    assert "reference" not in adapter
    # The adapter switched off answers for the reference, and on for the old log-probabilities.
    assert adapter["old logprobs"].seconds == pytest.approx(2 * FORWARD)


def test_a_sampler_reads_prompts_once_and_its_weights_for_every_token():
    found = phases("generator.max_num_seqs=32")["generation"]
    reading = 64 * 900 * (2 * (1e9 - 1000) + 4 * 10 * 1000 * 900 / 2) / 1e12
    keys = 32 * 950 * 2 * 10 * 100 * 2
    # Two waves of a hundred tokens; 32 sequences take longer to compute than to read for.
    assert found.seconds == pytest.approx(reading + 2 * 100 * max((2e9 + keys) / 1e12, 32 * 2 * (1e9 - 1000) / 1e12))
    few = phases("generator.max_num_seqs=1")["generation"]
    keys /= 32
    assert few.seconds == pytest.approx(reading + 64 * 100 * (2e9 + keys) / 1e12)


def test_turns_add_up_and_a_stream_overlaps():
    turns, stream = time(), time("stream.max_staleness=1", "algorithm.mismatch.correction=tis")
    by_name = {phase.name: phase.seconds for phase in turns.phases}
    judged = max(by_name[name] for name in ("scoring", "reference", "old logprobs", "values"))
    learned = max(by_name["policy update"], by_name["critic update"]) + by_name["push"]
    assert turns.seconds == pytest.approx(by_name["generation"] + judged + learned)
    # What the learners answer, which is before they learn, is then not asked with the judges.
    judged, answered = max(by_name["scoring"], by_name["reference"]), max(by_name["old logprobs"], by_name["values"])
    assert stream.seconds == pytest.approx(max(by_name["generation"], judged, answered + learned))
    assert turns.bottleneck.seconds == max(by_name.values())


def test_a_line_over_two_ranks_is_as_much_work_and_an_exchange():
    one, two = phases(), phases("learner.engine={zero_stage: 2, sequence_parallel: 2}")
    # Both ranks work on all rows in passes of twice as many tokens. Each gives half of what it has: 32,000 tokens of
    # two times a thousand and a hundred numbers in ten layers, in two bytes.
    exchange = 32_000 * 2 * (1000 + 100) * 10 * 2 / 2 / 1e12
    assert two["old logprobs"].seconds == pytest.approx(one["old logprobs"].seconds + exchange)
    assert two["policy update"].seconds == pytest.approx(one["policy update"].seconds + 2 * exchange)


SHARED = [
    "placement.colocate=[[generator, policy, critic, reference, scorer]]",
    "placement.policy.replicas=1",
    "placement.critic.replicas=1",
    "critic.engine.zero_stage=2",
]


def test_roles_on_one_device_work_one_after_the_other_and_are_moved():
    found = time(*SHARED)
    by_name = {phase.name: phase.seconds for phase in found.phases}
    assert found.seconds == pytest.approx(sum(by_name.values()))
    assert all(len(turn) == 1 for turn in found.turns)
    # The scorer and the reference, of 2e9 bytes, come and go once, as the generator does; the policy (weights,
    # gradients in float32, optimizer: 18 bytes) comes to judge and leaves after the push, the critic after learning.
    assert by_name["moving"] == pytest.approx(2 * (3 * 2e9 + 2 * 18e9) / 1e12)


def test_a_checkpoint_is_weights_and_state():
    assert phases()["checkpoint"].seconds == pytest.approx(14.0)


def test_a_step_s_time_is_said_in_eighty_columns():
    text = render(plan_ppo(job(), NODE))
    assert "Time of a step on H100, all rows of full length (estimates)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "Time of a step: known for GPUs alone" in render(plan_ppo(load_config(None, JOB[:6], PPOConfig), NODE))


def test_devices_by_name():
    assert device_named("NVIDIA H200").name == "H200"
    with pytest.raises(ConfigError, match="one of H100, H200, A100, got 'V100'"):
        device_named("V100")
