"""Names of common formats that are not read, and of files that are no media at all: for messages."""

from collections.abc import Mapping

_CONVERT_IMAGE = "convert it to PNG or JPEG"
_CONVERT_SOUND = "convert it to WAV or FLAC"
_CONVERT_CLIP = "convert it to MP4"

_BRANDS: Mapping[bytes, str] = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"mif1", b"msf1", b"mif2", b"mif3"), "HEIF"),
}
"""Brands of pictures in the boxes of MP4; ISO 23008-12, annex B, and the AV1 image format."""

_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file; fetch the file with git lfs pull"),
    (0, b"II*\0", f"TIFF; {_CONVERT_IMAGE}"),
    (0, b"MM\0*", f"TIFF; {_CONVERT_IMAGE}"),
    (0, b"\xff\x0a", f"JPEG XL; {_CONVERT_IMAGE}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL; {_CONVERT_IMAGE}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000; {_CONVERT_IMAGE}"),
    (0, b"\xff\x4f\xff\x51", f"JPEG 2000; {_CONVERT_IMAGE}"),
    (0, b"8BPS", f"a Photoshop file; {_CONVERT_IMAGE}"),
    (0, b"%PDF", f"PDF; {_CONVERT_IMAGE}"),
    (8, b"AIFF", f"AIFF; {_CONVERT_SOUND}"),
    (8, b"AIFC", f"AIFF; {_CONVERT_SOUND}"),
    (0, b".snd", f"AU; {_CONVERT_SOUND}"),
    (0, b"caff", f"CAF; {_CONVERT_SOUND}"),
    (0, b"#!AMR", f"AMR; {_CONVERT_SOUND}"),
    (0, b"NIST_1A", f"NIST SPHERE; {_CONVERT_SOUND}"),
    (0, b"MThd", "MIDI, which holds no samples"),
    (0, b"FLV", f"FLV; {_CONVERT_CLIP}"),
    (0, b"0&\xb2u\x8ef\xcf\x11", f"WMV or WMA; {_CONVERT_CLIP} or FLAC"),
    (0, b"\0\0\x01\xba", f"MPEG; {_CONVERT_CLIP}"),
    (0, b"\x1f\x8b", "gzip; unpack it"),
    (0, b"PK\x03\x04", "a ZIP archive; unpack it"),
)
_MARKUP = ((b"<svg", f"SVG; {_CONVERT_IMAGE}"), (b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"))
_HEAD = 256


def foreign_name(data: bytes) -> str | None:
    """The name of what `data` begins with, and what to do about it; None for what is not known here."""
    if data[4:8] == b"ftyp":
        return _picture_in_boxes(data)
    for at, beginning, name in _BEGINNINGS:
        if data.startswith(beginning, at):
            return name
    head = data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(b"<?xml") and b"<svg" in head:
        return _MARKUP[0][1]
    return next((name for beginning, name in _MARKUP if head.startswith(beginning)), None)


def _picture_in_boxes(data: bytes) -> str | None:
    """HEIC, AVIF and their kin, by the brands of the first box; ISO 14496-12, section 4.3."""
    end = min(int.from_bytes(data[:4], "big"), _HEAD)
    major, compatible = data[8:12], [data[at : at + 4] for at in range(16, end, 4)]
    if major not in _BRANDS:
        return None
    # The general brands say only that it is a picture; which codec it has stands behind them.
    named = [_BRANDS[brand] for brand in (major, *compatible) if brand in _BRANDS]
    exact = next((name for name in named if name != "HEIF"), "HEIF")
    return f"{exact}; {_CONVERT_IMAGE}"
