"""What a step reports of its roles."""

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from mmrlhf_ray.pipelines.ppo.stream import Batch
from mmrlhf_ray.rollout.buffer import Leave

_BUSY = {
    "encoder": ("encode",),
    "generator": ("generate",),
    "scorer": ("score",),
    "functions": ("score",),
    "reference": ("reference", "teachers"),
    "policy": ("old_logprobs", "policy_update"),
    "critic": ("values", "critic_update"),
}
"""Role → stages in which it is at work."""

_NOT_DROPPED = (Leave.TRAINED, Leave.SKIPPED)


def stream_metrics(batch: Batch) -> dict[str, float]:
    """What happened in the stream since the batch before, and how old this one is."""
    passed, ages = batch.passed, Counter(batch.ages)
    dropped = {f"dropped_{why.value}": float(passed.left[why]) for why in Leave if why not in _NOT_DROPPED}
    staleness = {f"staleness_{age}": count / len(batch.ages) for age, count in ages.items()}
    return (
        dropped
        | passed.selection
        | staleness
        | {
            "staleness_mean": float(np.mean(batch.ages)),
            "staleness_max": float(max(batch.ages)),
            "seconds_draw_to_train_p50": float(np.percentile(batch.waits, 50)),
            "seconds_draw_to_train_p99": float(np.percentile(batch.waits, 99)),
            "seconds_encode": passed.encoding.seconds,
            "seconds_generate": passed.seconds,
            "generators": float(passed.generators),
            "tokens_sampled": float(passed.sampled_tokens),
            "media_bytes": float(passed.encoding.media_bytes),
            "processor_calls": float(passed.encoding.processor_calls),
        }
    )


def rates(metrics: Mapping[str, float], roles: Collection[str]) -> dict[str, float]:
    """Share of the step in which each role had nothing to do, and tokens per second of sampling and of learning."""
    found = {}
    for role in (role for role in roles if role in _BUSY):  # the others are at work between steps
        busy = sum(metrics.get(f"seconds_{stage}", 0.0) for stage in _BUSY[role])
        found[f"idle_{role}"] = max(0.0, 1.0 - busy / metrics["seconds_step"])
    learned = metrics["response_tokens"] * metrics["responses"]
    for name, tokens, stage in (
        ("sampled", metrics["tokens_sampled"], "generate"),
        ("learned", learned, "policy_update"),
    ):
        if metrics.get(f"seconds_{stage}", 0.0) > 0:
            found[f"tokens_per_second_{name}"] = tokens / metrics[f"seconds_{stage}"]
    return found


def policy_metrics(stats: Mapping[str, float], denominator: float) -> dict[str, float]:
    """Losses as they were minimised; the rest per token."""
    losses = {
        name: stats[name] / denominator for name in ("policy_loss", "kl_loss", "distillation_loss") if name in stats
    }
    means = {name: stats[name] / stats["tokens"] for name in ("clip_fraction", "approx_kl", "ratio")}
    rates = {name: rate for name, rate in stats.items() if name == "lr" or name.startswith("lr_")}
    return losses | means | rates | {"ratio_max": stats["ratio_max"], "grad_norm": stats["grad_norm"]}


def critic_metrics(stats: Mapping[str, float]) -> dict[str, float]:
    """Of sums over tokens."""
    tokens = stats["value_tokens"]
    variance = stats["return_square"] / tokens - (stats["return"] / tokens) ** 2
    return {
        "value_loss": stats["value_loss"] / tokens,
        "value_clip_fraction": stats["value_clip_fraction"] / tokens,
        "explained_variance": 1.0 - stats["value_error"] / tokens / max(variance, 1e-12),
        "critic_grad_norm": stats["grad_norm"],
    }
