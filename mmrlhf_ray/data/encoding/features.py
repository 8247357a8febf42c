"""Processor features as Arrow rows: written once per clip, read by every role without a copy."""

from collections.abc import Iterator, Mapping
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from mmrlhf_ray.schema import FEATURES, check


def features_table(features: Mapping[str, Mapping[str, np.ndarray]]) -> pa.Table:
    """media_id → {key: array} as a FEATURES table."""
    rows = [
        (media_id, key, np.ascontiguousarray(value)) for media_id, f in features.items() for key, value in f.items()
    ]
    return pa.table(
        {
            "media_id": [r[0] for r in rows],
            "key": [r[1] for r in rows],
            "dtype": [r[2].dtype.name for r in rows],
            "shape": [list(r[2].shape) for r in rows],
            "data": [r[2].tobytes() for r in rows],
        },
        schema=FEATURES,
    )


def read_features(*tables: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of features_table(), of several. Arrays are read-only views of the tables' buffers."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for batch in chain.from_iterable(check(table, FEATURES, "read_features").to_batches() for table in tables):
        parts = _views(batch.column("data"))
        columns = [batch.column(name).to_pylist() for name in ("media_id", "key", "dtype", "shape")]
        for part, media_id, key, dtype, shape in zip(parts, *columns, strict=True):
            out.setdefault(media_id, {})[key] = part.view(dtype).reshape(shape)
    return out


def _views(data: pa.LargeBinaryArray) -> Iterator[np.ndarray]:
    """Each value's bytes where they lie; Arrow's own accessors for one value copy it."""
    _, offsets, values = data.buffers()
    ends = np.frombuffer(offsets, np.int64)[data.offset : data.offset + len(data) + 1]
    flat = np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)
    flat.flags.writeable = False  # one table serves every role
    for first, last in pairwise(ends):
        yield flat[first:last]
