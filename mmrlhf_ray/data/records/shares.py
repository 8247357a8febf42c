"""Which reader serves which rows, where several serve one data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from mmrlhf_ray.data.records.order import Order


@dataclass(frozen=True)
class Shares:
    """A row is always the same reader's, so that what it keeps of the row serves the next epoch too."""

    order: Order
    readers: int
    owners: tuple[np.ndarray, ...] | None
    """Of each source, the number of each row's reader; None = all rows of a fragment, which are read together, are
    one reader's."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.order.rows

    def of(self, position: int) -> int:
        """Number of the reader that serves `position`."""
        if self.readers == 1:
            return 0
        place = self.order.place(position)
        return place.fragment % self.readers if self.owners is None else int(self.owners[place.source][place.row])

    def split(self, positions: Sequence[int]) -> dict[int, list[int]]:
        """Reader → which of `positions` (indices) are its own; those without any are left out."""
        found: dict[int, list[int]] = {}
        for index, position in enumerate(positions):
            found.setdefault(self.of(position), []).append(index)
        return found


def owner_of(media_ids: Sequence[str], name: str, readers: int) -> int:
    """The reader of a row: rows that begin with the same clip have the same one, which decodes it once."""
    return crc32((media_ids[0] if media_ids else name).encode()) % readers
