"""Which judged groups are trained on."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mmrlhf_ray.config import FluencyReward, PPOConfig
from mmrlhf_ray.config.algorithm import GROUPED
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.ppo.judged import Group, Judged
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import Mixed, MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.buffer import Leave
from mmrlhf_ray.rollout.groups import group_rows, why_left_out


def all_scores(cfg: PPOConfig, judged: Judged) -> dict[str, ComponentScores]:
    """Of every component: those that were asked for, and mean log p under the reference where `fluency` is one."""
    fluency = [reward.name for reward in cfg.rewards if isinstance(reward, FluencyReward)]
    sampled = Ragged.of_column(judged.rollouts.table.column("response_mask"))
    means = judged.tokens["ref_logprobs"].where(sampled).means().tolist() if fluency else []
    return {**judged.scores, **{name: ComponentScores.of(means) for name in fluency}}


def mixed_for_verdict(cfg: PPOConfig, judged: Judged, state: MixtureState) -> Mixed:
    """The groups' scores. With dynamic sampling without fluency, which differs from response to response whatever they
    say, so that it cannot tell which prompts teach something. Raises RunError as mix()."""
    rows = Rows.of(judged.rollouts.table)
    if cfg.algorithm.dynamic_sampling is None:
        return mix(cfg.rewards, all_scores(cfg, judged), rows, state)
    rewards = [reward for reward in cfg.rewards if not isinstance(reward, FluencyReward)]
    return mix(rewards, judged.scores, rows, state.restricted({reward.name for reward in rewards}))


def verdicts(cfg: PPOConfig, judged: Judged, mixed: Mixed) -> Iterator[tuple[int, Group, Leave | None]]:
    """Position of each group, the group, and why it is not trained on (None where it is)."""
    a = cfg.algorithm
    spread = a.dynamic_sampling.min_spread if a.dynamic_sampling else None
    for position, rows in group_rows(judged.rollouts.table).items():
        scores = [mixed.scores[row] for row in rows if mixed.keep[row]]
        why = why_left_out(scores, compared=a.advantage_estimator in GROUPED, min_spread=spread)
        yield position, Group(judged, rows), why


def check_left(cfg: PPOConfig, left: Counter[Leave], ready: int, warnings: Sequence[str]) -> None:
    """Raise RunError where too much was left out for one step. `left`: groups, by why; `ready`: those that were not;
    `warnings`: what was said of missing scores."""
    size, said = cfg.algorithm.prompts_per_step, "".join(f"\n{warning}" for warning in warnings[:5])
    sampled = Counter({why: count for why, count in left.items() if why is not Leave.SKIPPED})
    if sampled[Leave.MISSING_SCORE] >= size and sampled[Leave.MISSING_SCORE] == sampled.total() and not ready:
        raise RunError(f"the rewards gave no score for any of the step's first {sampled.total()} prompts{said}")
    if sampled.total() > cfg.stream.max_dropped * size:
        reasons = ", ".join(f"{why.value}: {count}" for why, count in sampled.items())
        raise RunError(
            f"{sampled.total()} groups were left out for one step of {size} ({reasons}), more than "
            f"stream.max_dropped={cfg.stream.max_dropped} times a batch: nothing can be learned. Raise "
            "n_samples_per_prompt or sampling.temperature, lower algorithm.dynamic_sampling.min_spread, or look "
            f"whether the rewards can tell responses apart{said}"
        )
