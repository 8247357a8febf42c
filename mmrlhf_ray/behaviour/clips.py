"""What people see of a segment: the episode is played again and filmed, so that training renders nothing."""

import io

import av
import numpy as np

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.segments import Replay, Segment
from mmrlhf_ray.errors import RunError

_LEAST_SIDE = 160
"""Smaller pictures are enlarged without blur."""
_CLOSE = 1e-4


def film(env: RecordedEnv, replay: Replay, segment: Segment | None = None) -> np.ndarray:
    """Frames uint8 [shown, height, width, 3] of the last steps of an episode. env: made with render.

    segment: what was seen then. Raises RunError where it is not seen again, since then the clip would show another
    behaviour.
    """
    observation = env.begin(replay.seed)
    frames, start = [], len(replay.actions) - replay.shown
    for number, action in enumerate(replay.actions):
        if number >= start:
            frames.append(env.frame())
            if segment is not None:
                for name, values in segment.observations.items():
                    if not np.allclose(observation[name], values[number - start], atol=_CLOSE, equal_nan=True):
                        raise RunError(
                            f"segment {replay.name}: {name} is another one when it is played again at step {number}; "
                            "clips need an environment whose chance comes from `reset(seed=…)` alone"
                        )
        observation, *_ = env.step(action)
    return np.stack(frames)


def encode(frames: np.ndarray, frames_per_second: int) -> bytes:
    """A WebM file (VP9), which browsers play. frames uint8 [n, height, width, 3]."""
    factor = max(1, -(-_LEAST_SIDE // min(frames.shape[1:3])))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    large = large[:, : large.shape[1] // 2 * 2, : large.shape[2] // 2 * 2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=frames_per_second)
        stream.height, stream.width = large.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "30", "b": "0", "threads": "1", "cpu-used": "8", "deadline": "realtime"}
        for picture in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
