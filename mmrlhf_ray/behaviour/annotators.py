"""Who compares two segments: simulated annotators, a function of the user's, or people by the feedback app."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mmrlhf_ray.behaviour.clips import encode, film
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import Pair, Vote
from mmrlhf_ray.behaviour.segments import Recorded
from mmrlhf_ray.config.behaviour import BehaviourConfig, PeopleAnnotators, ScriptAnnotators, SimulatedAnnotators
from mmrlhf_ray.errors import ConfigError, first_line
from mmrlhf_ray.feedback.client import ItemsClient
from mmrlhf_ray.sandbox.inside import load_function

_CHOICES = ("left", "right", "tie")
_OPPOSITE = {"left": "right", "right": "left", "tie": "tie"}


class Judge(Protocol):
    """Compares two segments with all that was recorded of them."""

    def __call__(self, first: Recorded, second: Recorded) -> str:
        """left where the first is better, right, or tie."""


def true_judge(first: Recorded, second: Recorded) -> str:
    """The better is the one with more of the environment's own reward."""
    a, b = float(first.true_rewards.sum()), float(second.true_rewards.sum())
    return "tie" if a == b else "left" if a > b else "right"


class ScriptJudge:
    """A function of the user's. Raises ConfigError where the file cannot be loaded, or says something else."""

    def __init__(self, function: str) -> None:
        self._name = function
        try:
            self._own: Callable[..., Any] = load_function(function)
        except Exception as error:
            raise ConfigError(f"annotators.judge={function}: {type(error).__name__}: {first_line(error)}") from error

    def __call__(self, first: Recorded, second: Recorded) -> str:
        try:
            choice = self._own(first.states(), second.states())
        except Exception as error:
            raise ConfigError(f"annotators.judge={self._name}: {type(error).__name__}: {first_line(error)}") from error
        if choice not in _CHOICES:
            raise ConfigError(f"annotators.judge={self._name}: expected left, right or tie, got {choice!r:.80}")
        return str(choice)


def judge_of(cfg: BehaviourConfig) -> Judge | None:
    """The judge of simulated annotators or of a script; None for people."""
    if isinstance(cfg.annotators, ScriptAnnotators):
        return ScriptJudge(cfg.annotators.judge)
    return true_judge if isinstance(cfg.annotators, SimulatedAnnotators) else None


def noisy_vote(judge: Judge, pair: Pair, first: Recorded, second: Recorded, wrong: float, seed: int) -> Vote:
    """A vote whose chance hangs on the pair and the seed alone, so that a resumed run hears the same again."""
    choice = judge(first, second)
    rng = np.random.default_rng([seed, *pair.pair_id.encode()])
    if rng.random() < wrong:
        choice = _OPPOSITE[choice]
    kind = "simulated" if judge is true_judge else "script"
    return Vote(f"{pair.pair_id}-{kind}", pair.pair_id, kind, choice)


class People:
    """The queue of a feedback server. Raises RunError where the server refuses or does not come back."""

    def __init__(self, cfg: BehaviourConfig, section: PeopleAnnotators) -> None:
        token = os.environ.get(section.token_env)
        if not token:
            raise ConfigError(
                f"annotators.token_env={section.token_env}: the variable is not set; give it the token of an "
                "administrator: mmrlhf feedback annotators add NAME --role admin"
            )
        self._cfg, self._section = cfg, section
        self._client = ItemsClient(section.url, token)
        self._env = RecordedEnv(cfg, render=True)

    def ask(self, pairs: Sequence[Pair]) -> None:
        """Put the pairs' clips into the queue; those that are there already change nothing."""
        rows = [self._row(pair) for pair in pairs]
        if rows:
            self._client.add_items(rows)

    def votes(self, pairs: Mapping[str, Pair]) -> list[Vote]:
        """All votes on this run's pairs, those that were fetched before among them."""
        own = {self._item_id(name): name for name in pairs}
        return [
            Vote(row["annotation_id"], own[row["item_id"]], row["annotator_id"], _CHOICES[_order(row["ranks"])])
            for row in self._client.annotations()
            if row["item_id"] in own and len(row["ranks"]) == 2
        ]

    def close(self) -> None:
        """Close the connection and the environment."""
        self._client.close()
        self._env.close()

    def _item_id(self, name: str) -> str:
        """Of a pair; servers may hold the questions of several runs."""
        return hashlib.sha256(f"{self._cfg.name} {name}".encode()).hexdigest()[:32]

    def _row(self, pair: Pair) -> dict[str, Any]:
        sides = zip(pair.replays, (pair.first, pair.second), strict=True)
        clips = [film(self._env, replay, segment) for replay, segment in sides]
        rate = self._cfg.segments.frames_per_second
        ids = [self._client.add_media(encode(frames, rate), "video") for frames in clips]
        return {
            "item_id": self._item_id(pair.pair_id),
            "prompt_id": self._item_id(pair.pair_id),
            "prompt": f"The first clip: <video> The second clip: <video> {self._section.question}",
            "media_ids": ids,
            "task": self._cfg.name,
            "question": "pair",
            "responses": ["the first clip", "the second clip"],
            "overlap": self._section.overlap,
        }


def _order(ranks: Sequence[int]) -> int:
    """Place in _CHOICES."""
    return 0 if ranks[0] < ranks[1] else 1 if ranks[0] > ranks[1] else 2
