"""Ragged columns against lists of rows."""

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.data.batches.ragged import Ragged, gather, row_lengths

ROWS = [[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0], []]


def lists(ragged: Ragged) -> list[list[float]]:
    return [row.tolist() for row in ragged]


def of(rows: list[list[float]]) -> Ragged:
    return Ragged.of_rows([np.array(row, np.float32) for row in rows])


def test_rows_of_several_come_one_after_the_other() -> None:
    parts = [[[1.0, 2.0], []], [[3.0]], [[], [4.0, 5.0]]]
    assert lists(Ragged.concat([of(part) for part in parts])) == [row for part in parts for row in part]


def test_rows_sums_and_means() -> None:
    ragged = of(ROWS)
    assert lists(ragged) == ROWS
    assert len(ragged) == 5
    assert ragged.lengths.tolist() == [2, 0, 1, 3, 0]
    assert ragged.sums().tolist() == [3.0, 0.0, 3.0, 15.0, 0.0]
    assert ragged.means().tolist() == pytest.approx([1.5, np.nan, 3.0, 5.0, np.nan], nan_ok=True)
    assert of([[], []]).sums().tolist() == [0.0, 0.0]
    assert of([]).sums().tolist() == []
    assert lists(ragged.take([3, 0, 1, 3])) == [ROWS[3], ROWS[0], [], ROWS[3]]


def test_what_a_mask_chooses_of_each_row() -> None:
    mask = [[True, False], [], [False], [True, False, True], []]
    chosen = of(ROWS).where(Ragged.of_rows([np.array(row, bool) for row in mask], bool))
    assert lists(chosen) == [[1.0], [], [], [4.0, 6.0], []]
    everything = Ragged.of_rows([np.ones(len(row), bool) for row in ROWS], bool)
    assert lists(of(ROWS).where(everything)) == ROWS


def test_a_column_is_read_in_place() -> None:
    kept = pa.array(ROWS, pa.list_(pa.float32()))
    ragged = Ragged.of_column(pa.chunked_array([kept]))
    assert lists(ragged) == ROWS
    assert ragged.values.ctypes.data == kept.values.buffers()[1].address
    assert ragged.to_arrow().equals(kept)
    assert ragged.to_arrow().values.buffers()[1].address == kept.values.buffers()[1].address


@pytest.mark.parametrize("kind", [pa.float32(), pa.bool_()])
def test_slices_and_chunks_of_columns(kind: pa.DataType) -> None:
    rows = [[bool(x > 2) for x in row] for row in ROWS] if kind == pa.bool_() else ROWS
    column = pa.chunked_array([pa.array(rows, pa.list_(kind))])
    assert lists(Ragged.of_column(column.slice(1, 3))) == rows[1:4]
    assert lists(Ragged.of_column(pa.chunked_array([*column.chunks, *column.slice(2).chunks]))) == rows + rows[2:]
    assert lists(Ragged.of_column(column.slice(0, 0))) == []
    assert row_lengths(pa.table({"x": column}), "x").tolist() == [2, 0, 1, 3, 0]


def test_parts_come_together_in_row_order() -> None:
    got = gather([of([[1.0], [2.0, 3.0]]), of([[]]), of([[4.0]])], [(3, 0), (1,), (2,)])
    assert lists(got) == [[2.0, 3.0], [], [4.0], [1.0]]
    assert got.values.dtype == np.float32
    with pytest.raises(ValueError, match="shape mismatch"):
        gather([of([[1.0], [2.0]])], [(0,)])
