"""Names of algorithms that people type in the place of a job: what each sets, as docs/algorithms.md has the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.config.source import Source, merged
from mmrlhf_ray.errors import ConfigError


@dataclass(frozen=True)
class Alias:
    """An algorithm by its name: a job, and some of its keys set."""

    job: str
    means: Mapping[str, str]
    """Dotted keys that make it this algorithm; a file may not say otherwise."""
    advises: Mapping[str, Any]
    """Dotted keys of its recipe, which a file may change."""

    @property
    def values(self) -> dict[str, Any]:
        """All of them, as a file has them."""
        values: dict[str, Any] = {}
        for key, value in (*self.means.items(), *self.advises.items()):
            *sections, leaf = key.split(".")
            inside = values
            for section in sections:
                inside = inside.setdefault(section, {})
            inside[leaf] = value
        return values


def _online(estimator: str, policy_loss: str | None = None, **advised: Any) -> Alias:
    means = {"advantage_estimator": estimator} | ({"policy_loss": policy_loss} if policy_loss else {})
    return Alias(
        "ppo",
        {f"algorithm.{key}": value for key, value in means.items()},
        {f"algorithm.{key}": value for key, value in advised.items()},
    )


_GROUP = {"n_samples_per_prompt": 8}
_NO_KL: dict[str, Any] = _GROUP | {"kl_coef": 0.0}
_DAPO: dict[str, Any] = {
    "clip_range": 0.2,
    "clip_range_high": 0.28,
    "dynamic_sampling": {},
    "aggregation": "token_mean",
    "overlong": {"buffer_tokens": 16, "penalty": 1.0},
    "kl_coef": 0.0,
    "n_samples_per_prompt": 16,
}

ALIASES: Mapping[str, Alias] = {
    "grpo": _online(
        "grpo", aggregation="sequence_mean", kl_in="loss", kl_estimator="k3", kl_coef=0.04, n_samples_per_prompt=8
    ),
    "dr-grpo": _online("dr_grpo", aggregation="constant_length", **_NO_KL),
    "rloo": _online("rloo", clip_range=None, n_samples_per_prompt=4),
    "reinforce-pp": _online("reinforce_pp", kl_in="reward", kl_estimator="k1", kl_coef=0.01),
    "dapo": _online("grpo", **_DAPO),
    "gspo": _online(
        "grpo", "gspo", clip_range=3e-4, clip_range_high=4e-4, aggregation="sequence_mean", **_NO_KL
    ),
    "cispo": _online("grpo", "cispo", clip_range=None, clip_range_high=4.0, **_NO_KL),
} | {
    name: Alias("preference", {"objective": name}, {})
    for name in ("dpo", "ipo", "kto", "orpo", "simpo", "bco", "mpo")
}  # fmt: skip


def apply(name: str, source: Source) -> None:
    """Lay a file over what the algorithm `name` sets. Raises ConfigError where the file says another algorithm."""
    alias = ALIASES[name]
    for key, meant in alias.means.items():
        said = _at(source.values, key)
        if said is not None and said != meant:
            others = [other for other, its in ALIASES.items() if its.job == alias.job and its.means.get(key) == said]
            instead = " or ".join(f"`mmrlhf {other}`" for other in (*others, alias.job))
            raise ConfigError(
                f"{key} ({source.origin(key)}): `mmrlhf {name}` means {meant}, but this says {said}; run it with "
                f"{instead}, or leave the key out"
            )
    source.values = merged(alias.values, source.values)


def _at(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None  # type: ignore[assignment]
    return values
