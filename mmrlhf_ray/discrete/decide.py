"""Decisions of a trained policy on cases: greedy, many at a time, with any modality withheld."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.cases import Cases, Observations

Preferences = Callable[[Observations], np.ndarray]
"""Observations of B rows → float [B, actions]: Q values or log-probabilities; the largest is what is done."""

_AT_ONCE = 512


@dataclass(frozen=True)
class Decisions:
    """Decisions about n cases."""

    actions: np.ndarray
    """int64 [n]; −1 where the policy went on asking until it was cut off."""
    asked: np.ndarray
    """int64 [n]: requests before the decision."""
    shown: np.ndarray
    """bool [n, modalities]: what might be seen when it was made."""


def decide(
    cfg: DiscreteConfig, cases: Cases, preferences: Preferences, show: Collection[str] | None = None
) -> Decisions:
    """Greedy decisions on all of `cases`. show: the modalities that may be seen, even where one is asked for."""
    parts = [
        _decided(cfg, cases, preferences, show, rows)
        for rows in np.array_split(np.arange(len(cases)), range(_AT_ONCE, len(cases), _AT_ONCE))
    ]
    return Decisions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def scores_of(cases: Cases, actions: np.ndarray) -> np.ndarray:
    """float64 [n]: accuracy, F1 or IoU of each decision; 0 without one."""
    scores = cases.scores[np.arange(len(actions)), np.maximum(actions, 0)].astype(np.float64)
    return np.where(actions >= 0, scores, 0.0)


def _decided(
    cfg: DiscreteConfig, cases: Cases, preferences: Preferences, show: Collection[str] | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = tuple(cases.columns)
    allowed = np.tile([show is None or name in show for name in names], (len(rows), 1))
    shown = allowed.copy()
    if cfg.sequential is not None:
        shown &= np.array([name == cfg.sequential.first for name in names])
    actions, asked = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
    # The environment cuts off after one request for each modality, and one more.
    for _ in range(len(names) + 2 if cfg.sequential is not None else 1):
        todo = np.flatnonzero(actions < 0)
        if not len(todo):
            break
        chosen = _chosen(preferences(cases.observations(rows[todo], shown[todo])), cases, len(cfg.ask_actions))
        decided = chosen < len(cases.actions)
        actions[todo[decided]] = chosen[decided]
        requests = todo[~decided]
        asked[requests] += 1
        modality = chosen[~decided] - len(cases.actions)
        shown[requests, modality] = allowed[requests, modality]
    return actions, asked, shown


def _chosen(preferred: np.ndarray, cases: Cases, requests: int) -> np.ndarray:
    """The best action of each row among those that the task has: its decisions, then the requests."""
    kept = np.concatenate([preferred[:, : len(cases.actions)], preferred[:, preferred.shape[1] - requests :]], axis=1)
    best: np.ndarray = kept.argmax(axis=1)
    return best
