"""Host memory of a node: what its actors hold there, in bytes. Estimates."""

from collections.abc import Mapping, Sequence

from mmrlhf_ray.config import LearnerConfig, PPOConfig
from mmrlhf_ray.planning.colocation import SharedDevice
from mmrlhf_ray.planning.sizes import DTYPE_BYTES, GIB, ModelSize

# What a process that has imported torch and holds a CUDA context takes before it does anything. An assumption.
_PROCESS = 2 * GIB
# Of a model that is loaded under ZeRO-3: a rank's share, and a layer on its way with what is made of it.
_LAYERS_IN_HAND = 2
# Buckets of a push that a node holds: one that is read, one that comes.
_BUCKETS = 2

ITEMS = ("processes", "loading", "offloaded", "waiting", "buckets", "encoder cache", "features")


def host_bytes(
    cfg: PPOConfig,
    replicas: Mapping[str, int],
    sizes: Mapping[str, ModelSize],
    trained: Mapping[str, int],
    shared: Sequence[SharedDevice] = (),
) -> dict[str, float]:
    """Of a node with so many `replicas` of each role. `sizes`: of the models by configuration key, as far as they are
    known; `trained`: learner role → parameters that it trains; `shared`: devices that roles take turns on."""
    learners = {
        "policy": (cfg.learner, cfg.policy.compute_dtype),
        "critic": (cfg.critic, cfg.critic_model.compute_dtype),
    }
    items = dict.fromkeys(ITEMS, 0.0)
    items["processes"] = sum(replicas.values()) * _PROCESS
    for role, (config, dtype) in learners.items():
        if role in replicas and role in sizes:
            ranks = getattr(cfg.placement, role).replicas
            items["loading"] += replicas[role] * _loading(sizes[role], config, dtype, ranks)
            if config.engine.offload_optimizer:
                items["offloaded"] += replicas[role] * 16.0 * trained.get(role, sizes[role].parameters) / ranks
    for device in shared:
        items["waiting"] += replicas.get(device.roles[0], 0) * max(device.waiting.values())
    held = replicas.get("generator", 0) + ("policy" in replicas)
    items["buckets"] = held * _BUCKETS * cfg.generator.bucket_mb * 2.0**20
    encoders = replicas.get("encoder", 0) + replicas.get("eval_encoder", 0)
    items["encoder cache"] = encoders * cfg.data.encoder_cache_mb * 2.0**20
    if encoders and "policy" in sizes:
        items["features"] = features_bytes(cfg, sizes["policy"])
    return {name: size for name, size in items.items() if size}


def _loading(size: ModelSize, config: LearnerConfig, dtype: str, ranks: int) -> float:
    """Until the weights are on the device."""
    weights = size.parameters * DTYPE_BYTES[dtype]
    if config.engine.zero_stage < 3:
        return weights
    return weights / ranks + _LAYERS_IN_HAND * size.layer_parameters * DTYPE_BYTES[dtype]


def features_bytes(cfg: PPOConfig, size: ModelSize) -> float:
    """What the processor makes of a step's media, were every prompt full of them; one object for each prompt."""
    each = max((t.positions_per_token * t.input_values * 4.0 for t in size.towers.values()), default=0.0)
    return cfg.algorithm.prompts_per_step * cfg.data.most_prompt_tokens * each
