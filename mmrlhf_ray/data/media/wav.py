"""Headers of WAV files whose writer never came back to say how long they are."""

from collections.abc import Iterator
from typing import Literal

RIFF_UNKNOWN = 0x7FFF0000
"""Writers into pipes put something from here on for a length: SoX 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF."""

_FIRST_CHUNK = 12
_WIDE = (b"RF64", b"BW64")
_IN_DS64 = 0xFFFFFFFF
_NO_LENGTH = 1 << 62


def filled_in(data: bytes) -> bytes:
    """A RIFF, RIFX or RF64 file with the true lengths in its header, where its samples go on to the end of the file.

    That is so where the data chunk declares no length that could be (`RIFF_UNKNOWN`), or 0 with something behind it
    that is not another chunk. Other files come back as they are. Raises ValueError when the data chunk is cut off and
    the length of the file, which others look at, does not tell.
    """
    if data[:4] not in (b"RIFF", b"RIFX", *_WIDE):
        return data
    wide = None
    for name, begin, size in _chunks(data, _FIRST_CHUNK):
        if name == b"ds64" and data[:4] in _WIDE:
            wide = begin
        if name == b"data":
            return _filled_in(data, begin, size, wide if size == _IN_DS64 else None)
    return data


def _filled_in(data: bytes, begin: int, size: int, wide: int | None) -> bytes:
    """`wide`: where the file has its lengths in 64 bits, that of the data chunk behind its own; EBU Tech 3306."""
    order, rest, unknown = _order(data), len(data) - begin, RIFF_UNKNOWN
    if wide is not None:
        size, unknown = int.from_bytes(data[wide + 8 : wide + 16], "little"), _NO_LENGTH
    if size >= unknown or (size == 0 and rest and not _are_chunks(data, begin)):
        if wide is not None:
            return data[:wide] + (len(data) - 8).to_bytes(8, order) + rest.to_bytes(8, order) + data[wide + 16 :]
        return (
            data[:4] + (len(data) - 8).to_bytes(4, order) + data[8 : begin - 4] + rest.to_bytes(4, order) + data[begin:]
        )
    told = data[:4] == b"RIFF" and 0 < int.from_bytes(data[4:8], order) < RIFF_UNKNOWN
    if size > rest + 8 and not told:  # some writers count a header with it
        raise ValueError(f"audio/wav is cut off: {rest} bytes of {size} in its data chunk")
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
