"""Rows of data sets on any kind of storage, a fragment at a time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmrlhf_ray.config.data import SourceConfig
from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.data.rowfiles.base import Fragment, Row, RowFile, filesystem, reading
from mmrlhf_ray.data.rowfiles.hub import HubRows
from mmrlhf_ray.data.rowfiles.json_rows import JSONFiles, JSONLines
from mmrlhf_ray.data.rowfiles.patterns import files_named
from mmrlhf_ray.data.rowfiles.tables import ArrowRows, ParquetRows
from mmrlhf_ray.data.rowfiles.tar_rows import TarRows
from mmrlhf_ray.data.rowfiles.text_tables import TextTables
from mmrlhf_ray.errors import DataError

__all__ = ["MEDIA_FILE", "RECORDS_FILE", "Fragment", "Row", "RowFile", "open_rows", "record_files", "row_files"]

RECORDS_FILE = "records.parquet"
MEDIA_FILE = "media.parquet"

_POINTER, _POINTER_BYTES = b"version https://git-lfs", 1024

_SAVED = ("dataset_info.json", "dataset_dict.json")


_KINDS: Mapping[str, Callable[[Sequence[str]], RowFile]] = {
    ".jsonl": JSONFiles,
    ".jsonl.gz": JSONLines,
    ".jsonl.zst": JSONLines,
    ".ndjson": JSONFiles,
    ".ndjson.gz": JSONLines,
    ".ndjson.zst": JSONLines,
    ".json": JSONFiles,
    ".csv": TextTables,
    ".csv.gz": TextTables,
    ".csv.zst": TextTables,
    ".tsv": TextTables,
    ".tsv.gz": TextTables,
    ".tsv.zst": TextTables,
    ".parquet": ParquetRows,
    ".arrow": ArrowRows,
    ".feather": ArrowRows,
    ".tar": TarRows,
}


def open_rows(source: SourceConfig) -> RowFile:
    """The data set that `source.path` names. Raises DataError where there is none, or of an unknown kind."""
    files = row_files(source.path)
    if not files:
        return HubRows(source.path, source.split)
    _refuse_pointers(files)
    kinds = {_suffix(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"{source.path} holds {sorted(kinds)}; name the files of one kind by a pattern")
    return _KINDS[kinds.pop()](files)


def row_files(path: str) -> list[str]:
    """record_files(); none of what the `datasets` library keeps."""
    return [] if path.startswith(HUB) or _is_saved(path) else record_files(path)


def record_files(path: str) -> list[str]:
    """The files of rows that a path, pattern or directory stands for. Raises DataError."""
    fs, inside = filesystem(path)
    if fs.isdir(inside):
        return _in_directory(path)
    files = files_named(path)
    for file in files:
        if not filesystem(file)[0].exists(file):
            raise DataError(f"data file {file} does not exist; correct the path of data or eval_data, or create it")
        if not _suffix(file):
            known = ", ".join(list(_KINDS)[1:])
            raise DataError(
                f"data file {file} ends in {Path(file).suffix!r}; give a .jsonl or .parquet file, one of {known}, "
                "or a directory"
            )
    return files


def _refuse_pointers(files: Sequence[str]) -> None:
    """Raise DataError for a local file that stands for another in a repository with Git LFS."""
    for file in files:
        if "://" not in file and Path(file).is_file() and Path(file).stat().st_size < _POINTER_BYTES:
            with reading(file) as raw:
                if raw.read(len(_POINTER)) == _POINTER:
                    raise DataError(f"{file} is a Git LFS pointer in place of the file; fetch it with git lfs pull")


def _in_directory(directory: str) -> list[str]:
    """records.parquet, or else all files of known kinds."""
    fs, inside = filesystem(directory)
    names = sorted(str(p).rstrip("/").rpartition("/")[2] for p in fs.ls(inside, detail=False))
    wanted = [n for n in names if _suffix(n) and n != MEDIA_FILE]
    if RECORDS_FILE in names or not wanted:
        wanted = [RECORDS_FILE]
    if not any(map(_suffix, names)) and names:
        shown, known = ", ".join(names[:3]), ", ".join(_KINDS)
        raise DataError(f"{directory} holds no file of rows, but {shown}; rows are files that end in {known}")
    files = [f"{directory.rstrip('/')}/{name}" for name in wanted]
    if RECORDS_FILE in wanted and RECORDS_FILE not in names:
        raise DataError(f"data file {files[0]} does not exist; correct the path of data or eval_data, or create it")
    return files


def _is_saved(path: str) -> bool:
    fs, inside = filesystem(path)
    return fs.isdir(inside) and any(fs.exists(f"{inside}/{name}") for name in _SAVED)


def _suffix(file: str) -> str:
    return max((suffix for suffix in _KINDS if file.endswith(suffix)), key=len, default="")
