"""How much memory a model takes in each role. Estimates: formulas of the sources named, in bytes per device."""

from dataclasses import dataclass

from mmrlhf_ray.config import EngineConfig, GeneratorConfig
from mmrlhf_ray.planning.activations import PassLoad, inferring_pass, learning_pass, tower_bytes
from mmrlhf_ray.planning.sizes import DTYPE_BYTES, GIB, ModelSize

# DeepSpeed's defaults, in elements, which the engine leaves as they are.
_BUCKET = 500_000_000
_LIVE_PARAMETERS = 1_000_000_000
_SUB_GROUP = 1_000_000_000

# vLLM 0.32 on a GPU of 70 GiB or more, offline: most tokens that it computes at once, which it tries when it starts.
_BATCHED_TOKENS = 16_384
# Float32 numbers for each entry of the vocabulary and running sequence: logits, log-probabilities, what sampling sorts.
_SAMPLED_COPIES = 3
# CUDA graphs are recorded on top of vLLM's share; 1 to 3 GiB are reported. An assumption.
_GRAPHS = 2 * GIB
# For each number of the gradients that are added over passes.
_SUMMED_GRADIENT = 4
# While an optimizer step is made, for each number of a rank's part: the gradient in float32. The fused AdamW makes
# nothing else on the way.
_STEP_GRADIENT = 4

PASS_ITEMS = ("activations", "towers", "logits")
"""Alive during passes; `step` is alive while the optimizer works: never both."""


@dataclass(frozen=True)
class RoleMemory:
    """Memory of one rank or replica, per device."""

    role: str
    on_gpu: bool
    items: dict[str, float]
    """Bytes by what takes them."""
    limit: float | None
    """Bytes that the role may take; None = host memory, which is not judged."""
    asked: float = 0.0
    """Bytes of a pass in which a learner only answers."""

    @property
    def total(self) -> float:
        """At the highest point: passes and the optimizer's step take turns."""
        return peak(self.items)

    @property
    def resident(self) -> float:
        """Between passes and steps."""
        return sum(size for name, size in self.items.items() if name not in (*PASS_ITEMS, "step"))


def peak(items: dict[str, float]) -> float:
    """Bytes at the highest point, from the items of a role."""
    in_pass = sum(items.get(name, 0.0) for name in PASS_ITEMS)
    resident = sum(size for name, size in items.items() if name not in (*PASS_ITEMS, "step"))
    return resident + max(in_pass, items.get("step", 0.0))


def state_bytes(
    parameters: int, dtype: str, engine: EngineConfig, ranks: int, trained: int | None = None
) -> dict[str, float]:
    """Parameters, gradients and optimizer state of one rank. `trained`: parameters that are not frozen; None = all.

    Per parameter in bfloat16: 2 + 2 + 12 bytes (weight, gradient; float32 weight and Adam's two moments); in float32
    4 + 4 + 8, and under ZeRO 4 more, since it keeps its own copy of the weight there too. ZeRO stage 1 divides the
    optimizer state by the ranks, stage 2 the gradients too, stage 3 the parameters too.
    Source: Rajbhandari et al. 2020, "ZeRO", figure 1; but for gradients, see _gradients().
    """
    trained = parameters if trained is None else trained
    weight, stage = DTYPE_BYTES[dtype], engine.zero_stage
    optimizer = 12 if dtype == "bfloat16" or stage >= 1 else 8
    items = {
        "parameters": parameters * weight / (ranks if stage >= 3 else 1),
        "gradients": _gradients(trained, dtype, engine, ranks),
    }
    if not engine.offload_optimizer:
        items["optimizer"] = trained * optimizer / (ranks if stage >= 1 else 1)
    return items


def _gradients(trained: int, dtype: str, engine: EngineConfig, ranks: int) -> float:
    """Under ZeRO the gradients of passes are added in float32. DeepSpeed 0.19.8: ZeRO-1 in bfloat16 keeps those of all
    ranks alongside the last pass's own (`bf16_optimizer.py`), ZeRO-2 and 3 a rank's part
    (`_build_compact_grad_partition_buffer`, `grad_partitions_flat_buffer`), in host memory where the optimizer is."""
    weight, stage = DTYPE_BYTES[dtype], engine.zero_stage
    if stage >= 2:
        return 0.0 if engine.offload_optimizer else trained * _SUMMED_GRADIENT / ranks
    return float(trained * (weight + (_SUMMED_GRADIENT if stage == 1 and dtype == "bfloat16" else 0)))


def step_bytes(dtype: str, engine: EngineConfig, ranks: int, trained: int) -> float:
    """What an optimizer step takes on top of the state, while no activations are alive.

    DeepSpeed 0.19.8 lays a rank's part of the gradients end to end in float32: all of it without ZeRO in bfloat16 and
    under ZeRO-1 and 2 in float32 (in bfloat16 they lie so already), a sub-group at a time under ZeRO-3.
    """
    stage = engine.zero_stage
    lie_so = stage == 0 if dtype == "float32" else stage in (1, 2)
    if engine.offload_optimizer or lie_so:
        return 0.0
    part = trained / (ranks if stage >= 1 else 1)
    return _STEP_GRADIENT * (min(part, _SUB_GROUP) if stage == 3 else part)


def learner_bytes(
    size: ModelSize,
    dtype: str,
    engine: EngineConfig,
    ranks: int,
    load: PassLoad,
    vocabulary_head: bool,
    trained: int | None = None,
    towers_learn: bool = True,
) -> dict[str, float]:
    """Everything of one learner rank; `trained` as in state_bytes(). peak() has what is alive together."""
    weight = DTYPE_BYTES[dtype]
    learned = size.parameters if trained is None else trained
    gathered = min(size.parameters, _LIVE_PARAMETERS if engine.zero_stage == 3 else _BUCKET)
    items = state_bytes(size.parameters, dtype, engine, ranks, trained)
    items["buffers"] = weight * (gathered + min(learned, _BUCKET))
    items |= learning_pass(
        size,
        dtype,
        load,
        checkpointing=engine.gradient_checkpointing,
        logits=vocabulary_head,
        towers_learn=towers_learn,
    )
    items["step"] = step_bytes(dtype, engine, ranks, learned)
    return items


def server_bytes(
    size: ModelSize, dtype: str, load: PassLoad, devices: int, vocabulary_head: bool, *, gathers: bool = False
) -> dict[str, float]:
    """A scorer or reference server: weights divided over its devices, and the pass that is under way. `gathers`: the
    devices are ranks under ZeRO-3, each of which gathers the weights that it computes with."""
    items = {"parameters": size.parameters * DTYPE_BYTES[dtype] / devices}
    if gathers:
        items["buffers"] = DTYPE_BYTES[dtype] * min(size.parameters, _LIVE_PARAMETERS)
    return items | inferring_pass(size, dtype, load, logits=vocabulary_head)


def generator_bytes(
    size: ModelSize, dtype: str, generator: GeneratorConfig, gpu_bytes: float | None
) -> dict[str, float]:
    """vLLM: weights over the tensor-parallel GPUs, the pass that it tries when it starts, and the KV cache that fills
    what is left of its share; CUDA graphs on top.

    `gpu_bytes` None = on the CPU, where the cache has the size that the configuration says.
    """
    b, shards = DTYPE_BYTES[dtype], generator.tensor_parallel_size
    weights = size.parameters * b / shards
    if gpu_bytes is None:
        return {"parameters": weights, "kv_cache": generator.cpu_kv_cache_gb * GIB}
    feed_forward = 3 * size.width if size.experts is None else 4 * size.hidden_size * size.experts.per_token
    activations = _BATCHED_TOKENS * b * (feed_forward / shards + 4 * size.hidden_size)
    towers = [
        tower_bytes(tower, dtype, _BATCHED_TOKENS, size.hidden_size, checkpointing=True, learn=False)
        for tower in size.towers.values()
    ]
    logits = generator.max_num_seqs * size.vocab_size * 4.0 * _SAMPLED_COPIES
    # It tries the towers before the language model: not at once.
    items = {"parameters": weights, "activations": max([activations, *towers]), "logits": logits}
    room = gpu_bytes * generator.gpu_memory_utilization - sum(items.values())
    items["kv_cache"] = max(0.0, room)
    return items | ({} if generator.enforce_eager else {"graphs": float(_GRAPHS)})


def kv_sequences(
    size: ModelSize, dtype: str, generator: GeneratorConfig, cache_bytes: float, tokens_per_sequence: int
) -> int:
    """Sequences of full length that one generator's cache holds at once."""
    # Each GPU holds the heads divided by the tensor-parallel size, but at least one.
    shards = min(generator.tensor_parallel_size, size.num_kv_heads)
    per_token = size.kv_bytes_per_token(DTYPE_BYTES[dtype]) / shards
    return int(cache_bytes / (per_token * tokens_per_sequence))
