"""Features survive Arrow, and reading copies nothing."""

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.data.encoding.features import features_table, read_features
from mmrlhf_ray.errors import SchemaError
from mmrlhf_ray.schema import FEATURES

FEATURES_MADE = {
    "a": {"pixels": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "grid": np.array([[1, 2, 3]], np.int64)},
    "b": {"mask": np.ones((1, 0), np.int32), "half": np.array([1.5], np.float16), "double": np.array([0.1])},
}


def test_round_trip_keeps_shape_type_and_values() -> None:
    table = features_table(FEATURES_MADE)
    assert table.schema.equals(FEATURES)
    back = read_features(table)
    assert {m: list(f) for m, f in back.items()} == {m: list(f) for m, f in FEATURES_MADE.items()}
    for media_id, features in FEATURES_MADE.items():
        for key, value in features.items():
            got = back[media_id][key]
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            assert np.array_equal(got, value)


def test_reading_is_without_a_copy_and_read_only() -> None:
    table = features_table(FEATURES_MADE)
    array = read_features(table)["a"]["pixels"]
    buffers = [b for b in table.column("data").chunk(0).buffers() if b is not None]
    values = buffers[-1]
    address = array.__array_interface__["data"][0]
    assert values.address <= address < values.address + values.size
    assert not array.flags.writeable


def test_arrays_that_are_not_contiguous() -> None:
    value = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert np.array_equal(read_features(features_table({"a": {"x": value}}))["a"]["x"], value)


def test_slices_and_several_chunks() -> None:
    table = features_table(FEATURES_MADE)
    both = pa.concat_tables([table.slice(3, 2), table.slice(1, 1)])
    assert {m: set(f) for m, f in read_features(both).items()} == {"b": {"half", "double"}, "a": {"grid"}}
    assert read_features(both)["b"]["double"].tolist() == [0.1]


def test_several_tables_are_read_as_one() -> None:
    apart = [features_table({media_id: own}) for media_id, own in FEATURES_MADE.items()]
    together = read_features(features_table(FEATURES_MADE))
    for media_id, own in read_features(*apart).items():
        assert {key: value.tolist() for key, value in own.items()} == {
            key: value.tolist() for key, value in together[media_id].items()
        }
    assert read_features() == {}


def test_another_table_is_refused() -> None:
    with pytest.raises(SchemaError, match="read_features"):
        read_features(pa.table({"media_id": ["a"]}))
