"""A step's prompts, responses and scores; with dynamic sampling, in as many rounds as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmrlhf_ray.config import FluencyReward, PPOConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import Mixed, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts, TakeStats, concat_rollouts
from mmrlhf_ray.rollout.groups import informative_rows
from mmrlhf_ray.workers.fleet import Fleet
from mmrlhf_ray.workers.roles.functions import PendingScores

Answers = dict[str, ComponentScores]
"""Reward component → what it says of each row."""


@dataclass(frozen=True)
class Sampled:
    """Responses of a step, and their scores where these are known or being computed."""

    rollouts: Rollouts
    pending: PendingScores | None
    answers: Answers
    """Known already; empty while they are pending."""
    cursor: int
    """Prompts taken so far, this step's counted."""
    encoding: TakeStats
    rounds: int
    score_seconds: float
    without_score: int = 0
    """Responses that were put aside because no score came back."""
    warnings: tuple[str, ...] = ()

    def scores(self) -> tuple[Answers, float]:
        """The components' scores, and the seconds of the slowest."""
        if self.pending is None:
            return self.answers, self.score_seconds
        return self.pending.result()


def sample(fleet: Fleet, cfg: PPOConfig, state: DriverState) -> Sampled:
    """The next `prompts_per_step` prompts with their responses. Nothing waits for scores unless dynamic sampling must
    know them. Raises RunError when no round finds a prompt that could teach anything.
    """
    wanted, dynamic = cfg.algorithm.prompts_per_step, cfg.algorithm.dynamic_sampling
    if dynamic is None:
        return _round(fleet, cfg, state.cursor, wanted)
    parts: list[Sampled] = []
    cursor, missing, without_score = state.cursor, wanted, 0
    warnings: tuple[str, ...] = ()
    for _ in range(dynamic.max_rounds):
        part = _scored(_round(fleet, cfg, cursor, missing))
        cursor = part.cursor
        mixed = _mixed(cfg, part, state)
        without_score += mixed.keep.count(False)
        warnings += mixed.warnings
        rows = informative_rows(part.rollouts.table, mixed.scores, mixed.keep, dynamic.min_spread)
        if rows:
            parts.append(_select(part, rows))
            missing -= len(set(parts[-1].rollouts.table.column("group_id").to_pylist()))
        if missing <= 0:
            break
    if not parts:
        raise RunError(
            f"dynamic sampling: in {dynamic.max_rounds} rounds the responses to every prompt scored alike (spread at "
            f"most min_spread={dynamic.min_spread:g}); nothing can be learned. Raise n_samples_per_prompt or "
            "sampling.temperature, lower min_spread, or look whether the reward can tell responses apart"
        )
    return replace(_concat(parts), cursor=cursor, without_score=without_score, warnings=warnings)


def _round(fleet: Fleet, cfg: PPOConfig, cursor: int, prompts: int) -> Sampled:
    taken = fleet.prompts.take(cursor, prompts)
    rollouts = fleet.generators.generate(taken, cfg.algorithm.n_samples_per_prompt)
    return Sampled(rollouts, fleet.rewards.ask(rollouts), {}, cursor + prompts, taken.stats, 1, 0.0)


def _scored(sampled: Sampled) -> Sampled:
    answers, seconds = sampled.scores()
    return replace(sampled, pending=None, answers=answers, score_seconds=seconds)


def _mixed(cfg: PPOConfig, sampled: Sampled, state: DriverState) -> Mixed:
    """Fluency differs from response to response whatever they say, so it cannot tell which prompts teach something."""
    rewards = [reward for reward in cfg.rewards if not isinstance(reward, FluencyReward)]
    known = state.mixture.restricted({reward.name for reward in rewards})
    return mix(rewards, sampled.answers, Rows.of(sampled.rollouts.table), known)


def _select(sampled: Sampled, rows: Sequence[int]) -> Sampled:
    answers = {name: scores.select(rows) for name, scores in sampled.answers.items()}
    return replace(sampled, rollouts=sampled.rollouts.select(rows), answers=answers)


def _concat(parts: Sequence[Sampled]) -> Sampled:
    if len(parts) == 1:
        return parts[0]
    encoding = TakeStats(
        sum(p.encoding.seconds for p in parts),
        sum(p.encoding.media_bytes for p in parts),
        sum(p.encoding.media_bytes_unique for p in parts),
        sum(p.encoding.processor_calls for p in parts),
    )
    return Sampled(
        concat_rollouts([p.rollouts for p in parts]),
        None,
        {name: ComponentScores.concat([p.answers[name] for p in parts]) for name in parts[0].answers},
        parts[-1].cursor,
        encoding,
        len(parts),
        sum(p.score_seconds for p in parts),
    )
