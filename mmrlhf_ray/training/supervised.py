"""The loop that each Ray Train worker runs: SFT, reward model and preference training alike."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor

from mmrlhf_ray.algorithms.statistics import Stats, merge_stats
from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.data.batches.batching import (
    MicroBatch,
    PassBudget,
    align_passes,
    check_lengths,
    fill_lines,
    fill_passes,
    in_lines,
    media_kinds,
    present_kinds,
)
from mmrlhf_ray.data.batches.collate import Batch, TokenRow
from mmrlhf_ray.data.encoding.encode import Features
from mmrlhf_ray.data.encoding.training_rows import features_from_bytes
from mmrlhf_ray.disk import writing
from mmrlhf_ray.models import chosen_kernel, is_flash
from mmrlhf_ray.schema import TRAINING_ROW, check
from mmrlhf_ray.training.checkpoint import Manifest, publish, sealed, staged, staging_path
from mmrlhf_ray.training.passes import LossFunction, train_step
from mmrlhf_ray.training.tasks import PassLoss, PassSums, SupervisedTask

EVAL_SCORES_FILE = "eval_scores.parquet"
_POINT_FILE = "reference_point.json"


@dataclass(frozen=True)
class WorkerPlan:
    """The settings of every worker."""

    cfg: TrainJobConfig
    task: SupervisedTask
    run_dir: Path
    """On storage that all workers share."""
    total_steps: int
    device: str
    checkpoint: Path | None = None
    """To continue from; None = training starts."""
    first_step: int = 0
    """Steps that are done."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the run is, for its checkpoints."""


@dataclass(frozen=True)
class _Work:
    """A rank's rows, laid out in passes. Their responses, one row's after the other's, are the sequences."""

    rows: pa.Table
    owners: list[int]
    """Row of each sequence."""
    sequences: list[TokenRow]
    features: dict[str, Features]
    passes: list[MicroBatch]

    def rows_of(self, sequences: Sequence[int]) -> pa.Table:
        """The rows of a pass, each with all its sequences."""
        return self.rows.take(pa.array(dict.fromkeys(self.owners[s] for s in sequences), pa.int64()))


class SupervisedWorker:
    """One data-parallel rank."""

    def __init__(self, plan: WorkerPlan, rank: int, world_size: int):
        from mmrlhf_ray.training.build import build_trained  # DeepSpeed, which no driver needs
        from mmrlhf_ray.training.engine import adopt_process_group

        self._plan, self._rank, self._world_size = plan, rank, world_size
        learner, device = plan.cfg.learner, torch.device(plan.device)
        adopt_process_group(device)
        self._trained = build_trained(
            plan.task,
            plan.cfg.model,
            learner,
            optimizer_steps=plan.total_steps,
            seed=plan.cfg.seed,
            device=device,
            allowed=plan.cfg.sampling.allow_tokens,
        )
        self._encoder, self._engine = self._trained.encoder, self._trained.engine
        self._passes = self._trained.passes
        kernel = chosen_kernel(learner.engine.attention, plan.cfg.model.compute_dtype, device.type)
        budget = PassBudget.of(learner.engine, [self._encoder.adapter], packed=is_flash(kernel))
        self._spread = learner.engine.sequence_parallel
        self._budget = budget.over(self._spread)
        self._point_sums: dict[str, float] = {}
        """Of a running reference point, over all steps of training; the same on all ranks."""

    def restore(self) -> None:
        """Load the checkpoint that the run continues from, if any. A collective."""
        if self._plan.checkpoint is not None:
            self._load(self._plan.checkpoint / "workers")

    def agreed(self, said: bool) -> bool:
        """What the first rank says, since clocks differ. A collective."""
        answer = torch.tensor(float(said), device=self._engine.device)
        dist.broadcast(answer, src=0)
        return bool(answer)

    def save(self, done: int, metrics: Mapping[str, float]) -> None:
        """Publish a checkpoint. A collective. `metrics`: of the step. Raises RunFailed on a full disk."""
        if self._rank:
            dist.barrier()
            dist.gather_object(self._save(staging_path(self._plan.run_dir, done) / "workers"))
            return
        cfg = self._plan.cfg
        with staged(self._plan.run_dir, done) as path:
            dist.barrier()
            of_ranks: list[Any] = [None] * self._world_size
            dist.gather_object(self._save(path / "workers"), of_ranks)
            manifest = Manifest(
                step=done,
                policy_version=done,
                seed=cfg.seed,
                ranks={"workers": self._world_size},
                run=dict(self._plan.record),
                finished=done == self._plan.total_steps,
                quality=cfg.checkpoint.quality(metrics),
                files={f"workers/{name}": digest for files in of_ranks for name, digest in files.items()},
            )
            publish(path, manifest, cfg.checkpoint.keep)

    def _save(self, directory: Path) -> dict[str, str]:
        """What this job's ranks have learned, and their running reference point. A collective. Returns what this rank
        wrote, as TrainEngine.save()."""
        files = self._trained.save(directory)
        if self._rank == 0:
            point = directory / _POINT_FILE
            point.write_text(json.dumps(self._point_sums))
            files[_POINT_FILE] = sealed(point)
        return files

    def _load(self, directory: Path) -> None:
        """The inverse of _save(); checkpoints of earlier versions have no reference point, which then starts anew."""
        self._trained.load(directory)
        file = directory / _POINT_FILE
        self._point_sums = json.loads(file.read_text()) if file.exists() else {}

    def step(self, table: pa.Table) -> dict[str, float]:
        """One optimizer step on this rank's rows. Metrics are over all ranks. A collective."""
        own = self._of_neighbours(check(table, TRAINING_ROW, "SupervisedWorker"))
        work, measured = self._prepared(own, learning=True)
        denominators = self._totals(self._plan.task.weights(work.rows))
        loss = _of_sequences(self._plan.task.loss(self._encoder, denominators, measured), work)
        self._engine.train()
        stats = train_step(
            self._engine,
            self._passes,
            work.sequences,
            work.features,
            work.passes,
            loss,
            read=self._plan.task.reader(self._encoder),
            at_last=self._plan.task.scalar,
            at_responses=self._plan.task.at_responses,
        )
        self._engine.train(False)
        return self._report(stats) | {"grad_norm": self._engine.grad_norm, **self._engine.learning_rates}

    def evaluate(self, tables: Iterator[pa.Table], *, record: bool = False) -> dict[str, float]:
        """Metrics over all ranks' rows, without learning; a reference point is that of one table on all ranks, or that
        of training if it is a running one.
        `record` writes what the task records of them to `<run>/eval_scores.parquet`.
        A collective; every rank needs as many tables."""
        task, parts, recorded = self._plan.task, [], list[pa.Table]()
        for table in tables:
            work, measured = self._prepared(self._of_neighbours(table))
            loss = task.loss(self._encoder, dict.fromkeys(task.weights(work.rows), 1.0), measured)

            def sums(output: Tensor, batch: Batch, rows: pa.Table, loss: PassLoss = loss) -> Stats:
                if record and task.record is not None:
                    recorded.append(task.record(output, rows))
                return loss(output, batch, rows)[1]

            parts.append(self._sums(work, sums))
        if recorded:
            self._write(pa.concat_tables(recorded))
        return {f"eval_{k}": v for k, v in self._report(merge_stats(parts)).items()}

    def _write(self, recorded: pa.Table) -> None:
        """The records of all ranks, in the order of the data. A collective."""
        everyone: list[Any] | None = [None] * self._world_size if self._rank == 0 else None
        dist.gather_object(recorded, everyone)
        if everyone is not None:
            of_shares = everyone[:: self._spread]
            table = pa.concat_tables(of_shares).sort_by([("row", "ascending"), ("response", "ascending")])
            target = self._plan.run_dir / EVAL_SCORES_FILE
            partial = target.with_name(target.name + ".partial")
            with writing(target):
                pq.write_table(table, partial)
                partial.replace(target)

    def _of_neighbours(self, table: pa.Table) -> pa.Table:
        """The rows of all ranks that this one shares its passes with. A collective."""
        spread = self._trained.spread
        if spread is None:
            return table
        tables: list[Any] = [None] * spread.ranks
        dist.all_gather_object(tables, table, group=spread.group)
        return pa.concat_tables(tables)

    def _prepared(self, table: pa.Table, *, learning: bool = False) -> tuple[_Work, dict[str, float]]:
        """The rows to learn from, and the sums of the task's reference point; `learning` adds them to a running one."""
        point = self._plan.task.reference_point
        if point is None:
            return self._lay_out(table), {}
        self._engine.train(False)
        sums = self._sums(self._lay_out(point.measured(table)), point.sums(self._encoder))
        merged = {k: float(v) for k, v in self._engine.merge_over_ranks(sums).items()}
        if point.running and learning:
            self._point_sums = {k: self._point_sums.get(k, 0.0) + v for k, v in merged.items()}
        taken = self._point_sums if point.running and self._point_sums else merged
        return self._lay_out(point.trained(table)), taken

    @torch.no_grad()
    def _sums(self, work: _Work, sums: PassSums) -> Stats:
        """Statistics of this rank's rows, without learning."""
        task, parts = self._plan.task, list[Stats]()
        read = task.reader(self._encoder)
        batches = self._passes.batches(work.sequences, work.features, work.passes)
        for micro_batch, batch in zip(work.passes, batches, strict=True):
            output, _ = self._passes.run(batch, read, at_last=task.scalar, at_responses=task.at_responses)
            parts.append(sums(output, batch, work.rows_of(micro_batch.rows)))
        return merge_stats(parts)

    def export(self) -> None:
        """Write `<run>/model`, and with an adapter `<run>/adapter` as well. A collective."""
        self._trained.export(self._plan.run_dir / "model", self._plan.task.layout)

    def _lay_out(self, table: pa.Table) -> _Work:
        """This rank's rows in passes, as many as any rank has. A collective."""
        columns = [table.column(n).to_pylist() for n in ("context_token_ids", "responses_token_ids", "media_ids")]
        by_row = [[TokenRow(context, r, media) for r in rs] for context, rs, media in zip(*columns, strict=True)]
        kinds = [media_kinds(m) for m in table.column("modality").to_pylist()]
        owners = [row for row, of_row in enumerate(by_row) for _ in of_row]
        own = _passes(by_row, self._budget)
        present: list[Any] = [None] * self._world_size
        dist.all_gather_object(present, [present_kinds([owners[s] for s in p.rows], kinds) for p in own])
        return _Work(
            rows=table.drop_columns(["features"]),
            owners=owners,
            sequences=[sequence for of_row in by_row for sequence in of_row],
            features=features_from_bytes(table.column("features").to_pylist()),
            passes=align_passes(own, present, self._rank),
        )

    def _totals(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks, which all hold the same keys. A collective."""
        keys = sorted(weights)
        totals = torch.tensor([weights[k] for k in keys], dtype=torch.float64, device=self._engine.device)
        dist.all_reduce(totals)
        return dict(zip(keys, (totals / self._spread).tolist(), strict=True))

    def _report(self, stats: Stats) -> dict[str, float]:
        merged = self._engine.merge_over_ranks(stats)
        return self._plan.task.metrics({k: float(v) for k, v in merged.items()})


def _passes(by_row: Sequence[Sequence[TokenRow]], budget: PassBudget) -> list[MicroBatch]:
    """Passes of sequences. Rows are never split: the sequences of a row share a pass. Raises ValueError for a row that
    is larger than a pass."""
    pieces = [range(first, last) for first, last in pairwise([0, *accumulate(map(len, by_row))])]
    if budget.shared or budget.packed:
        prompts = [len(of_row[0].context) * (1 if budget.shared else len(of_row)) for of_row in by_row]
        tokens = [n + sum(len(s.response) for s in of_row) for n, of_row in zip(prompts, by_row, strict=True)]
        check_lengths(tokens, budget)
        return [in_lines(lines, pieces, budget) for lines in fill_lines(range(len(pieces)), tokens, budget)]
    padded = [len(of_row) * max(map(len, of_row)) for of_row in by_row]
    check_lengths(padded, budget)
    passes = fill_passes(range(len(pieces)), padded, budget)
    return [MicroBatch(tuple(s for row in p.rows for s in pieces[row])) for p in passes]


def _of_sequences(loss: PassLoss, work: _Work) -> LossFunction:
    return lambda output, batch, sequences: loss(output, batch, work.rows_of(sequences))
