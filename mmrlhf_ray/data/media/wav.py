"""Headers of WAV files whose writer never came back to say how long they are."""

from collections.abc import Iterator
from typing import Literal

RIFF_UNKNOWN = 0x7FFF0000
"""Writers into pipes put something from here on for a length: SoX 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF."""

_FIRST_CHUNK = 12


def filled_in(data: bytes) -> bytes:
    """A RIFF or RIFX file with the true lengths in its header, where its samples go on to the end of the file.

    That is so where the data chunk declares no length that could be (`RIFF_UNKNOWN`), or 0 with something behind it
    that is not another chunk. Other files come back as they are. Raises ValueError when the data chunk is cut off and
    the header, which says nothing of the file, has not told so already.
    """
    if data[:4] not in (b"RIFF", b"RIFX"):
        return data
    order = _order(data)
    riff = int.from_bytes(data[4:8], order)
    for name, begin, size in _chunks(data, _FIRST_CHUNK):
        rest = len(data) - begin
        if name != b"data":
            continue
        if size >= RIFF_UNKNOWN or (size == 0 and rest and not _are_chunks(data, begin)):
            size_of_file, size_of_data = (len(data) - 8).to_bytes(4, order), rest.to_bytes(4, order)
            return data[:4] + size_of_file + data[8 : begin - 4] + size_of_data + data[begin:]
        if size > rest and not 0 < riff < RIFF_UNKNOWN:
            raise ValueError(f"audio/wav is cut off: {rest} bytes of {size} in its data chunk")
        return data
    return data


def _order(data: bytes) -> Literal["big", "little"]:
    return "big" if data[:4] == b"RIFX" else "little"


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, declared size) of each chunk from `at` on."""
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], _order(data))
        yield data[at : at + 4], at + 8, size
        at += 8 + size + size % 2


def _are_chunks(data: bytes, at: int) -> bool:
    """Whether the file goes on with chunks that end where it does."""
    end = at
    for name, begin, size in _chunks(data, at):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        end = begin + size
    return end <= len(data) <= end + 1
