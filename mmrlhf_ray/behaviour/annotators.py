"""Who compares two segments: simulated annotators, a function of the user's, or people by the feedback app."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mmrlhf_ray.behaviour.clips import encode, film
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import Pair, Vote
from mmrlhf_ray.behaviour.presses import Pressed, Range
from mmrlhf_ray.behaviour.scripts import Script, states_of
from mmrlhf_ray.behaviour.segments import Clip, Recorded, Replay, Segment
from mmrlhf_ray.config.behaviour import BehaviourConfig, PeopleAnnotators, ScriptAnnotators, SimulatedAnnotators
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.client import ItemsClient
from mmrlhf_ray.feedback.regions import BAD, GOOD

_CHOICES = ("left", "right", "tie")
_OPPOSITE = {"left": "right", "right": "left", "tie": "tie"}


class Judge(Protocol):
    """Compares two segments with all that was recorded of them."""

    name: str
    """Of the annotator in votes."""

    def __call__(self, first: Recorded, second: Recorded) -> str:
        """left where the first is better, right, or tie."""

    def close(self) -> None:
        """End what it runs in."""


class TrueJudge:
    """The better is the one with more of the environment's own reward."""

    name = "simulated"

    def __call__(self, first: Recorded, second: Recorded) -> str:
        a, b = float(first.true_rewards.sum()), float(second.true_rewards.sum())
        return "tie" if a == b else "left" if a > b else "right"

    def close(self) -> None:
        """It runs in nothing."""


class ScriptJudge:
    """A function of the user's. Raises ConfigError as Script does, and for another choice."""

    name = "script"

    def __init__(self, section: ScriptAnnotators) -> None:
        self._script = Script("annotators.judge", section.judge, section.deadline_s)

    def __call__(self, first: Recorded, second: Recorded) -> str:
        choice = self._script(states_of(first), states_of(second))
        if choice not in _CHOICES:
            raise self._script.refuse(f"expected left, right or tie, got {choice!r:.80}")
        return str(choice)

    def close(self) -> None:
        self._script.close()


def judge_of(cfg: BehaviourConfig) -> Judge | None:
    """The judge of simulated annotators or of a script, to be closed; None for people."""
    if isinstance(cfg.annotators, ScriptAnnotators):
        return ScriptJudge(cfg.annotators)
    return TrueJudge() if isinstance(cfg.annotators, SimulatedAnnotators) else None


def noisy_vote(judge: Judge, pair: Pair, first: Recorded, second: Recorded, wrong: float, seed: int) -> Vote:
    """A vote whose chance hangs on the pair and the seed alone, so that a resumed run hears the same again."""
    choice = judge(first, second)
    rng = np.random.default_rng([seed, *pair.pair_id.encode()])
    if rng.random() < wrong:
        choice = _OPPOSITE[choice]
    return Vote(f"{pair.pair_id}-{judge.name}", pair.pair_id, judge.name, choice)


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
        return [
            Vote(row["annotation_id"], name, row["annotator_id"], _CHOICES[_order(row["ranks"])])
            for name, row in self._answers(pairs)
            if len(row["ranks"]) == 2
        ]

    def show(self, clips: Iterable[Clip]) -> None:
        """Put clips into the queue for keys to be pressed over; those that are there already change nothing."""
        rows = [self._clip_row(clip) for clip in clips]
        if rows:
            self._client.add_items(rows)

    def presses(self, clips: Mapping[str, Clip]) -> list[Pressed]:
        """All presses on this run's clips, those that were fetched before among them."""
        found = []
        for name, row in self._answers(clips):
            good, bad = (_ranges(row["regions"], aspect) for aspect in (GOOD, BAD))
            found.append(Pressed(row["annotation_id"], name, row["annotator_id"], good, bad))
        return found

    def _answers(self, asked: Iterable[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(name, row of ANNOTATION) of every answer to what was asked."""
        own = {self._item_id(name): name for name in asked}
        for row in self._client.annotations():
            if row["item_id"] in own:
                yield own[row["item_id"]], row

    def close(self) -> None:
        """Close the connection and the environment."""
        self._client.close()
        self._env.close()

    def _item_id(self, name: str) -> str:
        """Of a pair; servers may hold the questions of several runs."""
        return hashlib.sha256(f"{self._cfg.name} {name}".encode()).hexdigest()[:32]

    def _row(self, pair: Pair) -> dict[str, Any]:
        sides = zip(pair.replays, (pair.first, pair.second), strict=True)
        ids = [self._upload(replay, segment) for replay, segment in sides]
        asked = self._section.question or "Which clip shows the better behaviour?"
        return self._item(pair.pair_id, ids, f"The first clip: <video> The second clip: <video> {asked}") | {
            "question": "pair",
            "responses": ["the first clip", "the second clip"],
        }

    def _clip_row(self, clip: Clip) -> dict[str, Any]:
        asked = self._section.question or "Press + while it behaves well and − while it does not."
        ids = [self._upload(clip.replay, clip.segment)]
        return self._item(clip.name, ids, f"<video> {asked}") | {"question": "live", "responses": []}

    def _item(self, name: str, media_ids: Sequence[str], prompt: str) -> dict[str, Any]:
        return {
            "item_id": self._item_id(name),
            "prompt_id": self._item_id(name),
            "prompt": prompt,
            "media_ids": media_ids,
            "task": self._cfg.name,
            "overlap": self._section.overlap,
        }

    def _upload(self, replay: Replay, segment: Segment) -> str:
        frames = film(self._env, replay, segment)
        return self._client.add_media(encode(frames, self._cfg.segments.frames_per_second), "video")


def _ranges(regions: Sequence[Mapping[str, Any]], aspect: str) -> tuple[Range, ...]:
    """Of the presses with this aspect."""
    found = [region["extent"] for region in regions if region["kind"] == "range" and region["aspect"] == aspect]
    return tuple((float(start), float(end)) for start, end in found)


def _order(ranks: Sequence[int]) -> int:
    """Place in _CHOICES."""
    return 0 if ranks[0] < ranks[1] else 1 if ranks[0] > ranks[1] else 2
