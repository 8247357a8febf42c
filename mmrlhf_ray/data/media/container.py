"""Files that FFmpeg reads."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.data.media.formats import Format, check_limit


@contextmanager
def opened(form: Format, data: bytes, limits: MediaLimits) -> Iterator[InputContainer]:
    """The opened file; what FFmpeg raises inside becomes ValueError, but for MemoryError."""
    try:
        with av.open(io.BytesIO(data), mode="r", format=form.reader) as container:
            check_limit(form.mime, "seconds", (container.duration or 0) / av.time_base, limits.seconds)
            yield container
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise ValueError(f"{form.mime} is cut off or damaged: {error.strerror}") from error
