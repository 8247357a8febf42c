"""Bytes of images, sounds and clips in data_dir/media, each under its sha256."""

import os
import re
import tempfile
from pathlib import Path

from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig, MediaLimits
from mmrlhf_ray.data.media import decode, media_id
from mmrlhf_ray.data.media.formats import FORMATS, open_format
from mmrlhf_ray.feedback.collect.tables import MediaFile
from mmrlhf_ray.feedback.errors import N_, Invalid, Unknown

_SHA256 = re.compile(r"[0-9a-f]{64}")


def media_dir(config: FeedbackConfig) -> Path:
    """Where the bytes are."""
    return Path(config.data_dir) / "media"


def check_media_id(name: str) -> str:
    """`name` if it is the hexadecimal sha256 of something, and thus safe as a file's name. Raises Invalid."""
    if not _SHA256.fullmatch(name):
        raise Invalid("expected the hexadecimal sha256 of the bytes, 64 lower-case digits", "media_id")
    return name


def sniff(data: bytes, limits: MediaLimits, kind: str | None = None) -> tuple[str, str]:
    """(kind, MIME type) of bytes, told by themselves, which decode within the limits.

    Containers such as WebM may hold a sound or a clip: without `kind` they are what they can be decoded as, the clip
    first. Raises Invalid.
    """
    problems = []
    for candidate in (kind,) if kind is not None else ("image", "video", "audio"):
        if candidate not in FORMATS:
            raise Invalid(f"expected one of {', '.join(FORMATS)}, got {candidate[:40]!r}", "kind")
        try:
            form = open_format(candidate, data, limits)
            decode(candidate, data, None, limits)
        except ValueError as error:
            problems.append(str(error))
        else:
            return candidate, form.mime
    raise Invalid("these are no media that can be shown: " + "; ".join(problems), "body")


def store_media(session: Session, config: FeedbackConfig, sha256: str, data: bytes, kind: str | None = None) -> bool:
    """Keep media; False if they are there already. Raises Invalid for bytes of another sha256 or no known format."""
    check_media_id(sha256)
    if media_id(data) != sha256:
        raise Invalid("the sha256 of the body is not the one in the address; send the file as it is", "media_id")
    if session.get(MediaFile, sha256) is not None:
        return False
    told, mime = sniff(data, config.limits, kind)
    write_media(config, sha256, data)
    session.add(MediaFile(media_id=sha256, kind=told, mime=mime, size=len(data)))
    return True


def write_media(config: FeedbackConfig, sha256: str, data: bytes) -> None:
    """Put the bytes into their file, completely or not at all."""
    directory = media_dir(config)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as partial:
        try:
            partial.write(data)
            partial.flush()
            os.fsync(partial.fileno())
            os.replace(partial.name, directory / sha256)
        except OSError:
            os.unlink(partial.name)
            raise


def find_media(session: Session, config: FeedbackConfig, sha256: str) -> tuple[MediaFile, Path]:
    """Row and file of stored media. Raises Unknown."""
    found = session.get(MediaFile, check_media_id(sha256))
    if found is None:
        raise Unknown(N_("there are no such media"), "media_id")
    return found, media_dir(config) / sha256
