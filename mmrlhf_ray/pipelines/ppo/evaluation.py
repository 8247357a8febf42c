"""How good the policy is on held-out prompts while it learns: by the same generators, judges and reference."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from mmrlhf_ray.algorithms.agreement import order_agreement
from mmrlhf_ray.algorithms.statistics import mean_interval
from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.stopping import EarlyStopConfig
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.pipelines.ppo.judged import Judged, ask_scores, concat_judged
from mmrlhf_ray.pipelines.ppo.stream import Stream
from mmrlhf_ray.pipelines.ppo.verdicts import all_scores
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import Mixed, MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import response_kl
from mmrlhf_ray.rollout.episode import turn_metrics
from mmrlhf_ray.rollout.groups import group_rows
from mmrlhf_ray.workers.fleet import Fleet
from mmrlhf_ray.workers.roles.prompts import PromptServer

_PROMPTS_PER_CALL = 128


def evaluate(fleet: Fleet, stream: Stream, cfg: PPOConfig) -> dict[str, float]:
    """Metrics of the present policy on all of `eval_data`: `eval_score` with the bounds of its 95 % interval, `eval_kl`
    to the reference (nats a response) where there is one, `eval_response_tokens`, each component's mean
    `eval_reward_<name>`, and with `early_stop` the two rewards' `eval_agreement`.

    The score is the rewards' mixture without `normalise`, costs at their first multiplier, so that evaluations of one
    run can be compared. Raises RunError for a missing score as `on_missing` says, and what a role raised.
    """
    if fleet.held_out is None:
        raise ValueError("evaluate() without eval_data")
    started = time.monotonic()
    judged = concat_judged(list(_judged(fleet, fleet.held_out, stream, cfg)))
    rewards = [reward.model_copy(update={"normalise": False}) for reward in cfg.rewards]
    table = judged.rollouts.table
    answers = all_scores(cfg, judged)
    mixed = mix(rewards, answers, Rows.of(table), MixtureState.start(rewards))
    metrics = (
        {name: value for name, value in mixed.metrics.items() if not name.startswith("lagrange_")}
        | {
            "response_tokens": float(Ragged.of_column(table.column("response_mask")).sums().mean()),
        }
        | turn_metrics(table)
    )
    if (reference := judged.tokens.get("ref_logprobs")) is not None:
        metrics["kl"] = float(np.mean(response_kl(table, reference)))
    if cfg.early_stop is not None:
        metrics["agreement"] = _agreement(cfg.early_stop, answers, table.column("group_id").to_pylist())
    if scores := list(_by_prompt(judged, mixed)):
        interval = mean_interval(scores)
        metrics |= {"score": interval.estimate, "score_low": interval.low, "score_high": interval.high}
    return {f"eval_{name}": value for name, value in metrics.items()} | {"seconds_eval": time.monotonic() - started}


def stops(cfg: PPOConfig, metrics: Mapping[str, float]) -> bool:
    """Whether the run ends by what its evaluation found. No pair of responses to compare ends nothing."""
    stop, found = cfg.early_stop, metrics.get("eval_agreement")
    return stop is not None and found is not None and found < stop.agreement


def _agreement(stop: EarlyStopConfig, answers: Mapping[str, ComponentScores], groups: Sequence[int]) -> float:
    one, other = ([math.nan if v is None else v for v in answers[name].values] for name in stop.rewards)
    return order_agreement(one, other, groups)


def _by_prompt(judged: Judged, mixed: Mixed) -> Iterator[float]:
    """Mean score of each prompt that has one: its responses are not independent of each other."""
    for rows in group_rows(judged.rollouts.table).values():
        if kept := [mixed.scores[row] for row in rows if mixed.keep[row]]:
            yield fmean(kept)


def _judged(fleet: Fleet, held_out: PromptServer, stream: Stream, cfg: PPOConfig) -> Iterator[Judged]:
    """Responses to the prompts, part by part, with scores and reference."""
    for first in range(0, held_out.rows, _PROMPTS_PER_CALL):
        encoding = held_out.ask_slice(first, min(first + _PROMPTS_PER_CALL, held_out.rows))
        stream.tend(encoding.refs)
        judging = ask_scores(fleet, stream.sample(encoding.result(), cfg.eval_samples_per_prompt))
        stream.tend(judging.refs)
        yield judging.result()
