"""Processor features as Arrow rows: written once per clip, read by every role without a copy."""

from collections.abc import Mapping

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


def read_features(table: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of features_table(). Arrays are read-only views of the table's buffers."""
    check(table, FEATURES, "read_features")
    out: dict[str, dict[str, np.ndarray]] = {}
    for batch in table.to_batches():
        data = batch.column("data")
        columns = [batch.column(name).to_pylist() for name in ("media_id", "key", "dtype", "shape")]
        for row, (media_id, key, dtype, shape) in enumerate(zip(*columns, strict=True)):
            flat = np.frombuffer(data[row].as_buffer(), dtype=dtype)
            out.setdefault(media_id, {})[key] = flat.reshape(shape)
    return out


def feature_bytes(table: pa.Table) -> int:
    """Bytes of the features themselves."""
    return sum(len(value.as_buffer()) for value in table.column("data"))
