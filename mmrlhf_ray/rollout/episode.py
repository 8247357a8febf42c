"""A response of several turns: what the policy wrote, and what it was shown in between.

Its tokens stand in one list to which turns are appended and in which nothing is ever changed, so that the learner reads
what the sampler read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:  # generators read this module, and no model
    from mmrlhf_ray.data.encoding.encode import EncodedPrompt


RESPONSE, OBSERVATION = "response", "observation"
_OF_SAMPLER = frozenset({"collapsed_token_ids"})


class Row(TypedDict):
    """Of ENCODED_PROMPT."""

    group_id: int
    prompt_id: str
    task: str
    modality: str
    prompt_token_ids: list[int]
    collapsed_token_ids: list[int]
    facts_token_ids: list[int]
    media_ids: list[str]


class Segment(TypedDict):
    """Of the column `segments`."""

    kind: str
    start: int
    end: int
    shows: list[str]
    reward: float
    problem: str


@dataclass(frozen=True)
class Turn:
    """What the policy sampled between two observations."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    versions: Sequence[tuple[int, int, int]]
    """(version, start, end), counted from the turn's first token."""


@dataclass
class Episode:
    """One response to a prompt, turn by turn."""

    prompt: Row
    number: int
    """Among the prompt's responses."""
    response_token_ids: list[int] = field(default_factory=list)
    response_mask: list[bool] = field(default_factory=list)
    rollout_logprobs: list[float] = field(default_factory=list)
    versions: list[dict[str, int]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    media_ids: list[str] = field(default_factory=list)
    """Of the observations."""
    collapsed_token_ids: list[int] = field(default_factory=list)
    """The response with one placeholder per clip."""

    @property
    def turns(self) -> int:
        """Of the policy."""
        return sum(segment["kind"] == RESPONSE for segment in self.segments)

    @property
    def asked(self) -> Row:
        """The row of ENCODED_PROMPT that the next turn answers."""
        return {
            **self.prompt,
            "prompt_token_ids": [*self.prompt["prompt_token_ids"], *self.response_token_ids],
            "collapsed_token_ids": [*self.prompt["collapsed_token_ids"], *self.collapsed_token_ids],
            "media_ids": [*self.prompt["media_ids"], *self.media_ids],
        }

    def respond(self, turn: Turn) -> None:
        """Append a turn of the policy."""
        start = len(self.response_token_ids)
        self.versions += [{"version": v, "start": start + a, "end": start + b} for v, a, b in turn.versions]
        self.response_mask += [True] * len(turn.token_ids)
        self.rollout_logprobs += turn.logprobs
        self._append(RESPONSE, turn.token_ids, turn.token_ids, ())

    def judge(self, reward: float | None, problem: str | None) -> None:
        """What the environment says of the policy's last turn."""
        last = self.segments[-1]
        last["reward"], last["problem"] = math.nan if reward is None else reward, problem or ""

    def observe(self, seen: "EncodedPrompt", shows: Sequence[tuple[str, str]]) -> None:
        """Append an observation. `shows`: (kind, media_id) of its clips."""
        self.response_mask += [False] * len(seen.token_ids)
        self.rollout_logprobs += [0.0] * len(seen.token_ids)
        self.media_ids += [media_id for _, media_id in shows]
        self._append(OBSERVATION, seen.token_ids, seen.collapsed_token_ids, [kind for kind, _ in shows])

    def _append(self, kind: str, token_ids: Sequence[int], collapsed: Sequence[int], shows: Sequence[str]) -> None:
        start = len(self.response_token_ids)
        self.response_token_ids += token_ids
        self.collapsed_token_ids += collapsed
        end = len(self.response_token_ids)
        self.segments.append(
            {"kind": kind, "start": start, "end": end, "shows": list(shows), "reward": math.nan, "problem": ""}
        )

    def as_row(self, finish_reason: str) -> dict[str, object]:
        """Of ROLLOUT. One turn that no environment said anything of is a plain response."""
        prompt, first = self.prompt, self.versions[0]["version"]
        plain = len(self.segments) == 1 and math.isnan(self.segments[0]["reward"]) and not self.segments[0]["problem"]
        return {
            "sample_id": f"{prompt['prompt_id']}@{prompt['group_id']}/v{first}/{self.number}",
            **{name: value for name, value in prompt.items() if name not in _OF_SAMPLER},
            "policy_version": first,
            "versions": self.versions,
            "segments": [] if plain else self.segments,
            "response_token_ids": self.response_token_ids,
            "response_mask": self.response_mask,
            "rollout_logprobs": self.rollout_logprobs,
            "finish_reason": finish_reason,
            "media_ids": [*prompt["media_ids"], *self.media_ids],
        }


def answer_of(token_ids: list[int], segments: Sequence[Segment]) -> list[int]:
    """Of a ROLLOUT row's response: the policy's last turn, or all of a response of one turn."""
    last = next((s for s in reversed(segments) if s["kind"] == RESPONSE), None)
    return token_ids if last is None else token_ids[last["start"] : last["end"]]


def turn_rewards(rollouts: pa.Table, of_turns: Sequence[Sequence[float]]) -> np.ndarray:
    """Each turn's reward at its last token, float64 [N] over all response tokens; 0 at the others.

    of_turns: rewards of each row's turns, () for a row without any. Raises ValueError where a row has another number of
    turns.
    """
    ends = np.cumsum(pc.list_value_length(rollouts.column("response_token_ids")).to_numpy())
    placed = np.zeros(int(ends[-1]) if len(ends) else 0)
    rows = zip(rollouts.column("segments").to_pylist(), of_turns, ends.tolist(), strict=True)
    start = 0
    for number, (segments, rewards, end) in enumerate(rows):
        last = [start + segment["end"] - 1 for segment in segments if segment["kind"] == RESPONSE] or [end - 1]
        if rewards and len(rewards) != len(last):
            raise ValueError(f"of_turns: row {number} has {len(rewards)} rewards for {len(last)} turns")
        placed[last[: len(rewards)]] = rewards
        start = end
    return placed


def turn_metrics(rollouts: pa.Table) -> dict[str, float]:
    """Of ROLLOUT rows that are episodes: `turns` of the policy in each, and the share of them whose call failed or was
    answered with something that could not be shown, `turns_with_problem`. Empty where no row is one."""
    episodes = [row for row in rollouts.column("segments").to_pylist() if row]
    if not episodes:
        return {}
    turns = [segment for row in episodes for segment in row if segment["kind"] == RESPONSE]
    plain = len(rollouts) - len(episodes)
    problems = sum(bool(turn["problem"]) for turn in turns)
    return {"turns": (len(turns) + plain) / len(rollouts), "turns_with_problem": problems / (len(turns) + plain)}


def kinds_of(segments: Sequence[Segment]) -> list[str]:
    """Kinds of the clips that an episode's observations show, in order."""
    return [kind for segment in segments for kind in segment["shows"]]
