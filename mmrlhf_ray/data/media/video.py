"""Clips: the frames that are kept, and when they are on display."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps, ImageSequence

from mmrlhf_ray.config.data import MediaLimits, VideoSampling
from mmrlhf_ray.data.media import image
from mmrlhf_ray.data.media.formats import DEFAULT_LIMITS, PILLOW, Format, check_limit, open_format, opened

ALL_FRAMES = VideoSampling()
STILL_FPS = 2.0
"""Frames per second of a clip of one frame whose file says nothing; Qwen's processors assume the same."""

_FINEST_FPS = 1000.0
_EVEN = 0.1  # share of a step by which time stamps of a constant frame rate are rounded, at most
_ROUNDING = 6e-4  # seconds; WebM counts milliseconds
_SHORTEST, _USUAL = 0.02, 0.1  # seconds; browsers show frames of animations so long that say less


@dataclass(frozen=True)
class Clip:
    """Decoded frames on a grid of time: frame i is on display at `indices[i] / fps` seconds."""

    frames: np.ndarray
    """RGB uint8 [frames, height, width, 3], upright."""
    fps: float
    """Steps of the grid per second: the frame rate asked for, else the clip's own, or finer where that varies."""
    indices: tuple[int, ...]
    """Never falling."""
    total: int
    """Steps of the grid that the whole clip takes."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> np.ndarray:
        """float64 [frames], from the clip's start."""
        return np.asarray(self.indices) / self.fps


@dataclass(frozen=True)
class _Timeline:
    """When frames are on display, in seconds of the file's clock."""

    starts: np.ndarray
    """Rising."""
    end: float

    @property
    def length(self) -> float:
        return self.end - float(self.starts[0])

    def grid(self) -> tuple[float, np.ndarray, int]:
        """(fps, index of each frame, total) of the clip itself."""
        gaps = np.diff(self.starts)
        gaps = gaps[gaps > _ROUNDING]
        if not len(gaps):
            fps = 1 / self.length if self.length > 0 else STILL_FPS
        elif gaps.max() - gaps.min() <= max(_EVEN * gaps.mean(), 0.002):
            fps = len(gaps) / float(gaps.sum())
        else:
            fps = min(_FINEST_FPS, 1 / float(gaps.min()))
        indices = np.rint((self.starts - self.starts[0]) * fps).astype(np.int64)
        return fps, indices, max(round(self.length * fps), int(indices[-1]) + 1)


@dataclass(frozen=True)
class _Plan:
    """Which frames are kept: those on display at `starts`, seconds of the file's clock."""

    starts: np.ndarray
    fps: float
    indices: np.ndarray
    total: int


_Shown = tuple[float, float, Callable[[], np.ndarray]]
"""A frame: from when on it is shown, how long, and its pixels when asked for."""


def decode_video(data: bytes, limits: MediaLimits = DEFAULT_LIMITS, sampling: VideoSampling = ALL_FRAMES) -> Clip:
    """The frames that `sampling` asks for. `limits.frames` and `limits.clip_pixels` count those frames only.

    With `fps` the grid is 1/fps seconds fine, and a frame that stays on display longer is kept again at each step.
    `max_frames` takes the middle of each of so many equal parts of what would be kept without it. Raises ValueError
    when there is no picture track, no frame, damage, or more than `limits`.
    """
    form = open_format("video", data, limits)
    return (_decode_animation if form.reader == PILLOW else _decode_track)(form, data, limits, sampling)


def clip_seconds(data: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> float:
    """Length of a clip, from its packets alone. Raises ValueError as decode_video()."""
    form = open_format("video", data, limits)
    if form.reader == PILLOW:
        clip = decode_video(data, limits)
        return clip.total / clip.fps
    with opened(form, data, limits) as file:
        return _packet_times(file, _picture_track(file)).length


def decode_span(data: bytes, start: float, end: float, limits: MediaLimits = DEFAULT_LIMITS) -> Clip:
    """The frames on display from `start` until before `end`, in seconds from the clip's start; at least one.

    The time of the Clip begins with its first frame. Frames outside count for no limit. Raises ValueError as
    decode_video().
    """
    form = open_format("video", data, limits)
    if form.reader == PILLOW:
        clip = decode_video(data, limits)
        first, last = _between(clip.seconds, start, end)
        indices = tuple(index - clip.indices[first] for index in clip.indices[first:last])
        return Clip(clip.frames[first:last], clip.fps, indices, indices[-1] + 1)
    with opened(form, data, limits) as file:
        timeline = _packet_times(file, _picture_track(file))
        first, last = _between(timeline.starts - timeline.starts[0], start, end)
        fps, grid, _ = timeline.grid()
        kept = grid[first:last] - grid[first]
        plan = _Plan(timeline.starts[first:last], fps, kept, int(kept[-1]) + 1)
    with opened(form, data, limits) as file:
        stream = _picture_track(file)
        size = (stream.codec_context.height, stream.codec_context.width)
        check_frames(*size, len(plan.starts), limits)
        return _some(_track_frames(file, stream, size), plan)


def _between(seconds: np.ndarray, start: float, end: float) -> tuple[int, int]:
    first = max(0, int(np.searchsorted(seconds, start + _ROUNDING, side="right")) - 1)
    return first, max(first + 1, int(np.searchsorted(seconds, end - _ROUNDING, side="left")))


def check_frames(height: int, width: int, frames: int, limits: MediaLimits) -> None:
    """Raises ValueError when so many frames of that size are too much."""
    check_limit("video", "frames", frames, limits.frames)
    check_limit("video frame", "pixels", height * width, limits.pixels)
    check_limit("video", "pixels over all frames", height * width * frames, limits.clip_pixels)


def _decode_track(form: Format, data: bytes, limits: MediaLimits, sampling: VideoSampling) -> Clip:
    plan = None
    if not sampling.all_frames:
        with opened(form, data, limits) as file:
            plan = _plan(_packet_times(file, _picture_track(file)), limits, sampling)
    with opened(form, data, limits) as file:
        stream = _picture_track(file)
        size = (stream.codec_context.height, stream.codec_context.width)
        check_frames(*size, len(plan.starts) if plan else max(1, stream.frames), limits)
        frames = _track_frames(file, stream, size)
        return _all(frames, size, limits) if plan is None else _some(frames, plan)


def _decode_animation(form: Format, data: bytes, limits: MediaLimits, sampling: VideoSampling) -> Clip:
    with image.opened(data, form.mime.removeprefix("image/").upper(), form.mime, limits) as picture:
        size = (picture.height, picture.width)
        check_frames(*size, 1, limits)
        if sampling.all_frames:
            return _all(_animation_frames(picture, size), size, limits)
        shown = [(start, duration) for start, duration, _ in _animation_frames(picture, size)]
        plan = _plan(_timeline(shown), limits, sampling)
        check_frames(*size, len(plan.starts), limits)
        return _some(_animation_frames(picture, size), plan)


def _picture_track(file: InputContainer) -> VideoStream:
    if not file.streams.video:
        raise ValueError("has no picture track")
    stream: VideoStream = file.streams.video[0]
    if stream.codec_context is None:
        raise ValueError("video is in an unknown encoding")
    return stream


def _packet_times(file: InputContainer, stream: VideoStream) -> _Timeline:
    """Of a track, without decoding it."""
    shown: list[tuple[float, float]] = []
    step = _step(stream)
    for packet in file.demux(stream):
        if packet.size and not packet.is_discard:
            stamp = packet.dts if packet.pts is None else packet.pts
            start = len(shown) * step if stamp is None else float(stamp * packet.time_base)
            shown.append((start, float((packet.duration or 0) * packet.time_base) or step))
    return _timeline(shown)


def _step(stream: VideoStream) -> float:
    """Seconds from frame to frame, for files that say it only once."""
    return 1 / float(stream.average_rate or STILL_FPS)


def _timeline(shown: Sequence[tuple[float, float]]) -> _Timeline:
    """From (start, duration) of frames in any order."""
    if not shown:
        raise ValueError("video has zero frames")
    return _Timeline(np.sort([start for start, _ in shown]), sum(max(shown)))


def _plan(timeline: _Timeline, limits: MediaLimits, sampling: VideoSampling) -> _Plan:
    check_limit("video", "seconds", timeline.length, limits.seconds)
    starts = timeline.starts
    fps, indices, total = timeline.grid()
    if sampling.fps is not None:
        fps, total = sampling.fps, max(1, int(np.ceil((timeline.length - _ROUNDING) * sampling.fps)))
        indices = np.arange(total)
        on_display = np.searchsorted(starts, starts[0] + indices / fps + _ROUNDING, side="right") - 1
        starts = starts[on_display]
    if sampling.max_frames is not None and len(starts) > sampling.max_frames:
        middles = ((np.arange(sampling.max_frames) + 0.5) * len(starts) / sampling.max_frames).astype(np.int64)
        starts, indices = starts[middles], indices[middles]
    return _Plan(starts, fps, indices, total)


def _track_frames(file: InputContainer, stream: VideoStream, size: tuple[int, int]) -> Iterator[_Shown]:
    step = _step(stream)
    for number, frame in enumerate(file.decode(stream)):
        if (frame.height, frame.width) != size:
            raise ValueError(f"frame {number} is {frame.width}×{frame.height}, the first {size[1]}×{size[0]}")
        start = number * step if frame.time is None else frame.time
        duration = float((frame.duration or 0) * frame.time_base) if frame.time_base else 0.0
        yield start, duration or step, partial(_upright, frame)


def _upright(frame: VideoFrame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    return pixels if matrix is None else turned(pixels, np.frombuffer(bytes(matrix), "=i4"))


def turned(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A stored frame [height, width, 3] as a display matrix (9 numbers) wants it shown, to the nearest quarter turn.

    ISO 14496-12, 6.2.2: the pixel at (x, y), right and down, is shown at (a·x + c·y, b·x + d·y), where `matrix` begins
    with a, b, u, c, d. It may mirror as well, as those of front cameras do.
    """
    a, b, _, c, d = (int(number) for number in matrix[:5])
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if d < 0 else pixels


def _animation_frames(picture: Image.Image, size: tuple[int, int]) -> Iterator[_Shown]:
    start = 0.0
    for number, frame in enumerate(ImageSequence.Iterator(picture)):
        if (frame.height, frame.width) != size:
            raise ValueError(f"frame {number} is {frame.width}×{frame.height}, the first {size[1]}×{size[0]}")
        frame.load()  # a WebP says how long it is shown once it is decoded
        seconds = float(frame.info.get("duration", 0)) / 1000
        duration = seconds if seconds >= _SHORTEST else _USUAL
        yield start, duration, partial(_pixels, frame)
        start += duration


def _pixels(frame: Image.Image) -> np.ndarray:
    return np.asarray(image.to_rgb(ImageOps.exif_transpose(frame)))


def _all(frames: Iterator[_Shown], size: tuple[int, int], limits: MediaLimits) -> Clip:
    kept: list[np.ndarray] = []
    shown = []
    for start, duration, pixels in frames:
        check_frames(*size, len(kept) + 1, limits)
        shown.append((start, duration))
        check_limit("video", "seconds", start - shown[0][0], limits.seconds)
        kept.append(pixels())
    fps, indices, total = _timeline(shown).grid()
    return Clip(np.stack(kept), fps, tuple(indices.tolist()), total)


def _some(frames: Iterator[_Shown], plan: _Plan) -> Clip:
    """Only what is kept is turned into pixels; nothing after it is decoded."""
    kept: list[np.ndarray] = []
    pixels = None
    for start, _, pixels in frames:
        due = int(np.searchsorted(plan.starts, start + _ROUNDING, side="right")) - len(kept)
        if due > 0:
            kept += [pixels()] * due
        if len(kept) == len(plan.starts):
            break
    if pixels is None:
        raise ValueError("video has zero frames")
    if len(kept) < len(plan.starts):  # packets that are no frames of their own; the last frame stays on display
        kept += [pixels()] * (len(plan.starts) - len(kept))
    return Clip(np.stack(kept), plan.fps, tuple(plan.indices.tolist()), plan.total)
