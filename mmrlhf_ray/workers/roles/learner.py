"""One rank of a learner group: DeepSpeed trains the policy in one group and the critic in another."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from mmrlhf_ray.algorithms.statistics import merge_stats
from mmrlhf_ray.config.base import LearnerConfig, ModelConfig
from mmrlhf_ray.data.batches.batching import Shard
from mmrlhf_ray.data.batches.collate import rollout_rows
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.models import (
    ADAPTER_DIR,
    add_lora,
    checkpoint_tensors,
    export_lora,
    export_model,
    freeze_parts,
    parameter_groups,
)
from mmrlhf_ray.schema import EXPERIENCE, ROLLOUT, check
from mmrlhf_ray.training.engine import TrainEngine, init_process_group, partitioned_loading
from mmrlhf_ray.training.objectives import Objective
from mmrlhf_ray.training.passes import Passes, train_step
from mmrlhf_ray.weights.buckets import checksums, combine, pack
from mmrlhf_ray.workers.roles.servers import Answer, per_token


@dataclass(frozen=True)
class LearnerSpec:
    """What one rank needs to know."""

    model: ModelConfig
    learner: LearnerConfig
    optimizer_steps: int
    rank: int
    world_size: int
    device: str
    seed: int = 0
    """Of a new adapter's weights."""


@dataclass(frozen=True)
class Sent:
    """What the group pushed, as its first rank saw it; the other ranks report nothing sent."""

    checksum: str
    names: frozenset[str]
    nbytes: int


class Learner:
    """Consumes ROLLOUT and EXPERIENCE tables with their FEATURES. Every method but rendezvous() is a collective:
    it must be called on all ranks of the group.
    """

    def __init__(self, spec: LearnerSpec, objective: Objective):
        self._spec = spec
        self._objective = objective
        self._device = torch.device(spec.device)
        self._encoder = load_encoder(spec.model.path)

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a free port, where the other ranks find the first."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, address: str, port: int) -> None:
        """Join the group and load the model."""
        spec, dtype = self._spec, getattr(torch, self._spec.model.dtype)
        init_process_group(spec.rank, spec.world_size, address, port, self._device)
        with partitioned_loading(spec.learner.engine, spec.learner.optimizer, dtype):
            model = self._objective.load(self._encoder, Path(spec.model.path), dtype)
        learner, adapter, scalar = spec.learner, self._encoder.adapter, self._objective.scalar
        if learner.lora:
            add_lora(model, adapter, learner.lora, train_head=scalar, seed=spec.seed)
        freeze_parts(model, adapter, learner.parts, scalar=scalar)
        groups = parameter_groups(model, adapter, learner.parts, learner.optimizer.lr, scalar=scalar)
        self._engine = TrainEngine(
            model, learner.engine, learner.optimizer, spec.optimizer_steps, dtype, self._device, groups
        )
        self._engine.train(False)
        self._passes = Passes(self._engine, self._encoder, self._device)

    def infer(self, rollouts: pa.Table, features: pa.Table, shard: Shard) -> Answer:
        """`old_logprobs` (policy) or `values` (critic) of the shard's rows under the current weights."""
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "Learner.infer").take(list(shard.rows))
        answers = per_token(self._passes, table, features, shard, self._objective.reader(self._encoder))
        return answers, time.monotonic() - start

    def reference_logprobs(self, rollouts: pa.Table, features: pa.Table, shard: Shard) -> Answer:
        """`ref_logprobs` of the shard's rows: the policy without its adapter is what it was at the start.

        Raises ValueError where `learner.lora` is not set.
        """
        with self._engine.adapter_off():
            return self.infer(rollouts, features, shard)

    def update(
        self, experience: pa.Table, features: pa.Table, shard: Shard, denominators: Sequence[float], kl_coef: float
    ) -> tuple[dict[str, float], float]:
        """The shard's optimizer steps. `denominators`: of each step's loss, over all ranks.

        Returns sums over tokens and ranks (`_max`: maxima) with `grad_norm` and learning rates, and the seconds it
        took.
        """
        start = time.monotonic()
        table = check(experience, EXPERIENCE, "Learner.update").take(list(shard.rows))
        rows, arrays = rollout_rows(table, with_facts=False), read_features(features)
        self._engine.train()
        stats, norms = [], []
        for step, denominator in zip(shard.steps, denominators, strict=True):
            loss = self._objective.loss(self._encoder, table, denominator, kl_coef)
            stats.append(train_step(self._engine, self._passes, rows, arrays, step, loss))
            norms.append(self._engine.grad_norm)
        self._engine.train(False)
        merged = {k: float(v) for k, v in self._engine.merge_over_ranks(merge_stats(stats)).items()}
        return merged | {"grad_norm": float(np.mean(norms)), **self._engine.learning_rates}, time.monotonic() - start

    def push_weights(self, generators: Sequence[Any], bucket_bytes: int, deadline_s: float) -> Sent:
        """Send all weights, with `learner.lora` only the adapter's, to all generators, bucket by bucket, at most two
        in flight."""
        sums: dict[str, str] = {}
        nbytes = 0
        in_flight: list[list[ray.ObjectRef]] = []
        for bucket in self._engine.buckets(bucket_bytes, trained_only=self._spec.learner.lora is not None):
            if not bucket:  # only the first rank holds what was gathered
                continue
            adapter = self._encoder.adapter
            layout, payload = pack([item for n, t in bucket for item in checkpoint_tensors(adapter, n, t)])
            sums |= checksums(layout, payload)
            nbytes += payload.nbytes
            reference = ray.put(payload)
            in_flight.append([g.receive_bucket.remote(layout, reference) for g in generators])
            if len(in_flight) == 2:
                ray.get(in_flight.pop(0), timeout=deadline_s)
        for references in in_flight:
            ray.get(references, timeout=deadline_s)
        return Sent(combine(sums), frozenset(sums), nbytes)

    def perturb(self, prefix: str, scale: float, seed: int) -> int:
        """Add noise to the parameters whose name starts with `prefix`; how many there were. For checks of the push."""
        return self._engine.perturb(prefix, scale, seed)

    def export(self, directory: str) -> None:
        """Write the model as a Hugging Face directory, and an adapter beside it, too, as `adapter`; the first rank
        writes."""
        spec, adapter, tensors = self._spec, self._encoder.adapter, self._engine.weights()
        trained = self._engine.weights(trained_only=True) if spec.learner.lora else {}
        if self._engine.rank:
            return
        source, target = Path(spec.model.path), Path(directory)
        export_model(adapter, source, target, tensors, scalar=self._objective.scalar)
        if spec.learner.lora:
            export_lora(adapter, source, target.with_name(ADAPTER_DIR), spec.learner.lora, trained)

    def save(self, directory: str) -> None:
        """Checkpoint of this group."""
        self._engine.save(Path(directory))

    def load(self, directory: str) -> None:
        """The inverse of save(), with as many ranks."""
        self._engine.load(Path(directory))
