"""Data sets of the Hugging Face `datasets` library: saved directories, and names that it finds and caches."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.data.rowfiles.base import FRAGMENT_ROWS, Fragment, Row, slices, version_of
from mmrlhf_ray.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


class HubRows:
    """`hf:NAME`, `hf:NAME:CONFIGURATION`, or a directory that `save_to_disk` wrote.

    Media stay as they are stored, {"bytes", "path"}: the library decodes nothing.
    """

    def __init__(self, path: str, split: str | None) -> None:
        self._path, self._split = path, split

    def fragments(self) -> list[Fragment]:
        return slices(self._path, len(self._dataset()), FRAGMENT_ROWS)

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        table = self._dataset()[fragment.first : fragment.first + fragment.rows]
        yield from enumerate(table.to_pylist(), start=fragment.first)

    def _dataset(self) -> "Dataset":
        return _dataset(self._path, self._split, version_of(self._path))


@lru_cache(maxsize=4)
def _dataset(path: str, split: str | None, version: tuple[int, ...] | None) -> "Dataset":
    """With the Arrow format, which hands columns out undecoded."""
    from datasets import DatasetDict, load_dataset, load_from_disk  # seconds to import, and few need it
    from datasets.exceptions import DatasetsError

    try:
        if path.startswith(HUB):
            name, _, configuration = path.removeprefix(HUB).partition(":")
            found = load_dataset(name, configuration or None)
        else:
            found = load_from_disk(path)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{path} cannot be loaded as a data set: {error}") from error
    if not isinstance(found, DatasetDict):
        return found.with_format("arrow")
    if split is None and len(found) == 1:
        (split,) = found
    if split not in found:
        raise DataError(f"{path} has the splits {sorted(found)}, got split={split}; name one of them")
    return found[split].with_format("arrow")
