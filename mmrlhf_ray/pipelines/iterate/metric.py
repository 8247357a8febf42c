"""The measure of whether a policy got better: the primary reward of its responses to held-out prompts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval, wilson_interval
from mmrlhf_ray.config.iterate import IterateConfig, TextReward
from mmrlhf_ray.config.rounds import RoundPaths, reward_model_after, scoring_job
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.evaluate.job import read_responses
from mmrlhf_ray.pipelines.iterate.member_scores import Said, member_scores
from mmrlhf_ray.rewards.batch import PromptLookup, RewardBatch
from mmrlhf_ray.rewards.components import component, score_own
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores

_PRIMARY_FILE = "primary.json"


class Metric(Protocol):
    """Scores responses to the held-out prompts; higher is better."""

    @property
    def name(self) -> str:
        """The name of the score."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether a response has the same score in every round."""
        ...

    def scores(self, responses: pa.Table, number: int) -> list[float]:
        """Of each row of a RESPONSE table, as round `number` sees it. Raises RunError."""
        ...


@dataclass(frozen=True)
class MixtureMetric:
    """The mixture of `evaluate.rewards`."""

    rewards: tuple[TextReward, ...]
    prompts: Records
    name: str = "primary reward"
    fixed: bool = True

    def scores(self, responses: pa.Table, number: int) -> list[float]:
        batch = PromptLookup(self.prompts.records).batch_of_texts(responses)
        answers = {reward.name: _answers(reward, batch) for reward in self.rewards}
        mixed = mix(self.rewards, answers, batch.rows, MixtureState.start(self.rewards))
        lacking = mixed.keep.count(False)
        if lacking:
            raise RunError(
                f"evaluate.rewards: {lacking} of {len(batch)} responses have no score ({'; '.join(mixed.warnings)}); "
                "rounds could not be compared. Use on_missing: fail or zero"
            )
        return list(mixed.scores)


def _answers(reward: TextReward, batch: RewardBatch) -> ComponentScores:
    own = component(reward)
    try:
        own.start()
        return score_own(reward, own, batch)
    finally:
        own.close()


@dataclass(frozen=True)
class RewardModelMetric:
    """The round's own reward model, where there is no other yardstick: only scores by one and the same compare."""

    cfg: IterateConfig
    prompts: Records
    run_dir: Path
    name: str = "score by the round's own reward model"
    fixed: bool = False

    def scores(self, responses: pa.Table, number: int) -> list[float]:
        model = reward_model_after(self.cfg, self.run_dir, number)
        assert model is not None, "asked before there is a reward model"
        paths = RoundPaths(self.run_dir, number)
        columns = (responses.column(name).to_pylist() for name in ("prompt_id", "text"))
        said = [Said(prompt_id, text) for prompt_id, text in zip(*columns, strict=True)]
        job = scoring_job(self.cfg, paths, model, self.cfg.evaluate.data)
        means: list[float] = member_scores(job, self.prompts, said, paths.root).mean(axis=1).tolist()
        return means


def metric_of(cfg: IterateConfig, prompts: Records, run_dir: Path) -> Metric:
    """The metric that `evaluate` asks for; `prompts`: those of `evaluate.data`."""
    if not cfg.evaluate.rewards:
        return RewardModelMetric(cfg, prompts, run_dir)
    return MixtureMetric(cfg.evaluate.rewards, prompts)


def by_prompt(prompt_ids: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Prompt → mean of its responses' values."""
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt_id, value in zip(prompt_ids, values, strict=True):
        groups[prompt_id].append(value)
    return {prompt_id: float(np.mean(own)) for prompt_id, own in groups.items()}


def keep_primary(paths: RoundPaths, values: Sequence[float]) -> None:
    """Write down the primary reward of each answer of the round's evaluation."""
    (paths.root / _PRIMARY_FILE).write_text(json.dumps(list(values)))


def kept_primary(paths: RoundPaths) -> dict[str, float]:
    """Prompt → mean primary reward, of what keep_primary() wrote."""
    answers = read_responses(paths.evaluation, "policy")
    return by_prompt(answers.column("prompt_id").to_pylist(), json.loads((paths.root / _PRIMARY_FILE).read_text()))


def gain(before: dict[str, float], after: dict[str, float]) -> Interval:
    """Mean of after − before over the prompts that both have, with its 95 % interval. Raises RunError without any."""
    both = sorted(before.keys() & after.keys())
    if not both:
        raise RunError("no held-out prompt was answered by both policies; did evaluate.data change?")
    return mean_interval([after[prompt_id] - before[prompt_id] for prompt_id in both])


def pair_accuracy(prompt_ids: Sequence[str], scores: Sequence[float], primary: Sequence[float]) -> Interval | None:
    """Of two responses to one prompt, how often does the reward model's score prefer what the primary reward does?

    Pairs of equal primary reward do not count, equal scores count one half. None where there is no pair, as with one
    sample per prompt.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for prompt_id, score, value in zip(prompt_ids, scores, primary, strict=True):
        groups[prompt_id].append((score, value))
    signs = [
        float(np.sign(a[0] - b[0]) * np.sign(a[1] - b[1]))
        for own in groups.values()
        for a, b in combinations(own, 2)
        if a[1] != b[1]
    ]
    return wilson_interval(sum(0.5 * (sign + 1) for sign in signs), len(signs)) if signs else None
