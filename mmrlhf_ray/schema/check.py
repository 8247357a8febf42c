"""check(): is this table what the contract says? Run at the entry of every actor."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrlhf_ray.errors import SchemaError

# Lists that hold one entry per response token; all must agree in length, row by row.
_PER_TOKEN = (
    "tokens",
    "response_mask",
    "rollout_logprobs",
    "rewards",
    "old_logprobs",
    "ref_logprobs",
    "values",
    "ratios",
    "advantages",
    "returns",
)


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return `table` unchanged, or raise SchemaError.

    Checked: columns and types, nulls, that per-token lists have the length of `response_token_ids`, and that the spans
    of `versions`, where there are any, cover what was sampled of the response.
    `where` names the entry point in the message.
    """
    name = schema.metadata[b"mmrlhf.table"].decode()
    missing = [f.name for f in schema if f.name not in table.column_names]
    extra = [c for c in table.column_names if c not in schema.names]
    if missing or extra:
        raise SchemaError(f"{where}: {name} expects columns {schema.names}; missing {missing}, unexpected {extra}")
    for field in schema:
        column = table.column(field.name)
        if column.type != field.type:
            raise SchemaError(f"{where}: {name}.{field.name} expects {field.type}, got {column.type}")
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise SchemaError(f"{where}: {name}.{field.name} expects no nulls, row {row} is null")
    if "response_token_ids" in schema.names:
        _check_lengths(table, schema, f"{where}: {name}")
    if "versions" in schema.names:
        _check_versions(table, f"{where}: {name}.versions")
    return table


def _check_lengths(table: pa.Table, schema: pa.Schema, where: str) -> None:
    want = pc.list_value_length(table.column("response_token_ids"))
    for column in _PER_TOKEN:
        if column not in schema.names:
            continue
        got = pc.list_value_length(table.column(column))
        same = pc.equal(want, got)
        row = pc.index(same, False).as_py()
        if row >= 0:
            raise SchemaError(
                f"{where}.{column} expects {want[row].as_py()} entries as in response_token_ids, "
                f"row {row} has {got[row].as_py()}"
            )


def _check_versions(table: pa.Table, where: str) -> None:
    spans = table.column("versions")
    sampled = _sampled(table)
    flat = pc.list_flatten(spans)
    first, last = (pc.struct_field(flat, name).to_numpy() for name in ("start", "end"))
    rows = pc.list_parent_indices(spans).to_numpy()
    covered = np.bincount(rows, weights=last - first, minlength=len(sampled))
    known = pc.list_value_length(spans).to_numpy() > 0
    for row in np.flatnonzero(known & (covered != sampled))[:1]:
        raise SchemaError(
            f"{where} expects spans that cover the {sampled[row]} sampled tokens of the response, row {row} has "
            f"{spans[row].as_py()}"
        )


def _sampled(table: pa.Table) -> np.ndarray:
    """Tokens of each row that the policy sampled."""
    mask = table.column("response_mask")
    flat = pc.list_flatten(mask)
    if pc.all(flat, min_count=0).as_py():
        return pc.list_value_length(mask).to_numpy()
    rows = pc.list_parent_indices(mask).to_numpy()
    return np.bincount(rows, weights=flat.to_numpy(zero_copy_only=False), minlength=len(mask)).astype(np.int64)
