"""`python -m benchmarks.selection_measure`: what to ask next, measured: accuracy by number of labels.

Questions and simulated annotators of Omni-Digits; a Bradley–Terry model on hashed features of facts and response, in
an ensemble over resampled labels, stands in for the reward model. No media are made and nothing is sampled.
"""

import json
import zlib
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval
from mmrlhf_ray.demo.annotators import Response, ResponsePair, annotate, choose_pairs
from mmrlhf_ray.demo.clips import DIRECTIONS
from mmrlhf_ray.demo.data import demonstrate
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.tasks import SENTENCE_END, TASKS, Case, Item, draw_case
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.labels.derive import derive_preferences
from mmrlhf_ray.feedback.labels.selection import SELECTIONS, Candidates, hashed_ngrams
from mmrlhf_ray.schema import PROMPT

_SIZE = 4096
_RESPONSES, _PAIRS = 4, 3  # per prompt


@dataclass(frozen=True)
class Settings:
    """Sizes of the measurement."""

    prompts: int = 1000
    heldout: int = 400
    per_round: int = 64
    rounds: int = 12
    members: int = 5
    seeds: int = 10
    votes_per_pair: int = 3


@dataclass(frozen=True)
class _Pairs:
    """Pairs of responses as the model sees them."""

    features: csr_matrix
    """[pairs, size], of the first response minus those of the second."""
    texts: list[str]
    """Both responses, for diversity."""
    labels: NDArray[np.int64]
    """1 = the first is better, −1 = the second, 0 = nobody can tell."""


def measure(settings: Settings) -> dict[str, list[list[float]]]:
    """Selection → seed → held-out accuracy after each round. All selections of a seed start from the same labels."""
    curves: dict[str, list[list[float]]] = {name: [] for name in SELECTIONS}
    for seed in range(settings.seeds):
        pool, heldout = _pool(settings, seed), _heldout(settings, seed)
        features = hashed_ngrams(pool.texts)
        for name in SELECTIONS:
            curves[name].append(_curve(name, pool, features, heldout, settings, seed))
    return curves


def _curve(
    name: str, pool: _Pairs, features: NDArray[np.float64], heldout: _Pairs, settings: Settings, seed: int
) -> list[float]:
    rng = np.random.default_rng([seed, 1])
    asked: list[int] = rng.permutation(len(pool.labels))[: settings.per_round].tolist()
    accuracies = []
    for step in range(settings.rounds):
        members = _fit(pool, asked, settings.members, np.random.default_rng([seed, 2, step]))
        accuracies.append(_accuracy(members, heldout))
        left = np.setdiff1d(np.arange(len(pool.labels)), asked)
        first = (pool.features[left] @ members.T)[:, None, :]
        candidates = Candidates(np.concatenate([first, np.zeros_like(first)], axis=1), features[left])
        asked += [int(left[place]) for place in SELECTIONS[name].order(candidates, settings.per_round, rng)]
    return accuracies


def _fit(pool: _Pairs, asked: Sequence[int], members: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights [members, size] of Bradley–Terry models, each on labels drawn with replacement."""
    told = np.array([pair for pair in asked if pool.labels[pair]])
    weights = []
    for _ in range(members):
        drawn = rng.choice(told, len(told))
        # Both orders of each pair, so that both labels are there and the model has no side.
        both = csr_matrix(np.vstack([pool.features[drawn].toarray(), -pool.features[drawn].toarray()]))
        labels = np.concatenate([pool.labels[drawn], -pool.labels[drawn]])
        weights.append(LogisticRegression(C=10.0, fit_intercept=False, max_iter=300).fit(both, labels).coef_[0])
    return np.array(weights)


def _accuracy(members: NDArray[np.float64], heldout: _Pairs) -> float:
    said = np.sign((heldout.features @ members.T).mean(axis=1))
    return float(np.mean(np.where(said == 0, 0.5, said == heldout.labels)))


def _pool(settings: Settings, seed: int) -> _Pairs:
    """Pairs with the majority of the simulated annotators' votes."""
    cases, pairs = _asked(settings.prompts, np.random.default_rng([seed, 3]))
    prompts = pa.Table.from_pylist([_prompt_row(i, case) for i, case in cases.items()], schema=PROMPT)
    votes = annotations_of(annotate(prompts, pairs, seed, votes_per_pair=settings.votes_per_pair))
    won = {(r["prompt_id"], r["chosen"], r["rejected"]) for r in derive_preferences(votes, prompts).to_pylist()}
    labels = [
        ((p.prompt_id, p.first.text, p.second.text) in won) - ((p.prompt_id, p.second.text, p.first.text) in won)
        for p in pairs
    ]
    return _Pairs(_features(cases, pairs), _texts(cases, pairs), np.array(labels))


def _heldout(settings: Settings, seed: int) -> _Pairs:
    """Pairs of other prompts that differ in gold reward, with the truth."""
    cases, pairs = _asked(settings.heldout, np.random.default_rng([seed, 4]))
    gold = np.array([_gold(cases[p.prompt_id], p.first) - _gold(cases[p.prompt_id], p.second) for p in pairs])
    kept = [pair for pair, difference in zip(pairs, gold, strict=True) if difference]
    return _Pairs(_features(cases, kept), _texts(cases, kept), np.sign(gold[gold != 0]).astype(np.int64))


def _asked(count: int, rng: np.random.Generator) -> tuple[dict[str, Case], list[ResponsePair]]:
    shown = [Item(d, "shown") for d in range(10)]
    clips = [Item(d, "shown", direction) for d in range(10) for direction in DIRECTIONS]
    pools: dict[str, Sequence[Item]] = {
        "image": shown,
        "audio": shown,
        "video": clips,
        "text": [Item(d) for d in range(10)],
    }
    cases, pairs = {}, []
    for number in range(count):
        task = TASKS[number % len(TASKS)]
        case = draw_case(task, pools, str(rng.choice(task.options)), rng)
        cases[f"p{number}"] = case
        texts = [demonstrate(case, rng)[1] for _ in range(_RESPONSES)]
        responses = [Response(text, "stop", len(text.split()) + 1) for text in texts]
        pairs += choose_pairs(f"p{number}", responses, _PAIRS, rng)
    return cases, pairs


def _prompt_row(prompt_id: str, case: Case) -> dict[str, object]:
    return {
        "prompt_id": prompt_id,
        "messages": json.dumps([{"role": "user", "content": case.question}]),
        "media_ids": [],
        "task": case.task.name,
        "modality": "text",
        "extras": json.dumps({"answer": case.answer, "evidence": case.evidence}),
    }


def _gold(case: Case, response: Response) -> float:
    truth = {"answer": case.answer, "evidence": case.evidence}
    return gold_reward(response.text, response.finish_reason, response.response_tokens, truth).total


def _features(cases: dict[str, Case], pairs: Sequence[ResponsePair]) -> csr_matrix:
    rows = [_vector(cases[p.prompt_id], p.first.text) - _vector(cases[p.prompt_id], p.second.text) for p in pairs]
    return csr_matrix(np.array(rows))


def _vector(case: Case, text: str) -> NDArray[np.float64]:
    """Each sentence by itself, and next to each fact. That equal digits are equal is to be learned, digit by digit."""
    vector = np.zeros(_SIZE)
    facts = ("", *case.facts.split(" , "))
    for sentence in (*text.split(SENTENCE_END), f"length {len(text.split())}"):
        for fact in facts:
            vector[zlib.crc32(f"{case.task.name}|{fact}|{sentence}".encode()) % _SIZE] += 1
            vector[zlib.crc32(f"{fact}|{sentence}".encode()) % _SIZE] += 1
    return vector


def _texts(cases: dict[str, Case], pairs: Sequence[ResponsePair]) -> list[str]:
    return [f"{cases[p.prompt_id].facts} {p.first.text} {p.second.text}" for p in pairs]


@dataclass(frozen=True)
class Row:
    """One selection against random."""

    name: str
    final: Interval
    """Accuracy after the last round, mean over seeds."""
    gain: Interval
    """Mean over all rounds and seeds of its accuracy minus that of random with as many labels."""
    labels: int | None
    """Labels with which its mean accuracy first reaches that of random after the last round; None = never."""


def summarise(curves: dict[str, list[list[float]]], per_round: int) -> list[Row]:
    """A row for each selection; intervals by bootstrap over seeds."""
    random = np.array(curves["random"])
    rows = []
    for name, runs in curves.items():
        found = np.array(runs)
        reached = np.flatnonzero(found.mean(axis=0) >= random.mean(axis=0)[-1])
        labels = int(reached[0] + 1) * per_round if reached.size else None
        gain = mean_interval((found - random).mean(axis=1))
        rows.append(Row(name, mean_interval(found[:, -1]), gain, labels))
    return rows


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=Settings.seeds)
    parser.add_argument("--votes", type=int, default=Settings.votes_per_pair, help="annotators for each pair")
    parser.add_argument("--output", type=Path, help="write all accuracies to this file, as JSON")
    arguments = parser.parse_args()
    settings = Settings(seeds=arguments.seeds, votes_per_pair=arguments.votes)
    curves = measure(settings)
    if arguments.output:
        arguments.output.write_text(json.dumps(curves))
    steps = [step for step in (1, 2, 4, 8, settings.rounds) if step <= settings.rounds]
    print("| selection | " + " | ".join(f"{step * settings.per_round} labels" for step in steps), end="")
    print(" | against random, all rounds | labels to random's last |")
    print("|---" * (len(steps) + 3) + "|")
    for row in summarise(curves, settings.per_round):
        means = np.mean(curves[row.name], axis=0)
        shown = " | ".join(f"{means[step - 1]:.3f}" for step in steps)
        gain = f"{row.gain:+.3f}"
        print(f"| `{row.name}` | {shown} | {gain} | {row.labels or 'never'} |")


if __name__ == "__main__":
    main()
