"""Media by id from a Parquet file of several row groups."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.data.records import media_table
from mmrlhf_ray.data.records.media_table import ParquetMedia
from mmrlhf_ray.schema import MEDIA

BYTES = [bytes([number]) * 100 for number in range(4)]


@pytest.mark.parametrize(("kept", "reads"), [(1 << 20, [0, 1]), (0, [0, 1, 0])])
def test_row_groups_are_kept_up_to_a_size(kept: int, reads: list[int], tmp_path: Path, monkeypatch) -> None:
    rows = [{"media_id": media_id(data), "kind": "image", "mime": "image/png", "data": data} for data in BYTES]
    pq.write_table(pa.Table.from_pylist(rows, schema=MEDIA), tmp_path / "media.parquet", row_group_size=2)
    monkeypatch.setattr(media_table, "_CACHE_BYTES", kept)
    media, done, read = ParquetMedia(str(tmp_path / "media.parquet")), [], pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        done.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    order = [0, 1, 2, 3, 1]
    assert [media.get(media_id(BYTES[n]))["data"] for n in order] == [BYTES[n] for n in order]
    assert done == reads
