"""Log-probabilities of all responses under the reference policy: computed once before training, and kept."""

import hashlib
import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.util.annotations import RayDeprecationWarning

from mmrlhf_ray.config.base import DeadlineConfig, ModelConfig, TrainJobConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.errors import DeadlineExceeded
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.runtime.actors import threads_env
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.waits import in_background, role_error
from mmrlhf_ray.schema import TRAINING_ROW
from mmrlhf_ray.workers.crew import device_of
from mmrlhf_ray.workers.roles.reference_rows import REF_LOGPROBS, ReferenceRows

CACHE_FILE = "ref_logprobs.parquet"
_ROWS = 128
_FINGERPRINT = b"mmrlhf.fingerprint"


def with_ref_logprobs(rows: pa.Table, reference: ModelConfig, cfg: TrainJobConfig, run_dir: Path) -> pa.Table:
    """TRAINING_ROW with `ref_logprobs` of every response token under `reference`, at temperature 1.

    Computed by `cfg.workers.replicas` actors with the workers' resources, and written to the run's directory with a
    fingerprint of rows and model; taken from there where both are what they were. Raises DeadlineExceeded, or RunError
    with an actor's own error.
    """
    file, wanted = run_dir / CACHE_FILE, fingerprint(rows, reference)
    answers = _cached(file, wanted)
    if answers is None:
        answers = _computed(rows, reference, cfg)
        unfinished = file.with_name(file.name + ".partial")
        pq.write_table(answers.replace_schema_metadata({_FINGERPRINT: wanted.encode()}), unfinished)
        os.replace(unfinished, file)
    field = TRAINING_ROW.field("ref_logprobs")
    return rows.set_column(rows.schema.get_field_index(field.name), field, answers.column(field.name))


def fingerprint(rows: pa.Table, reference: ModelConfig) -> str:
    """Of all that the log-probabilities depend on: tokens, features, the model's files, its number format."""
    digest = hashlib.sha256(reference.compute_dtype.encode())
    tokens = rows.select(["row", "context_token_ids", "responses_token_ids", "media_ids"])
    for batch in tokens.combine_chunks().to_batches():  # however the rows came in chunks
        digest.update(batch.serialize())
    for stream in rows.column("features"):
        digest.update(stream.as_buffer())
    root = Path(reference.path)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(root)).encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _cached(cache: Path, wanted: str) -> pa.Table | None:
    if not cache.is_file():
        return None
    table = pq.read_table(cache)
    return table if (table.schema.metadata or {}).get(_FINGERPRINT) == wanted.encode() else None


def _computed(rows: pa.Table, reference: ModelConfig, cfg: TrainJobConfig) -> pa.Table:
    """Column `ref_logprobs`, in the order of the rows."""
    workers = cfg.workers
    numbers = pa.array(range(len(rows)), pa.int64())
    numbered = rows.set_column(rows.schema.get_field_index("row"), TRAINING_ROW.field("row"), numbers)
    size = min(_ROWS, math.ceil(len(rows) / workers.replicas))
    blocks = ray.data.from_arrow([numbered.slice(first, size) for first in range(0, len(rows), size)])
    with warnings.catch_warnings():
        # Ray has no named parameter for max_restarts, and without it starts an actor that dies again and again.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        answers = blocks.map_batches(
            ReferenceRows,
            fn_constructor_kwargs={
                "model": reference,
                "budget": PassBudget.of(cfg.learner.engine, [adapter_for(Path(reference.path))]),
                "device": device_of(workers, cfg.device),
                "allowed": cfg.sampling.allow_tokens,
            },
            batch_size=size,
            batch_format="pyarrow",
            concurrency=workers.replicas,
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
            runtime_env=threads_env(workers),
            max_restarts=0,
        )
    return _collected(answers, len(rows), cfg.deadlines)


def _collected(answers: ray.data.Dataset, rows: int, deadlines: DeadlineConfig) -> pa.Table:
    """Column `ref_logprobs` of all blocks, with progress."""
    parts, done = [], 0
    with Progress("reference", rows, "row") as progress:
        blocks = _blocks(answers)
        patience = deadlines.start_s + deadlines.stage_s  # the first block waits for the model as well
        while (part := _next(blocks, patience)) is not None:
            patience = deadlines.stage_s
            parts.append(part.cast(REF_LOGPROBS))
            done += len(part)
            progress.update(done, len(part))
    return pa.concat_tables(parts).sort_by("row").select(["ref_logprobs"])


def _blocks(answers: ray.data.Dataset) -> Iterator[pa.Table]:
    """The actors' answers. Ray Data starts them when the first block is asked for."""
    yield from answers.iter_batches(batch_size=None, batch_format="pyarrow")


def _next(blocks: Iterator[pa.Table], seconds: float) -> pa.Table | None:
    """The next block, None after the last. Raises DeadlineExceeded, an actor's own KnownError, or RoleFailed."""
    waiting = in_background(lambda: next(blocks, None))
    if not wait([waiting], seconds).done:
        raise DeadlineExceeded(
            f"reference log-probabilities: nothing arrived within {seconds:g} s; raise the deadline in `deadlines` if "
            "this is expected"
        )
    if error := waiting.exception():
        raise role_error(error, "reference log-probabilities", "an actor") from error
    return waiting.result()
