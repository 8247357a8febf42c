"""EXPERIENCE of random rows with holes in their masks, chunk by chunk, against the float64 reference."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import ray

from mmrlhf_ray.algorithms.advantages import WHITEN_DEFAULT
from mmrlhf_ray.config import AlgorithmConfig
from mmrlhf_ray.config.algorithm import GROUPED
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.pipelines.ppo import experience
from mmrlhf_ray.pipelines.ppo.experience import Answers, make_experience
from mmrlhf_ray.rollout.batch import Rollouts
from tests.golden import reference
from tests.unit.tiny import rollout_table

ROWS, LONGEST, KL_COEF, LOW, HIGH = 9, 8, 0.3, 0.7, 1.4
GROUPS = [5, 5, 2, 2, 2, 5, 9, 9, 2]
KINDS = {"reinforce_pp_baseline": "mean", "dr_grpo": "mean", "rloo": "others", "grpo": "standard"}
Grid = list[list[float]]


class Case:
    """Random rows; grids have zeros beyond the ends of the rows."""

    def __init__(self, seed: int, holes: bool) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = rng.integers(1, LONGEST + 1, ROWS)
        self.masks = [rng.random(n) < 0.7 if holes else np.ones(n, bool) for n in self.lengths]
        for mask in self.masks:
            mask[rng.integers(len(mask))] = True
        self.columns = {
            name: [rng.normal(0.0, 0.4, n).astype(np.float32) for n in self.lengths]
            for name in ("old_logprobs", "ref_logprobs", "values", "rollout_logprobs")
        }
        self.scores = rng.normal(size=ROWS).tolist()

    def made(self, algorithm: AlgorithmConfig) -> experience.Experience:
        rows = [TokenRow([9], [1] * int(n), []) for n in self.lengths]
        columns: dict[str, Any] = {"group_id": GROUPS, "response_mask": [m.tolist() for m in self.masks]}
        columns["rollout_logprobs"] = [row.tolist() for row in self.columns["rollout_logprobs"]]
        rollouts = Rollouts(rollout_table(rows, **columns), ray.ObjectRef.nil(), {}, 0.0)
        ref, old, values = (Ragged.of_rows(self.columns[n]) for n in ("ref_logprobs", "old_logprobs", "values"))
        answers = Answers(self.scores, ref, old, values if algorithm.has_critic else None)
        return make_experience(rollouts, answers, KL_COEF, algorithm, LONGEST, {})

    def grid(self, name: str) -> Grid:
        return [[*row.astype(float).tolist(), *[0.0] * (LONGEST - len(row))] for row in self.columns[name]]

    @property
    def mask(self) -> list[list[bool]]:
        return [[*row.tolist(), *[False] * (LONGEST - len(row))] for row in self.masks]


def wanted(case: Case, algorithm: AlgorithmConfig) -> dict[str, Grid]:
    """Rewards, advantages and returns as grids."""
    old, ref, mask, name = (
        case.grid("old_logprobs"),
        case.grid("ref_logprobs"),
        case.mask,
        algorithm.advantage_estimator,
    )
    kl = reference.kl(old, ref, algorithm.kl_estimator)
    in_reward = KL_COEF if algorithm.kl_in == "reward" else 0.0
    rewards, returns = reference.token_rewards(case.scores, kl, mask, in_reward), [[0.0] * LONGEST] * ROWS
    if name == "gae":
        values = case.grid("values")
        advantages, returns = reference.gae(rewards, values, mask, algorithm.gamma, algorithm.gae_lambda)
    elif name in KINDS:
        advantages = reference.group_advantages(rewards, mask, GROUPS, KINDS[name])
    else:
        advantages = reference.reinforce(rewards, mask, algorithm.gamma)
    mode = algorithm.whiten or WHITEN_DEFAULT[name]
    return {
        "rewards": rewards,
        "advantages": reference.whiten(advantages, mask, mode, 1e-8),
        "returns": [[r if on else 0.0 for r, on in zip(*row, strict=True)] for row in zip(returns, mask, strict=True)],
    }


def assert_equal(case: Case, algorithm: AlgorithmConfig) -> None:
    made = case.made(algorithm)
    want = wanted(case, algorithm)
    for name, rows in want.items():
        got = made.table.column(name).to_pylist()
        for own, wanted_row, length in zip(got, rows, case.lengths, strict=True):
            assert own == pytest.approx(wanted_row[:length], rel=1e-6, abs=1e-7), name
    old, ref, sampled = (case.grid(n) for n in ("old_logprobs", "ref_logprobs", "rollout_logprobs"))
    on = [(i, t) for i, row in enumerate(case.mask) for t, there in enumerate(row) if there]
    kl = [sum(old[i][t] - ref[i][t] for i, t in on if i == row) for row in range(ROWS)]
    assert made.response_kl.tolist() == pytest.approx(kl, rel=1e-12, abs=1e-12)
    chosen = algorithm.mismatch
    weights = reference.mismatch_weights(old, sampled, case.mask, chosen.correction, chosen.low, chosen.high)
    log_ratios = [old[i][t] - sampled[i][t] for i, t in on]
    metrics = {
        "kl": sum(kl) / ROWS,
        "reward": sum(want["rewards"][i][t] for i, t in on) / ROWS,
        "entropy": -sum(old[i][t] for i, t in on) / len(on),
        "mismatch_max": max(map(abs, log_ratios)),
        "mismatch_mean": sum(map(abs, log_ratios)) / len(on),
        "mismatch_kl": sum(math.exp(d) - 1 - d for d in log_ratios) / len(on),
        "corrected": sum(abs(weights[i][t] - 1) > 0.01 for i, t in on) / len(on),
        "corrected_to_zero": sum(weights[i][t] == 0 for i, t in on) / len(on),
    }
    assert {name: made.metrics[name] for name in metrics} == pytest.approx(metrics, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", WHITEN_DEFAULT)
@pytest.mark.parametrize("holes", [False, True])
def test_every_estimator_whitening_and_kl(monkeypatch: pytest.MonkeyPatch, name: str, holes: bool) -> None:
    places = [*product(("k1", "k2", "k3"), ["reward"]), ("k2", "loss")]
    for seed, ((kind, place), whiten, chunk) in enumerate(product(places, ("none", "center", "full"), (1, 11, 10_000))):
        monkeypatch.setattr(experience, "_CHUNK_TOKENS", chunk)
        given = {"advantage_estimator": name, "whiten": whiten, "kl_estimator": kind, "kl_in": place}
        own = {"n_samples_per_prompt": 2} if name in GROUPED else {"gamma": 0.9}
        assert_equal(Case(seed, holes), AlgorithmConfig.model_validate(given | own))


@pytest.mark.parametrize("correction", ["tis", "icepop", "sequence_mask"])
def test_every_correction_is_measured(monkeypatch: pytest.MonkeyPatch, correction: str) -> None:
    monkeypatch.setattr(experience, "_CHUNK_TOKENS", 11)
    mismatch = {"correction": correction, "low": LOW, "high": HIGH}
    for seed in range(5):
        assert_equal(Case(seed, holes=seed % 2 == 0), AlgorithmConfig.model_validate({"mismatch": mismatch}))


def test_what_is_not_trained_on_is_stepped_over_and_comes_back_as_zero() -> None:
    case = Case(3, holes=True)
    made = case.made(AlgorithmConfig()).table
    for name in ("rewards", "advantages", "returns"):
        for row, mask in zip(made.column(name).to_pylist(), case.masks, strict=True):
            assert not any(value for value, on in zip(row, mask, strict=True) if not on)
    assert made.column("values").to_pylist() == [row.tolist() for row in case.columns["values"]]
