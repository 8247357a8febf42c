"""The loop that each Ray Train worker runs: SFT and reward model alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from mmrlhf_ray.algorithms.stats import Stats, merge_stats
from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.data.batching import (
    MicroBatch,
    PassBudget,
    align_passes,
    check_lengths,
    fill_passes,
    media_kinds,
    present_kinds,
)
from mmrlhf_ray.data.collate import TokenRow
from mmrlhf_ray.data.encode import load_encoder
from mmrlhf_ray.data.training_rows import features_from_bytes
from mmrlhf_ray.models import export_model
from mmrlhf_ray.schema import TRAINING_ROW, check
from mmrlhf_ray.training.checkpoint import Manifest, newest_complete, publish, stage, staging_path
from mmrlhf_ray.training.engine import TrainEngine, adopt_process_group, partitioned_loading
from mmrlhf_ray.training.passes import Passes, train_step
from mmrlhf_ray.training.tasks import SupervisedTask

_EXPORT_BUCKET_BYTES = 1 << 30


@dataclass(frozen=True)
class WorkerPlan:
    """What every worker is told."""

    cfg: TrainJobConfig
    task: SupervisedTask
    model_path: str
    run_dir: Path
    """On storage that all workers share."""
    total_steps: int
    resume: bool
    device: str


class SupervisedWorker:
    """One data-parallel rank."""

    def __init__(self, plan: WorkerPlan, rank: int, world_size: int):
        self._plan, self._rank, self._world_size = plan, rank, world_size
        cfg, device = plan.cfg, torch.device(plan.device)
        adopt_process_group(device)
        self._encoder = load_encoder(plan.model_path)
        dtype = getattr(torch, cfg.model.dtype)
        with partitioned_loading(cfg.engine, cfg.optimizer, dtype):
            model = plan.task.load(self._encoder, Path(plan.model_path), dtype)
        self._engine = TrainEngine(model, cfg.engine, cfg.optimizer, plan.total_steps, dtype, device)
        self._passes = Passes(self._engine, self._encoder, device)
        self._budget = PassBudget(cfg.engine.micro_batch_tokens, cfg.engine.max_padding_share)

    def restore(self) -> int:
        """Load the newest complete checkpoint; returns the steps that are done. Raises ValueError for other ranks."""
        found = newest_complete(self._plan.run_dir) if self._plan.resume else None
        if found is None:
            return 0
        path, manifest = found
        if manifest.ranks != {"workers": self._world_size}:
            raise ValueError(
                f"{path}: written by {manifest.ranks}, now workers.replicas={self._world_size}; resume with the same"
            )
        self._engine.load(path / "workers")
        return manifest.step

    def save(self, done: int) -> None:
        """Publish a checkpoint. A collective."""
        cfg = self._plan.cfg
        staged = staging_path(self._plan.run_dir, done)
        if self._rank == 0:
            stage(self._plan.run_dir, done)
        dist.barrier()
        self._engine.save(staged / "workers")
        dist.barrier()
        if self._rank == 0:
            ranks = {"workers": self._world_size}
            cursor = done * cfg.batch_size
            manifest = Manifest(step=done, prompt_cursor=cursor, policy_version=done, seed=cfg.seed, ranks=ranks, kl={})
            publish(staged, manifest, cfg.checkpoint.keep)

    def step(self, table: pa.Table) -> dict[str, float]:
        """One optimizer step on this rank's rows. Metrics are over all ranks. A collective."""
        task, rows = self._plan.task, _sequences(check(table, TRAINING_ROW, "SupervisedWorker"))
        self._engine.train()
        loss = task.loss(self._encoder, table, self._total(task.weight(table)))
        features = features_from_bytes(table.column("features").to_pylist())
        stats = train_step(
            self._engine, self._passes, rows, features, self._plan_passes(table, rows), loss, at_last=task.scalar
        )
        self._engine.train(False)
        return self._report(stats) | {"grad_norm": self._engine.grad_norm, "lr": self._engine.lr}

    def evaluate(self, tables: Iterator[pa.Table]) -> dict[str, float]:
        """Metrics over all ranks' rows, without learning. A collective; every rank needs as many tables."""
        task, parts = self._plan.task, []
        for table in tables:
            rows = _sequences(table)
            features = features_from_bytes(table.column("features").to_pylist())
            loss = task.loss(self._encoder, table, 1.0)
            passes = self._plan_passes(table, rows)
            parts += [self._loss_only(rows, features, p, loss) for p in passes]
        return {f"eval_{k}": v for k, v in self._report(merge_stats(parts)).items()}

    @torch.no_grad()
    def _loss_only(self, rows: list[TokenRow], features: dict[str, Any], micro_batch: MicroBatch, loss: Any) -> Stats:
        (batch,) = self._passes.batches(rows, features, [micro_batch])
        positions = batch.last_positions if self._plan.task.scalar else batch.response_positions
        output = self._engine.forward(torch.cat([positions, batch.anchor_positions]), **batch.inputs)
        return loss(output[: len(positions)], batch, micro_batch.rows)[1]

    def export(self) -> None:
        """Write `<run>/model`. A collective."""
        tensors = dict(item for bucket in self._engine.buckets(_EXPORT_BUCKET_BYTES) for item in bucket)
        if self._rank == 0:
            source, target = Path(self._plan.model_path), self._plan.run_dir / "model"
            export_model(self._encoder.adapter, source, target, tensors, scalar=self._plan.task.scalar)

    def _plan_passes(self, table: pa.Table, rows: list[TokenRow]) -> list[MicroBatch]:
        """Rows stay whole: the sequences of a row share its pass."""
        per_row = self._plan.task.responses_per_row
        lengths = [per_row * max(map(len, rows[i * per_row : (i + 1) * per_row])) for i in range(len(table))]
        check_lengths(lengths, self._budget)
        kinds = [media_kinds(m) for m in table.column("modality").to_pylist()]
        own = fill_passes(range(len(table)), lengths, self._budget)
        present: list[Any] = [None] * self._world_size
        dist.all_gather_object(present, [present_kinds(p, kinds) for p in own])
        expanded = [[row * per_row + k for row in p for k in range(per_row)] for p in own]
        return align_passes(expanded, present, self._rank)

    def _total(self, weight: int) -> float:
        total = torch.tensor(float(weight), dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def _report(self, stats: Stats) -> dict[str, float]:
        merged = self._engine.merge_over_ranks(stats)
        return self._plan.task.metrics({k: float(v) for k, v in merged.items()})


def _sequences(table: pa.Table) -> list[TokenRow]:
    columns = [table.column(n).to_pylist() for n in ("context_token_ids", "responses_token_ids", "media_ids")]
    return [TokenRow(context, r, media) for context, rs, media in zip(*columns, strict=True) for r in rs]
