"""RLlib's modules on the fusion network: a policy with an optional critic, and a Q-network.

Each holds `encoder` (FusionBody) and heads on its views, so that a module can start from the encoder of another.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import DefaultDQNRLModule
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import DQN, Clone, Reinforce
from mmrlhf_ray.discrete.fusion import Views
from mmrlhf_ray.discrete.net import FusionBody, Heads, Observation, action_counts, fusion_shares
from mmrlhf_ray.discrete.spaces import action_space, observation_space
from mmrlhf_ray.errors import ConfigError

CONFIG = "discrete"
"""Key of the job's configuration in a module's `model_config`."""


def silence_rllib_deprecations() -> None:
    """Silence what RLlib says of its own past: even a module of its current kind makes one of the old settings."""
    for name in ("ray.rllib", "ray.tune", "ray._common.deprecation"):
        logging.getLogger(name).setLevel(logging.ERROR)


def module_spec(cfg: DiscreteConfig) -> RLModuleSpec:
    """The specification that RLlib builds the job's module from, on environment runners and learners alike."""
    return RLModuleSpec(
        module_class=QModule if isinstance(cfg.algorithm, DQN) else PolicyModule,
        observation_space=observation_space(cfg),
        action_space=action_space(cfg),
        # Plain values: RLlib writes them into checkpoints.
        model_config={CONFIG: cfg.model_dump(mode="json")},
    )


class PolicyModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Logits of actions and, where the algorithm has a critic, a value from the same views."""

    def setup(self) -> None:
        cfg = config_of(self)
        self.encoder = FusionBody(cfg)
        # Finite, so that no term of a loss can become infinite minus infinite.
        self.pi = Heads(self.encoder, action_counts(cfg), cfg.fusion.kind, torch.finfo(torch.float32).min)
        self.vf: Heads | None = None
        if not isinstance(cfg.algorithm, Clone | Reinforce):
            self.vf = Heads(self.encoder, (1,) * len(cfg.tasks), cfg.fusion.kind, 0.0)

    def get_non_inference_attributes(self) -> list[str]:
        return ["vf"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.pi(self.encoder(batch[Columns.OBS]))}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        views = self.encoder(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: self.pi(views), Columns.EMBEDDINGS: views}

    def compute_values(self, batch: dict[str, Any], embeddings: Views | None = None) -> Tensor:
        """Values [B]; zeros without a critic, so that advantages are returns."""
        views = self.encoder(batch[Columns.OBS]) if embeddings is None else embeddings
        if self.vf is None:
            return torch.zeros_like(views.present[:, 0])
        return self.vf(views).squeeze(-1)


class _BatchBody(FusionBody):
    """FusionBody as RLlib's Q-module calls its encoder."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Views]:  # type: ignore[override]
        return {ENCODER_OUT: self.look(batch[Columns.OBS])}


class QModule(DefaultDQNTorchRLModule):
    """Q-values of actions. ε-greedy, target networks, double and duelling Q-learning are RLlib's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # RLlib's own would make a catalogue of networks, which knows no dictionaries, and warn that it could not.
        TorchRLModule.__init__(self, *args, **kwargs)

    def setup(self) -> None:
        cfg = config_of(self)
        # Of DefaultDQNRLModule.setup() all but the catalogue's networks.
        settings = _settings(self)
        self.uses_dueling: bool = settings["dueling"]
        self.uses_double_q: bool = settings["double_q"]
        self.num_atoms: int = settings["num_atoms"]
        self.epsilon_schedule = Scheduler(fixed_value_or_schedule=settings["epsilon"], framework="torch")
        self.encoder = _BatchBody(cfg)
        # RLlib leaves out of its draws and means what is minus infinity.
        self.af = Heads(self.encoder, action_counts(cfg), cfg.fusion.kind, -torch.inf)
        if self.uses_dueling:
            self.vf = Heads(self.encoder, (1,) * len(cfg.tasks), cfg.fusion.kind, 0.0)


class DecisionNet(nn.Module):
    """A trained module for use: observation → scores [B, actions], whose largest is the decision.

    Logits of a policy, or Q-values. Actions that a row's task does not have get the lowest finite number.
    """

    def __init__(self, module: TorchRLModule) -> None:
        super().__init__()
        self.body: FusionBody = module.encoder
        self.heads: Heads = module.af if isinstance(module, DefaultDQNRLModule) else module.pi
        self.value: Heads | None = module.vf if getattr(module, "uses_dueling", False) else None
        self.eval()

    def forward(self, observation: Observation) -> Tensor:
        views = self.body.look(observation)
        scores = self.heads(views)
        lowest = torch.finfo(scores.dtype).min
        if self.value is None:
            return scores.clamp(min=lowest)
        there = scores > lowest
        mean = torch.where(there, scores, 0.0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
        return (scores - mean + self.value(views)).clamp(min=lowest)

    def shares(self, observation: Observation) -> dict[str, dict[str, float]]:
        """As net.fusion_shares."""
        return fusion_shares(self.body, self.heads, observation)


def config_of(module: RLModule) -> DiscreteConfig:
    """The configuration that a module was made from."""
    return DiscreteConfig.model_validate_json(json.dumps(_settings(module)[CONFIG]), strict=True)


def _settings(module: RLModule) -> dict[str, Any]:
    settings = module.model_config
    assert isinstance(settings, dict)  # module_spec() gives a dictionary
    return settings


def warm_start(module: TorchRLModule, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Copy a trained module's encoder, and its policy's heads where both have one; names of the weights that it took.

    state: `get_state()` of the trained module. A Q-network's values start anew: logits are no returns. So do requests,
    where the trained run had none. Raises ConfigError where shapes differ otherwise, that is where the two runs have
    other modalities, encoders, fusion or decisions.
    """
    own, requests = module.state_dict(), len(config_of(module).ask_actions)
    both_decide = any(name.startswith("pi.") for name in own) and any(name.startswith("pi.") for name in state)
    parts = ("encoder.", "pi.") if both_decide else ("encoder.",)
    taken = {name: torch.as_tensor(value) for name, value in state.items() if name.startswith(parts)}
    wanted = {name: value for name, value in own.items() if name.startswith(parts)}
    for name in taken.keys() & wanted.keys():
        if name.startswith("pi.decide.") and len(taken[name]) + requests == len(wanted[name]):
            taken[name] = torch.cat([taken[name], wanted[name][len(taken[name]) :]])
    unlike = sorted(taken.keys() ^ wanted.keys()) or sorted(n for n in taken if taken[n].shape != wanted[n].shape)
    if unlike:
        raise ConfigError(
            f"warm_start: {unlike[0]} is not alike in both runs; give both the same observation, fusion and tasks"
        )
    module.load_state_dict(taken, strict=False)
    if isinstance(module, DefaultDQNRLModule) and hasattr(module, "_target_encoder"):
        module.make_target_networks()
    return tuple(taken)
