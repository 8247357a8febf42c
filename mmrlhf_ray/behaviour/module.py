"""RLlib's modules on these networks: a policy with a critic for PPO, and a Q-network for DQN."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from mmrlhf_ray.behaviour.net import Body
from mmrlhf_ray.behaviour.spaces import Observation
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.config.discrete_parts import DQN
from mmrlhf_ray.errors import ConfigError

HIDDEN = "hidden"
"""Key of the layers' widths in a module's `model_config`."""
CRITIC = "critic"
"""What the names of weights begin with that no policy needs which only acts."""
_FIRST_LOG_STD = -0.5


def module_spec(cfg: BehaviourConfig, env: gymnasium.Env[Any, Any]) -> RLModuleSpec:
    """The specification that RLlib builds the job's module from. Raises ConfigError where DQN meets vectors."""
    quality = isinstance(cfg.algorithm, DQN)
    if quality and not isinstance(env.action_space, Discrete):
        raise ConfigError(
            f"algorithm.kind=dqn chooses among numbered actions, but they are {env.action_space}; take ppo"
        )
    return RLModuleSpec(
        module_class=QModule if quality else PolicyModule,
        observation_space=env.observation_space,
        action_space=env.action_space,
        model_config={HIDDEN: list(cfg.net.hidden)},
    )


class PolicyModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Logits of numbered actions, or mean and log standard deviation of vectors; and a value by a body of its own."""

    def setup(self) -> None:
        (space, actions), hidden = spaces_of(self), _settings(self)[HIDDEN]
        self.body = Body(space, hidden)
        self.pi = nn.Linear(self.body.width, int(actions.n) if isinstance(actions, Discrete) else actions.shape[0])
        with torch.no_grad():  # at first all actions are about as likely
            self.pi.weight.mul_(0.01)
        self.log_std: nn.Parameter | None = None
        if isinstance(actions, Box):
            self.log_std = nn.Parameter(torch.full(actions.shape, _FIRST_LOG_STD))
        self.critic_body = Body(space, hidden)
        self.critic = nn.Linear(self.critic_body.width, 1)

    def get_non_inference_attributes(self) -> list[str]:
        return ["critic", "critic_body"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = self.pi(self.body(batch[Columns.OBS]))
        if self.log_std is not None:
            out = torch.cat([out, self.log_std.expand_as(out)], dim=-1)
        return {Columns.ACTION_DIST_INPUTS: out}

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Values [B]."""
        found: Tensor = self.critic(self.critic_body(batch[Columns.OBS])).squeeze(-1)
        return found


class _QBody(Body):
    """Body as RLlib's Q-module calls its encoder."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:  # type: ignore[override]
        return {ENCODER_OUT: super().forward(batch[Columns.OBS])}


class QModule(DefaultDQNTorchRLModule):
    """Q-values of actions. ε-greedy, target networks, double and duelling Q-learning are RLlib's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # RLlib's own would make a catalogue of networks, which knows no dictionaries, and warn that it could not.
        TorchRLModule.__init__(self, *args, **kwargs)

    def setup(self) -> None:
        settings = _settings(self)
        space, actions = spaces_of(self)
        assert isinstance(actions, Discrete)
        # Of DefaultDQNRLModule.setup() all but the catalogue's networks.
        self.uses_dueling: bool = settings["dueling"]
        self.uses_double_q: bool = settings["double_q"]
        self.num_atoms: int = settings["num_atoms"]
        self.epsilon_schedule = Scheduler(fixed_value_or_schedule=settings["epsilon"], framework="torch")
        self.encoder = _QBody(space, settings[HIDDEN])
        self.af = nn.Linear(self.encoder.width, int(actions.n))
        if self.uses_dueling:
            self.vf = nn.Linear(self.encoder.width, 1)


def best_action(module: RLModule, observation: Observation) -> Any:
    """What the module does without chance: the likeliest numbered action, or the mean."""
    batch = {Columns.OBS: {name: torch.from_numpy(values[None]) for name, values in observation.items()}}
    with torch.inference_mode():
        out = module.forward_inference(batch)
    if Columns.ACTIONS in out:
        return np.int64(out[Columns.ACTIONS][0])
    inputs = out[Columns.ACTION_DIST_INPUTS][0].numpy()
    if isinstance(module.action_space, Box):
        return inputs[: module.action_space.shape[0]]
    return np.int64(inputs.argmax())


def spaces_of(module: RLModule) -> tuple[gymnasium.spaces.Dict, Discrete | Box]:
    """What the module sees and does."""
    space, actions = module.observation_space, module.action_space
    assert isinstance(space, gymnasium.spaces.Dict)
    assert isinstance(actions, Discrete | Box)
    return space, actions


def _settings(module: RLModule) -> dict[str, Any]:
    settings = module.model_config
    assert isinstance(settings, dict)  # module_spec() gives a dictionary
    return settings
