"""The ensemble of reward models over segments: learned from votes, normalised, and asked how much it disagrees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from mmrlhf_ray.algorithms.segment_preference import segment_preference_loss
from mmrlhf_ray.behaviour.net import RewardNet
from mmrlhf_ray.behaviour.segments import Segment
from mmrlhf_ray.config.behaviour import RewardEnsembleSection

_AT_ONCE = 4096
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class Votes:
    """n votes as the models learn from them."""

    first: Segment
    second: Segment
    """[n, T, …] each."""
    preferred: np.ndarray
    """float32 [n]: 1 the first is better, 0 the second, 0.5 neither."""
    weights: np.ndarray
    """float32 [members, n]: of each vote for each member; 0 for all of them = held out."""

    def __len__(self) -> int:
        return len(self.preferred)


class RewardEnsemble(nn.Module):
    """Reward models with the mean and deviation that their outputs are normalised by."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, section: RewardEnsembleSection, space: gymnasium.spaces.Dict, actions: Discrete | Box, seed: int
    ) -> None:
        super().__init__()
        self.section = section
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(RewardNet(space, actions, section.hidden) for _ in range(section.members))
        self.register_buffer("mean", torch.zeros(section.members))
        self.register_buffer("std", torch.ones(section.members))

    def scale_inputs(self, steps: Segment) -> None:
        """Scale what the networks see by these segments [n, T, …]; once, before anything is learned."""
        flat = {name: torch.from_numpy(v.reshape(-1, *v.shape[2:])) for name, v in steps.observations.items()}
        for member in self.members:
            assert isinstance(member, RewardNet)
            member.body.scale_inputs(flat)

    def rewards(self, steps: Segment) -> np.ndarray:
        """float32 [n]: the members' mean normalised reward of each of n steps."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(steps), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                some = Segment({name: v[part] for name, v in steps.observations.items()}, steps.actions[part])
                raw = torch.stack([_raw(member, some, axes=1) for member in self.members])
                parts.append(((raw - self.mean[:, None]) / self.std[:, None]).mean(0).numpy())
        return self.section.scale * np.concatenate(parts)

    def preferences(self, first: Segment, second: Segment) -> np.ndarray:
        """float32 [members, n]: the probability that each member gives to the first segment's being better."""
        with torch.inference_mode():
            return torch.sigmoid(self._sums(first) - self._sums(second)).numpy()

    def normalise(self, steps: Segment) -> None:
        """Take mean and deviation from these segments [n, T, …]."""
        with torch.inference_mode():
            raw = torch.stack([_raw(member, steps).flatten() for member in self.members])
        self.mean.copy_(raw.mean(1))
        self.std.copy_(raw.std(1).clamp(min=_LEAST_STD))

    def _sums(self, segments: Segment) -> Tensor:
        """[members, n]: as trained, that is before normalising."""
        return torch.stack([_raw(member, segments).sum(-1) for member in self.members])


class RewardLearner:
    """An ensemble with its optimizer."""

    def __init__(self, ensemble: RewardEnsemble) -> None:
        section = ensemble.section
        self.ensemble = ensemble
        self._optimizer = torch.optim.AdamW(
            ensemble.members.parameters(), lr=section.lr, weight_decay=section.weight_decay
        )

    def learn(self, votes: Votes, updates: int, rng: np.random.Generator) -> float:
        """So many updates on batches of the votes; the mean loss of a vote over the last tenth of them."""
        section, losses = self.ensemble.section, []
        learned = np.flatnonzero(votes.weights.any(0))
        if not len(learned) or not updates:
            return float("nan")
        for _ in range(updates):
            rows = rng.choice(learned, size=min(section.batch_size, len(learned)), replace=False)
            first, second = _rows(votes.first, rows), _rows(votes.second, rows)
            preferred = torch.from_numpy(votes.preferred[rows])
            total = torch.zeros(())
            for number, member in enumerate(self.ensemble.members):
                weights = torch.from_numpy(votes.weights[number, rows])
                total = total + segment_preference_loss(
                    _raw(member, first), _raw(member, second), preferred, section.label_noise, len(rows), weights
                )
            self._optimizer.zero_grad()
            total.backward()
            self._optimizer.step()
            losses.append(float(total.detach()) / len(self.ensemble.members))
        return float(np.mean(losses[-max(1, updates // 10) :]))

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"ensemble": self.ensemble.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of state()."""
        self.ensemble.load_state_dict(state["ensemble"])
        self._optimizer.load_state_dict(state["optimizer"])


def vote_weights(vote_ids: Sequence[str], members: int, heldout: float) -> np.ndarray:
    """float32 [members, n]: a bootstrap's counts, drawn by each vote's id alone, so that a vote counts the same however
    many come after it and in whichever order; 0 for all members where it is held out."""
    weights = np.zeros((members, len(vote_ids)), np.float32)
    for number, vote_id in enumerate(vote_ids):
        rng = np.random.default_rng(list(vote_id.encode()))
        if rng.random() >= heldout:
            weights[:, number] = rng.poisson(1.0, members)
    return weights


def agreement(ensemble: RewardEnsemble, votes: Votes) -> np.ndarray:
    """float64 [n]: 1 where the members' mean prefers what the vote does, 0 where not, NaN for ties."""
    said = ensemble.preferences(votes.first, votes.second).mean(0)
    same = (said > 0.5) == (votes.preferred > 0.5)
    return np.where(votes.preferred == 0.5, np.nan, same.astype(np.float64))


def _rows(segments: Segment, rows: np.ndarray) -> Segment:
    return Segment({name: v[rows] for name, v in segments.observations.items()}, segments.actions[rows])


def _raw(member: nn.Module, segments: Segment, axes: int = 2) -> Tensor:
    """A number for each step; `axes` in front of what one step has: [n, T, …] → [n, T]."""
    shape = segments.actions.shape[:axes]
    flat = {name: torch.from_numpy(v.reshape(-1, *v.shape[axes:])) for name, v in segments.observations.items()}
    found: Tensor = member(flat, torch.from_numpy(segments.actions.reshape(-1, *segments.actions.shape[axes:])))
    return found.view(shape)
