import pytest

from mmrlhf_ray.config import EngineConfig, GeneratorConfig, LoRAConfig, ModelConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning.activations import PassLoad, learning_pass, logits_bytes
from mmrlhf_ray.planning.memory import (
    generator_bytes,
    kv_sequences,
    learner_bytes,
    peak,
    server_bytes,
    state_bytes,
    step_bytes,
)
from mmrlhf_ray.planning.sizes import GIB, ModelSize, lora_parameters, model_size

SIZE = ModelSize(
    parameters=7_500_000_000, hidden_size=4096, num_layers=32, num_kv_heads=8, head_dim=128, vocab_size=32_000
)


LOAD = PassLoad(tokens=4096, response_tokens=100, line=1024)


@pytest.mark.parametrize(
    ("stage", "gigabytes", "summed"),
    # Figure 1 of the ZeRO paper: 7.5 billion parameters on 64 GPUs. Its gradients have two bytes; added in float32 they
    # have four more on each rank under ZeRO-1, and two more of a rank's part under 2 and 3.
    [(0, 120.0, 0), (1, 31.4, 4 * 7.5), (2, 16.6, 2 * 7.5 / 64), (3, 1.9, 2 * 7.5 / 64)],
)
def test_state_of_the_paper_s_example(stage, gigabytes, summed):
    total = sum(state_bytes(SIZE.parameters, "bfloat16", EngineConfig(zero_stage=stage), 64).values())
    assert total / 1e9 == pytest.approx(gigabytes + summed, abs=0.05)


def test_float32_needs_sixteen_bytes_a_parameter_and_under_zero_a_copy():
    items = state_bytes(100, "float32", EngineConfig(zero_stage=0), 1)
    assert items == {"parameters": 400, "gradients": 400, "optimizer": 800}
    assert state_bytes(100, "float32", EngineConfig(zero_stage=1), 2)["optimizer"] == 600


def test_frozen_parameters_take_no_gradient_and_no_optimizer_state():
    items = state_bytes(1000, "bfloat16", EngineConfig(zero_stage=0), 1, trained=10)
    assert items == {"parameters": 2000, "gradients": 20, "optimizer": 120}
    whole, part = (
        learner_bytes(SIZE, "bfloat16", EngineConfig(), 8, LOAD, vocabulary_head=True, trained=t) for t in (None, 10**6)
    )
    assert part["parameters"] == whole["parameters"]
    assert part["activations"] == whole["activations"]
    assert part["gradients"] < 1e-3 * whole["gradients"]


def test_an_adapter_s_parameters_by_hand():
    # One layer of hidden 8 with one key head of 4: q and o 8·8, k and v 8·4, three of 8·20, two vocabularies of 8·10.
    parameters = 2 * 64 + 2 * 32 + 3 * 160 + 2 * 80
    size = ModelSize(parameters, hidden_size=8, num_layers=1, num_kv_heads=1, head_dim=4, vocab_size=10)
    assert lora_parameters(size, LoRAConfig(rank=3, target_modules=("q_proj", "k_proj"))) == 3 * (16 + 12)
    assert lora_parameters(size, LoRAConfig(rank=1)) == 2 * 16 + 2 * 12 + 3 * 28


def test_an_offloaded_optimizer_and_what_it_reads_take_no_gpu_memory():
    items = state_bytes(100, "bfloat16", EngineConfig(offload_optimizer=True), 2)
    assert items == {"parameters": 200, "gradients": 0}


def test_a_step_s_copies_by_hand():
    # 4 bytes for the gradient in float32, of a rank's part, where it does not lie end to end already.
    assert [step_bytes("bfloat16", EngineConfig(zero_stage=z), 10, 10**6) for z in (1, 2, 3)] == [0, 0, 4e5]
    assert [step_bytes("float32", EngineConfig(zero_stage=z), 10, 10**6) for z in (0, 1, 2, 3)] == [0, 4e5, 4e5, 4e5]
    assert step_bytes("bfloat16", EngineConfig(zero_stage=0), 10, 10**6) == 4e6
    # ZeRO-3 takes a billion at a time.
    assert step_bytes("bfloat16", EngineConfig(zero_stage=3), 2, 5 * 10**9) == 4e9
    assert step_bytes("bfloat16", EngineConfig(offload_optimizer=True), 10, 10**6) == 0


def test_a_step_and_a_pass_take_turns():
    held = {"parameters": 5.0, "optimizer": 10.0}
    assert peak(held | {"activations": 3.0, "logits": 4.0, "step": 6.0}) == 22
    assert peak(held | {"activations": 3.0, "logits": 4.0, "step": 9.0}) == 24


def test_a_layer_by_hand():
    size = ModelSize(1, hidden_size=10, num_layers=3, num_kv_heads=1, head_dim=5, vocab_size=1, intermediate_size=20)
    load = PassLoad(tokens=7, response_tokens=1, line=7)
    both = [
        learning_pass(size, "bfloat16", load, checkpointing=c, logits=False, towers_learn=True)["activations"]
        for c in (False, True)
    ]
    # A layer keeps two norms, attention with its mask, and four tensors of the feed-forward layer; its gradients are
    # two of those and one of the residual stream. The mask itself has a byte for each pair.
    kept, gradients = 10 * (8 + 8) + (4 * 10 * 2 + 7 * 2) + 4 * 20 * 2, (2 * 20 + 10) * 2
    assert both[0] == 7 * (3 * kept + gradients) + 7 * 7
    assert both[1] == 7 * (3 * 10 * 2 + kept + gradients) + 7 * 7


def test_a_layer_of_a_line_over_four_ranks_by_hand():
    size = ModelSize(1, hidden_size=10, num_layers=3, num_kv_heads=1, head_dim=5, vocab_size=1, intermediate_size=20)
    alone, spread = (
        learning_pass(size, "bfloat16", load, checkpointing=True, logits=False, towers_learn=True)["activations"]
        for load in (PassLoad(7, 1, 28), PassLoad(7, 1, 28, spread=4))
    )
    # Of the line's 28 positions a rank has a quarter, but the mask and its copy as numbers, and the embeddings, of all.
    assert spread - alone == 7 * 28 * 3 * (1 + 2) + 28 * 10 * 2
    one = PassLoad(28, 1, 28)
    whole = learning_pass(size, "bfloat16", one, checkpointing=True, logits=False, towers_learn=True)["activations"]
    assert spread == (whole - 28 * 28 * 3) / 4 + 28 * 28 * 3 + 28 * 10 * 2


def test_logits_by_hand():
    size = ModelSize(1, 1, 1, 1, 1, vocab_size=100)
    assert logits_bytes(size, "bfloat16", 5) == 100 * 5 * (2 + 8)
    assert logits_bytes(size, "bfloat16", 4096) == 100 * (4096 * 2 + 1024 * 8)


def test_a_critic_has_no_logits_and_a_policy_has():
    def logits(head):
        return learner_bytes(SIZE, "bfloat16", EngineConfig(), 8, LOAD, vocabulary_head=head)["logits"]

    assert logits(True) > 0
    assert logits(False) == 0


def test_a_server_divides_its_weights_over_its_devices():
    items = server_bytes(SIZE, "bfloat16", LOAD, devices=4, vocabulary_head=False)
    assert items["parameters"] == 2 * 7_500_000_000 / 4


def test_generator_and_its_cache_by_hand():
    size = ModelSize(10**10, 1024, 10, num_kv_heads=4, head_dim=128, vocab_size=1000, intermediate_size=4096)
    generator = GeneratorConfig(gpu_memory_utilization=0.5, tensor_parallel_size=2, max_num_seqs=50)
    items = generator_bytes(size, "bfloat16", generator, 80e9)
    assert items["parameters"] == 10e9
    # 16,384 tokens: three tensors of the feed-forward layer, halved, and four of the residual stream.
    assert items["activations"] == 16384 * 2 * (3 * 4096 / 2 + 4 * 1024)
    assert items["logits"] == 50 * 1000 * 4 * 3
    assert items["kv_cache"] == 40e9 - 10e9 - items["activations"] - items["logits"]
    assert "graphs" not in items
    graphs = GeneratorConfig(enforce_eager=False)
    assert generator_bytes(size, "bfloat16", graphs, 80e9)["graphs"] == 2 * GIB
    # Two tensors × 10 layers × 4 heads × 128 × 2 bytes, over two GPUs: 10,240 bytes a token on each.
    assert kv_sequences(size, "bfloat16", generator, 10_240 * 1000 * 3.5, 1000) == 3
    # Four GPUs more than heads do not divide the cache any further.
    wide = GeneratorConfig(tensor_parallel_size=8)
    assert kv_sequences(size, "bfloat16", wide, 5_120 * 1000 * 3.5, 1000) == 3


def test_on_the_cpu_the_cache_is_what_the_configuration_says():
    assert generator_bytes(SIZE, "float32", GeneratorConfig(cpu_kv_cache_gb=3), None)["kv_cache"] == 3 * GIB


def test_size_from_a_directory_counts_what_is_trained(model_directory):
    size = model_size(ModelConfig(path=str(model_directory)))
    assert size == ModelSize(22, 8, 2, 2, head_dim=2, vocab_size=11, context=512, num_heads=4, tied=True)


def test_a_directory_wins_over_the_shape_and_neither_is_none(model_directory, tmp_path):
    shape = {
        "parameters_b": 1.5,
        "hidden_size": 1,
        "num_layers": 1,
        "num_kv_heads": 1,
        "head_dim": 1,
        "vocab_size": 1,
    }
    here = model_size(ModelConfig.model_validate({"path": str(model_directory), "shape": shape}))
    assert here is not None
    assert here.parameters == 22
    elsewhere = model_size(ModelConfig.model_validate({"path": str(tmp_path / "none"), "shape": shape}))
    assert elsewhere is not None
    assert elsewhere.parameters == 1_500_000_000
    assert model_size(ModelConfig(path=str(tmp_path / "none"))) is None


@pytest.mark.parametrize("spoil", ["config.json", "model-1.safetensors"])
def test_a_broken_directory_is_named(model_directory, spoil):
    (model_directory / spoil).write_bytes(b"{}")
    with pytest.raises(ConfigError, match="not a model directory"):
        model_size(ModelConfig(path=str(model_directory)))


def test_a_directory_without_weights_is_named(model_directory):
    for file in model_directory.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"no \.safetensors files"):
        model_size(ModelConfig(path=str(model_directory)))
