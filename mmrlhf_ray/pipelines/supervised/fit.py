"""Code that SFT, reward-model and preference training share: records to Ray Data, Ray Train workers, progress."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.train
from ray.train import RunConfig as TrainRunConfig
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from mmrlhf_ray.config.base import TrainJobConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.environment import ToolsEnvironment
from mmrlhf_ray.data.batches.stream import RowCheck
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions, encode_records
from mmrlhf_ray.data.records.quarantine import Rejected, settle
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.environments.check import tool_schemas
from mmrlhf_ray.errors import DataError, DeadlineExceeded, KnownError
from mmrlhf_ray.pipelines.card import finish_with_card
from mmrlhf_ray.pipelines.resume import Start, begin, check_length, run_record
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.pipelines.supervised.rows import HeldRows, Share, TrainingRows, open_streams
from mmrlhf_ray.planning.preflight import check_batch, check_cluster, check_warmup, preflight
from mmrlhf_ray.planning.sizes import context_tokens
from mmrlhf_ray.runtime.actors import threads_env
from mmrlhf_ray.runtime.metrics import FILE_NAME, MetricsWriter, read_metrics
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.ray_train import MeetOverNodeAddress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.runtime.waits import in_background, role_error
from mmrlhf_ray.schema import TABLES
from mmrlhf_ray.tracking.trackers import tracking
from mmrlhf_ray.training.checkpoint import SaveClock, discard, is_best, sweep
from mmrlhf_ray.training.profiling import profiled, step_dir
from mmrlhf_ray.training.supervised import SupervisedWorker, WorkerPlan
from mmrlhf_ray.training.tasks import SupervisedTask
from mmrlhf_ray.workers.crew import compile_here, device_of

logger = logging.getLogger(__name__)

_KEYS = {"train": "data", "eval": "eval_data"}
_ENCODE_ROWS = 256
_POLL_SECONDS = 1.0
_RAY_TRAIN_DIR = "ray_train"
_READY_FILE = ".workers-ready"
"""In the run's directory: the first worker has loaded what it trains. The driver takes it away."""
_SHOWN = ("loss", "pair_accuracy", "preference_accuracy", "eval_pair_accuracy", "eval_preference_accuracy")

Prepare = Callable[[Records, DataConfig, Path], Records]
"""(what was read, where from, run directory) → what is used. Bad records are for set_aside()."""
Complete = Callable[[dict[str, pa.Table], Path], dict[str, pa.Table]]
"""("train", "eval" → TRAINING_ROW; run directory) → the rows with what was left to compute. Ray is up."""


@dataclass(frozen=True)
class Added:
    """Records to train on that are made from those of `data`, which must be held."""

    make: Callable[[Records], pa.Table]
    """Records of the same kind and media."""
    share: float
    """Of the rows of each batch."""


def run_supervised(
    cfg: TrainJobConfig,
    task: SupervisedTask,
    job: str,
    resume: bool,
    *,
    environment: ToolsEnvironment | None = None,
    aspects: tuple[str, ...] = (),
    prepare: Prepare | None = None,
    complete: Complete | None = None,
    row_check: RowCheck | None = None,
    added: Added | None = None,
) -> Path:
    """Train on `cfg.data` and export to `<run>/model`. `environment`: tools that prompts describe. `aspects`: whose
    ratings the rows get. `prepare` and `complete` see all rows, `row_check` those that are streamed one by one; neither
    sees what is `added`.

    Raises as preflight() before Ray starts.
    """
    held = {name: data for name, data in _data(cfg).items() if not data.streaming}
    with preflight(cfg, run_directory(cfg, resume)) as checked:
        run_dir = checked.run_dir
        tools = "[]" if environment is None else json.dumps(tool_schemas(environment))
        options = partial(_options, cfg, aspects=aspects, sampled_only=not task.scalar, tools=tools)
        read = {name: checked.records[_KEYS[name]] for name in held}
        if prepare:
            read = {name: prepare(records, held[name], run_dir) for name, records in read.items()}
        streams = open_streams(cfg, _data(cfg), TABLES[cfg.table], options, row_check)
        if "train" in streams:
            check_batch("data", streams["train"].count, "batch_size", cfg.batch_size)
            check_warmup(cfg, streams["train"].count)
        learned = {"data": streams["train"].count if "train" in streams else read["train"]}
        start = begin(cfg, run_dir, run_record(cfg, learned), resume)
        if start.finished:
            return run_dir
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            compile_here(cfg, session)
            tables = {name: _encode(read[name], data, options(data), run_dir) for name, data in held.items()}
            for own in streams.values():
                own.check_first(run_dir)
            planned = {name: HeldRows.planned(len(table), cfg.seed) for name, table in tables.items()}
            more = [_encode_added(added.make(read["train"]), read["train"], options(cfg.data))] if added else []
            if added:
                planned["train"] = planned["train"].mixed(len(more[0]), added.share)
            train: TrainingRows = streams.get("train") or planned["train"]
            check_batch("data", train.count, "batch_size", cfg.batch_size)  # of what the processor could read
            steps = total_steps(cfg, train)
            check_length(start, steps, f"epochs={cfg.epochs}")
            tables = complete(tables, run_dir) if complete else tables
            # Popped, so that no table stays in memory alongside its copy.
            rows = streams | {
                name: own.holding(tables.pop(name), *(more if name == "train" else ())) for name, own in planned.items()
            }
            if not resume:
                discard(run_dir)
            _fit(_plan(cfg, task, run_dir, steps, start), job, rows)
        finish_with_card(run_dir, start.record)
    return run_dir


def _plan(cfg: TrainJobConfig, task: SupervisedTask, run_dir: Path, steps: int, start: Start) -> WorkerPlan:
    return WorkerPlan(
        cfg=cfg,
        task=task,
        run_dir=run_dir,
        total_steps=steps,
        device=device_of(cfg.workers, cfg.device),
        checkpoint=start.checkpoint,
        first_step=start.step,
        record=start.record.to_dict(),
    )


def _data(cfg: TrainJobConfig) -> dict[str, DataConfig]:
    return {"train": cfg.data} | ({"eval": cfg.eval_data} if cfg.eval_data else {})


def _options(
    cfg: TrainJobConfig, data: DataConfig, aspects: tuple[str, ...], sampled_only: bool, tools: str
) -> EncodeOptions:
    contexts = [context_tokens(Path(use.config.path)) for use in cfg.models.values()]
    return EncodeOptions(
        cfg.model.path,
        data.facts_column,
        data.most_prompt_tokens,
        cfg.learner.engine.micro_batch_tokens * cfg.learner.engine.sequence_parallel,
        aspects,
        sampled_only,
        data,
        cfg.sampling.allow_tokens,
        min((tokens for tokens in contexts if tokens is not None), default=None),
        tools,
    )


def total_steps(cfg: TrainJobConfig, rows: TrainingRows) -> int:
    """Of the run. Says how many rows never fill a batch and are left out."""
    epochs = cfg.epochs or 1
    steps = rows.steps(epochs, cfg.batch_size)
    left_out = epochs * rows.count - steps * cfg.batch_size
    if left_out and (cfg.steps is None or isinstance(rows, HeldRows)):
        logger.warning(
            "data: %d of %d rows (%d in each epoch) are left out, since they do not fill a batch of batch_size=%d",
            left_out, epochs * rows.count, rows.count, cfg.batch_size,
        )  # fmt: skip
    return steps if cfg.steps is None else cfg.steps


def _encode(records: Records, data: DataConfig, options: EncodeOptions, run_dir: Path) -> pa.Table:
    """Records through the processor, once: TRAINING_ROW. Bad rows are dealt with as `on_bad_row` says."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the driver shows its own
    context.execution_options.preserve_order = True  # a resumed run must see the rows in the same order
    table = _encoded(records.records, records.media, options)
    problems = zip(table.column("row").to_pylist(), table.column("problem").to_pylist(), strict=True)
    bad = {row: (problem, "Fix it or leave it out") for row, problem in problems if problem}
    set_aside(records, bad, data, run_dir)
    return table.filter(pc.equal(table.column("problem"), "")) if bad else table


def _encode_added(added: pa.Table, records: Records, options: EncodeOptions) -> pa.Table:
    """Records that were made, numbered after those that were read: TRAINING_ROW. Nobody gave them, so that those that
    are too long are left out with a warning. Raises DataError where none is left."""
    table = _encoded(added, records.media, options, first=len(records.records))
    usable = table.filter(pc.equal(table.column("problem"), ""))
    if len(usable) < len(table):
        why = next(problem for problem in table.column("problem").to_pylist() if problem)
        if not len(usable):
            raise DataError(f"{records.file}: none of {len(table)} adversarial rows can be used, the first one: {why}")
        logger.warning("%d of %d adversarial rows are left out: %s", len(table) - len(usable), len(table), why)
    return usable


def _encoded(records: pa.Table, media: pa.Table, options: EncodeOptions, first: int = 0) -> pa.Table:
    """TRAINING_ROW of all records, numbered from `first`, bad ones with their problem."""
    numbered = records.append_column("row", pa.array(range(first, first + len(records)), pa.int64()))
    if len(numbered) > _ENCODE_ROWS:
        return _encode_spread(numbered, media, options)
    return encode_records(numbered, options, [ray.put(media)])  # workers for them would take longer to start


def _encode_spread(numbered: pa.Table, media: pa.Table, options: EncodeOptions) -> pa.Table:
    """encode_records() of many rows, by Ray Data."""
    encoded = (
        ray.data.from_arrow(numbered)
        .repartition(target_num_rows_per_block=_ENCODE_ROWS)
        .map_batches(
            encode_records,  # type: ignore[arg-type]  # Ray's annotation knows nothing of fn_kwargs
            batch_size=_ENCODE_ROWS,
            batch_format="pyarrow",
            fn_kwargs={"options": options, "media": [ray.put(media)]},
        )
        .materialize()
    )
    return pa.concat_tables(ray.get(encoded.to_arrow_refs()))


def set_aside(records: Records, bad: Mapping[int, tuple[str, str]], data: DataConfig, run_dir: Path) -> None:
    """Deal with bad records, number → (reason, remedy), as `data.on_bad_row` says. Raises DataError as settle()."""
    rejected = []
    for number, (reason, remedy) in bad.items():
        (original,) = records.records.slice(number, 1).to_pylist()
        row = records.bad_row(number, original["prompt_id"], reason, remedy)
        rejected.append(Rejected(row, original))
    settle(rejected, len(records.records) - len(bad), records.file, data.on_bad_row, run_dir)


def _fit(plan: WorkerPlan, job: str, rows: Mapping[str, TrainingRows]) -> None:
    """Run the workers while the driver shows what they write down. Raises a worker's KnownError, else RoleFailed."""
    workers = plan.cfg.workers
    resources = {k: v for k, v in (("CPU", workers.num_cpus), ("GPU", workers.num_gpus)) if v}
    trainer = TorchTrainer(
        # Not as a train_loop_config, which Ray Train's controller reads as well: it would import all that we do.
        partial(_worker_loop, plan, job, rows),
        torch_config=MeetOverNodeAddress(backend="gloo" if plan.device == "cpu" else "nccl"),
        scaling_config=ScalingConfig(
            num_workers=workers.replicas, use_gpu=bool(workers.num_gpus), resources_per_worker=resources
        ),
        run_config=TrainRunConfig(
            name=_RAY_TRAIN_DIR,
            storage_path=str(plan.run_dir),
            worker_runtime_env=threads_env(workers),  # type: ignore[call-arg]  # its types are those of Ray Train 1
        ),
    )
    # Ray Train would take up an earlier run of that name; our own checkpoints say where to go on.
    shutil.rmtree(plan.run_dir / _RAY_TRAIN_DIR, ignore_errors=True)
    (plan.run_dir / _READY_FILE).unlink(missing_ok=True)
    fitting = in_background(trainer.fit)
    _show(plan, job, fitting)
    if error := fitting.exception():
        sweep(plan.run_dir)  # what one worker had begun to write when another failed
        raise _first_failure(error, job) from error


def _first_failure(error: BaseException, job: str) -> KnownError:
    """What the first worker said, or Ray Train itself."""
    failures = getattr(error, "worker_failures", {})
    for rank, cause in sorted(failures.items()):
        return role_error(cause, job, f"worker {rank}")
    return role_error(error, job, "Ray Train")


def _show(plan: WorkerPlan, job: str, fitting: Future[Any]) -> None:
    """Progress and trackers until the workers are done. Raises DeadlineExceeded when they stop writing metrics, and as
    Trackers.log()."""
    deadlines, started = plan.cfg.deadlines, time.time()
    heard, patience, done = started, deadlines.start_s + deadlines.stage_s, plan.first_step
    ready, replicas = plan.run_dir / _READY_FILE, plan.cfg.workers.replicas
    with (
        tracking(plan.cfg, plan.run_dir, job, _resume_step(plan)) as trackers,
        Progress(job, plan.total_steps, "step", start=plan.first_step) as progress,
    ):
        over = False
        while not over:
            wait([fitting], _POLL_SECONDS)
            over = fitting.done()  # what was written before is read once more
            if ready.exists():
                ready.unlink()
                progress.ready(f"{replicas} worker{'' if replicas == 1 else 's'}")
            fresh = [row for row in _metrics(plan) if row["time"] >= started and row["step"] >= done]
            for row in fresh:
                trackers.log(row["step"], row)
            if fresh:
                before, done = done, fresh[-1]["step"] + 1
                shown = {k: v for k, v in fresh[-1].items() if k in _SHOWN}
                progress.update(done, (done - before) * plan.cfg.batch_size, **shown)
                heard, patience = time.time(), deadlines.stage_s
            if not over and time.time() - heard > patience:
                raise DeadlineExceeded(f"{job}: the workers wrote no metrics for {patience:g} s after step {done}")


def _resume_step(plan: WorkerPlan) -> int | None:
    """As of MetricsWriter."""
    return None if plan.checkpoint is None else plan.first_step


def _metrics(plan: WorkerPlan) -> list[dict[str, Any]]:
    return read_metrics(plan.run_dir) if (plan.run_dir / FILE_NAME).exists() else []


def _worker_loop(plan: WorkerPlan, job: str, rows: Mapping[str, TrainingRows]) -> None:
    """One Ray Train worker."""
    context = ray.train.get_context()
    rank, world_size, cfg = context.get_world_rank(), context.get_world_size(), plan.cfg
    share = Share(cfg, plan.run_dir, rank, world_size)
    worker = SupervisedWorker(plan, rank, world_size)
    worker.restore()
    writer = MetricsWriter(plan.run_dir, job, resume_step=_resume_step(plan))
    steps, clock = range(plan.first_step, plan.total_steps), SaveClock(cfg.checkpoint)
    if rank == 0:
        (plan.run_dir / _READY_FILE).touch()
    with writer if rank == 0 else nullcontext() as log:
        for step, table in zip(steps, rows["train"].train_batches(share, steps), strict=False):
            trace = step_dir(plan.run_dir, step) / f"worker-{rank}.json.gz" if cfg.traces(step) else None
            with profiled(trace):
                metrics = worker.step(table)
            done, last = step + 1, step + 1 == plan.total_steps
            now = due(cfg, done, last, worker.agreed(clock.late))
            if now.evaluate:
                metrics |= worker.evaluate(rows["eval"].eval_batches(share), record=last)
            if log is not None and now.log:
                log.log(step, metrics)
            if now.save or (now.evaluate and worker.agreed(is_best(plan.run_dir, cfg.checkpoint.quality(metrics)))):
                worker.save(done, metrics)
                clock.restart()
        worker.export()
    ray.train.report({})


@dataclass(frozen=True)
class Due:
    """The tasks that come after a step."""

    evaluate: bool
    log: bool
    save: bool


def due(cfg: TrainJobConfig, done: int, last: bool, late: bool = False) -> Due:
    """After `done` steps. Everything is due after the last one, and an evaluation is always logged. `late`: as of
    SaveClock, the same on every worker."""

    def every(steps: int | None) -> bool:
        return last or (steps is not None and done % steps == 0)

    evaluate = cfg.eval_data is not None and every(cfg.eval_every_steps)
    return Due(evaluate, evaluate or every(cfg.log_every_steps), late or every(cfg.checkpoint.every_steps))
