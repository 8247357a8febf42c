"""The environment: a case is shown, a decision is made, its reward is looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from mmrlhf_ray.algorithms.lagrange import lagrangian_score
from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.spaces import action_space, observation_space

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class TaskCases:
    """One task of an environment."""

    cases: Cases
    rewards: np.ndarray
    """float32 [n, decisions]."""
    weight: float = 1.0
    costs: np.ndarray | None = None
    """float32 [n, decisions]; None = no decision costs anything."""


class DecisionEnv(gymnasium.Env[Observation, np.int64]):
    """Decide a case that is drawn at random, after asking for modalities where the job is sequential.

    An episode is one case. Actions and observations are those of `spaces`; an action that the case's task does not
    have earns as little as its worst decision. Asking costs `sequential.cost` and shows the modality, if the record
    has it; after one request for each modality, and one more, the episode is cut off.

    With costs, the reward of a decision is (reward − λ·cost) / (1 + λ); λ is `multiplier`, to be set at any time.

    `info` of a decision: {"score": of it, "cost": of it, "task": number, "row": number in the cases, "asked": how many
    requests}.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 -- gymnasium's own declaration

    def __init__(self, cfg: DiscreteConfig, tasks: Sequence[TaskCases], *, training: bool = True) -> None:
        """tasks: in the order of `cfg.tasks`. training: leave out modalities with probability `observation.drop`."""
        if [t.cases.task for t in tasks] != list(cfg.tasks):
            raise ValueError(f"tasks must be {list(cfg.tasks)}, in this order, got {[t.cases.task for t in tasks]}")
        self.observation_space = observation_space(cfg)
        self.action_space = action_space(cfg)
        self.multiplier = 0.0
        self._tasks = tasks
        weights = np.array([task.weight for task in tasks], np.float64)
        self._shares = weights / weights.sum()
        self._drop = cfg.observation.drop if training else 0.0
        self._modalities = tuple(cfg.observation.modalities)
        self._sequential = cfg.sequential
        self._decisions = int(self.action_space.n) - len(cfg.ask_actions)
        self._task = self._row = self._asked = 0
        self._there = self._shown = np.zeros(len(self._modalities), np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a case; options: {"task": number, "row": number} name one."""
        super().reset(seed=seed)
        options = options or {}
        drawn = int(self.np_random.choice(len(self._tasks), p=self._shares))
        self._task = options.get("task", drawn)
        cases = self._tasks[self._task].cases
        self._row = options.get("row", int(self.np_random.integers(len(cases))))
        self._there = self._kept(cases.present(np.array([self._row]))[0])
        self._shown = self._there.copy()
        if self._sequential is not None:
            self._shown &= np.array([name == self._sequential.first for name in self._modalities])
        self._asked = 0
        return self._observation(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        action = int(action)
        if action >= self._decisions:
            return self._ask(action - self._decisions)
        task = self._tasks[self._task]
        exists = action < task.rewards.shape[1]
        reward = float(task.rewards[self._row, action] if exists else task.rewards[self._row].min())
        score = float(task.cases.scores[self._row, action] if exists else 0.0)
        cost = 0.0
        if task.costs is not None:
            cost = float(task.costs[self._row, action] if exists else task.costs[self._row].max())
        info = {"score": score, "cost": cost, "task": self._task, "row": self._row, "asked": self._asked}
        return self._observation(), lagrangian_score(reward, cost, self.multiplier), True, False, info

    def _ask(self, modality: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        assert self._sequential is not None
        self._shown = self._shown.copy()
        self._shown[modality] = self._there[modality]
        self._asked += 1
        return self._observation(), -self._sequential.cost, False, self._asked > len(self._modalities), {}

    def _kept(self, present: np.ndarray) -> np.ndarray:
        """Which modalities are not left out; of several, one always stays."""
        kept = present & (self.np_random.random(len(present)) >= self._drop)
        if present.any() and not kept.any():
            kept[self.np_random.choice(np.flatnonzero(present))] = True
        return kept

    def _observation(self) -> Observation:
        made = self._tasks[self._task].cases.observations([self._row], self._shown[None])
        return {name: values[0] for name, values in made.items()}


class SeededOnce(gymnasium.Wrapper[Observation, np.int64, Observation, np.int64]):
    """Takes the first seed only. RLlib gives the same one again whenever it samples whole episodes, and would draw the
    same cases in every step."""

    def __init__(self, env: gymnasium.Env[Observation, np.int64]) -> None:
        super().__init__(env)
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """As the environment's, but a second seed is not passed on."""
        first = seed is not None and not self._seeded
        self._seeded |= first
        return self.env.reset(seed=seed if first else None, options=options)
