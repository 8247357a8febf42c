"""Cloning with people's votes on RLlib's learners: the supervised loss L and the human-feedback loss H, L′ = L + λH."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.bc import BC, BCConfig
from ray.rllib.algorithms.marwil.torch.marwil_torch_learner import MARWILTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from mmrlhf_ray.algorithms.losses import human_loss
from mmrlhf_ray.discrete.feedback import CloningData

FEEDBACK = "feedback"
"""Column float32 [B]: +1 or −1 of the decision in `actions`; 0 for rows that are imitated."""

# Streams of random numbers, so that drawing votes does not move the draw of labels.
_LABELS, _VOTES = 101, 102


@dataclass(frozen=True)
class CloningBatches:
    """Training data for cloning, drawn batch by batch: rows to imitate and rows with votes, by task."""

    data: Sequence[CloningData]
    weights: Sequence[float]
    """How often a row of each task is drawn, in proportion."""
    seed: int

    def __post_init__(self) -> None:
        for data in self.data:
            if not (data.imitate >= 0).any():
                raise ValueError(f"task {data.cases.task}: there is no row to imitate")

    def batch(self, update: int, rows: int, votes: bool, shards: int) -> SampleBatch:
        """The rows of one update: `rows` to imitate and, with `votes`, as many that people judged.

        Each of the `shards` equal parts of the batch has the same number of both. Drawn with replacement, as a function
        of (seed, update) alone: a resumed run draws what the first one would have drawn.
        """
        parts = [self._drawn(_LABELS, update, rows)]
        if votes and any((data.vote != 0).any() for data in self.data):
            parts.append(self._drawn(_VOTES, update, rows))
        joined = {key: _joined([part[key] for part in parts]) for key in parts[0]}
        order = np.concatenate([np.arange(shard, len(joined[Columns.ACTIONS]), shards) for shard in range(shards)])
        if len(parts) == 1:
            joined = {key: joined[key] for key in (Columns.OBS, Columns.ACTIONS)}
        return SampleBatch({key: _taken(value, order) for key, value in joined.items()})

    def _drawn(self, stream: int, update: int, rows: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, stream, update])
        usable = [_usable(data, stream) for data in self.data]
        shares = np.array([w if len(u) else 0.0 for w, u in zip(self.weights, usable, strict=True)])
        tasks = rng.choice(len(usable), size=rows, p=shares / shares.sum())
        parts = []
        for number, data in enumerate(self.data):
            count = int((tasks == number).sum())
            if count:
                parts.append(_rows(data, rng.choice(usable[number], size=count), stream))
        mixed = rng.permutation(rows)
        return {key: _taken(_joined([part[key] for part in parts]), mixed) for key in parts[0]}


def _usable(data: CloningData, stream: int) -> np.ndarray:
    return np.flatnonzero(data.imitate >= 0 if stream == _LABELS else data.vote != 0)


def _rows(data: CloningData, rows: np.ndarray, stream: int) -> dict[str, Any]:
    imitated = stream == _LABELS
    return {
        Columns.OBS: data.cases.observations(rows),
        Columns.ACTIONS: data.imitate[rows] if imitated else data.voted[rows],
        Columns.LOSS_MASK: np.full(len(rows), imitated),
        FEEDBACK: np.zeros(len(rows), np.float32) if imitated else data.vote[rows],
    }


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: np.concatenate([value[key] for value in values]) for key in values[0]}
    return np.concatenate(values)


def _taken(value: Any, order: np.ndarray) -> Any:
    return {key: part[order] for key, part in value.items()} if isinstance(value, dict) else value[order]


class HumanLossLearner(MARWILTorchLearner):
    """RLlib's learner of BC (MARWIL with β = 0), whose loss gets λH added where the batch has votes."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any = None, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Any:
        """L′ = L + λH, with L = −mean over imitated rows of log π(a) and H = human_loss()."""
        loss: Any = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        if FEEDBACK not in batch:
            return loss
        decisions = self.module[module_id].unwrapped().get_train_action_dist_cls()
        logprobs = decisions.from_logits(fwd_out[Columns.ACTION_DIST_INPUTS]).logp(batch[Columns.ACTIONS])
        human = human_loss(logprobs, batch[FEEDBACK])
        self.metrics.log_value((module_id, "human_loss"), human.detach(), window=1)
        self.metrics.log_value((module_id, "supervised_loss"), loss.detach(), window=1)
        return loss + config.human_loss_coef * human


class CloningConfig(BCConfig):
    """RLlib's BC that learns from a CloningBatches instead of recorded episodes."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or Cloning)
        self.human_loss_coef = 0.0
        self.cloning_batches: ray.ObjectRef | CloningBatches | None = None
        self.updates_per_iteration = 1
        self.dataset_num_iters_per_learner: Any = 1  # RLlib insists on it, though no data set is read

    def cloning(
        self,
        *,
        coef: float | Any = NotProvided,
        batches: ray.ObjectRef | CloningBatches | Any = NotProvided,
        updates: int | Any = NotProvided,
    ) -> Self:
        """coef: λ. batches: itself, or where it is in Ray's object store. updates: of each training iteration."""
        if coef is not NotProvided:
            self.human_loss_coef = coef
        if batches is not NotProvided:
            self.cloning_batches = batches
        if updates is not NotProvided:
            self.updates_per_iteration = updates
        return self

    @property
    def is_online(self) -> bool:
        """True, so that there is an environment runner: it tells the spaces and holds the policy that decides."""
        return True

    def get_default_learner_class(self) -> type[Learner]:
        return HumanLossLearner


class Cloning(BC):
    """Takes its batches from the CloningBatches; all else is RLlib's."""

    @classmethod
    def get_default_config(cls) -> CloningConfig:
        return CloningConfig()

    def setup(self, config: Any) -> None:
        super().setup(config)
        given = config.cloning_batches
        self._batches: CloningBatches = ray.get(given) if isinstance(given, ray.ObjectRef) else given

    def training_step(self) -> None:
        config: Any = self.config
        learners: Any = self.learner_group
        runners: Any = self.env_runner_group
        log: Any = self.metrics
        rows, shards = config.total_train_batch_size, max(config.num_learners, 1)
        first = self.iteration * config.updates_per_iteration
        for update in range(first, first + config.updates_per_iteration):
            batch = self._batches.batch(update, rows, config.human_loss_coef > 0, shards)
            log.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, rows, reduce="lifetime_sum")
            results = learners.update(
                batch=MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=len(batch)),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: log.peek(NUM_ENV_STEPS_SAMPLED_LIFETIME)},
            )
            log.aggregate(results, key=LEARNER_RESULTS)
        runners.sync_weights(from_worker_or_learner_group=learners, inference_only=True)
