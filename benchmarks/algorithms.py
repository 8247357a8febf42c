"""Every algorithm on Omni-Digits, from the same SFT policy: one configuration each. jobs/demo-*.yaml say the same."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmrlhf_ray.config import DataConfig, LearnerConfig, LearnerPlacement, OptimizerConfig, PPOConfig, PreferenceConfig
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.profiles import Paths, Profile

# As many responses in a step as the demo's PPO has: 32 prompts, 4 each.
_GROUPS = {"prompts_per_step": 32, "n_samples_per_prompt": 4, "mini_batch_size": 64}
_KL_IN_REWARD = {"kl_coef": 0.1, "kl_target": 1.0, "kl_horizon": 2000.0}
# As a term of the loss, as GRPO's paper has it. There it is a mean over tokens, not a sum, so it must weigh more.
_KL_IN_LOSS = {"kl_coef": 1.0, "kl_target": 1.0, "kl_horizon": 1000.0, "kl_in": "loss", "kl_estimator": "k3"}

ONLINE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "grpo": {**_GROUPS, **_KL_IN_LOSS, "advantage_estimator": "grpo", "aggregation": "sequence_mean"},
        "rloo": {**_GROUPS, **_KL_IN_REWARD, "advantage_estimator": "rloo"},
        "reinforce-pp": {**_GROUPS, **_KL_IN_REWARD, "advantage_estimator": "reinforce_pp"},
        "dr-grpo": {**_GROUPS, **_KL_IN_LOSS, "advantage_estimator": "dr_grpo", "aggregation": "constant_length"},
        "dapo": {
            **_GROUPS,
            "advantage_estimator": "grpo",
            "kl_coef": 0.0,
            "clip_range": 0.2,
            "clip_range_high": 0.28,
            "dynamic_sampling": {"max_rounds": 3, "min_spread": 0.3},
            "overlong": {"buffer_tokens": 6, "penalty": 0.5},
        },
        "gspo": {
            **_GROUPS,
            **_KL_IN_LOSS,
            "advantage_estimator": "grpo",
            "policy_loss": "gspo",
            # Responses are ten tokens long, so their mean ratio moves more than that of the paper's long ones.
            "clip_range": 0.05,
            "aggregation": "sequence_mean",
        },
    }
)
"""Name → `algorithm` section; PPO itself is jobs/demo-ppo.yaml."""

GENTLE: Mapping[str, Mapping[str, Any]] = MappingProxyType({"dapo": {"steps": 40, "lr": 5e-5}})
"""DAPO has no KL term: it was made for rewards that cannot be fooled. Against a reward model it must not go far."""

OFFLINE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dpo": {"objective": "dpo", "beta": 0.1},
        "kto": {"objective": "kto", "beta": 0.1},
        "ipo": {"objective": "ipo", "beta": 0.1},
        "orpo": {"objective": "orpo", "beta": 0.5},
        "simpo": {"objective": "simpo", "beta": 2.0, "simpo_margin": 0.5},
        "mpo": {"objective": "mpo", "beta": 0.1},
    }
)
"""Name → keys of the preference job."""

NAMES = ("ppo", *ONLINE, *OFFLINE)


def online(name: str, paths: Paths, profile: Profile, seed: int) -> PPOConfig:
    """One of ONLINE, or "ppo", with everything else as in the demo's PPO."""
    base = profiles.ppo(paths, profile, seed)
    if name == "ppo":
        return base
    values = base.model_dump(exclude={"critic"}) | {"name": name, "algorithm": ONLINE[name]}
    if name in GENTLE:
        values["steps"] = GENTLE[name]["steps"]
        values["learner"]["optimizer"]["lr"] = GENTLE[name]["lr"]
    return PPOConfig.model_validate(values)


def offline(name: str, paths: Paths, profile: Profile, seed: int) -> PreferenceConfig:
    """One of OFFLINE, on the pairs that the reward model learns from; the policy never reads the facts."""
    reward_model = profiles.reward_model(paths, profile, seed)
    # A few answers hold words that read back as the unknown token, which a policy cannot sample: they are set aside.
    unseen: dict[str, Any] = {"facts_column": None, "on_bad_row": "quarantine"}
    return PreferenceConfig(
        name=name,
        output_dir=str(paths.root),
        seed=seed,
        device="cpu",
        model=paths.model("sft"),
        data=reward_model.data.model_copy(update=unseen),
        eval_data=DataConfig(**reward_model.eval_data.model_dump() | unseen) if reward_model.eval_data else None,
        eval_every_steps=50,
        learner=LearnerConfig(
            engine=reward_model.learner.engine,
            optimizer=OptimizerConfig(lr=1e-4, warmup_steps=20, schedule="cosine"),
        ),
        workers=LearnerPlacement(num_cpus=0.2, replicas=2),
        batch_size=64,
        epochs=1,
        checkpoint=reward_model.checkpoint,
        **OFFLINE[name],
    )
