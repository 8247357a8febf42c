"""SwanLab: online where there is a key, else local, in the run's directory."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import swanlab

from mmrlhf_ray.tracking.tracker import SAMPLES, Sample, TrackedRun, clip_files

DIRECTORY = "swanlog"
PROJECT = "mmrlhf"
_MOST_FRAMES = 128
_USUAL_RATE = 10
"""Frames a second where a clip does not say it."""


class SwanLab:
    """A run of SwanLab. `SWANLAB_MODE`, `SWANLAB_PROJECT` and the like are read by the library."""

    def __init__(self, run: TrackedRun) -> None:
        settings = swanlab.Settings()
        mode = os.environ.get("SWANLAB_MODE") or ("online" if settings.api_key else "local")
        self._directory = os.environ.get("SWANLAB_LOG_DIR") or str(run.directory / DIRECTORY)
        self._online = mode == "online"
        arguments: dict[str, Any] = {"mode": mode} | ({"id": run.id, "resume": "allow"} if self._online else {})
        self._run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJECT", PROJECT),
            name=run.name,
            job_type=run.job,
            log_dir=self._directory,
            config=dict(run.config),
            **arguments,
        )
        # On this machine a run cannot be continued: the new one shows the earlier steps too.
        for step, metrics in () if self._online else run.earlier:
            self.log(step, metrics)

    @property
    def place(self) -> str:
        """Where the run can be looked at."""
        return str(self._run.url) if self._online else f"swanlab watch {self._directory}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            swanlab.log(dict(metrics), step=step)

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """Media with their responses as captions, and each sample as text."""
        with TemporaryDirectory() as directory:
            files = clip_files(samples, Path(directory))
            shown: dict[str, list[Any]] = {f"{SAMPLES}/text": [swanlab.Text(_text(sample)) for sample in samples]}
            for sample, own in zip(samples, files, strict=True):
                for clip, file in zip(sample.clips, own, strict=True):
                    medium = _medium(clip.kind, str(file), f"{sample.score:.3g} · {sample.response}")
                    shown.setdefault(f"{SAMPLES}/{clip.kind}", []).append(medium)
            swanlab.log(shown, step=step)

    def close(self) -> None:
        swanlab.finish()


def _text(sample: Sample) -> str:
    return f"{sample.task}\n\n{sample.prompt}\n\n→ {sample.response}\n\nscore {sample.score:.4g}, kl {sample.kl:.4g}"


def _medium(kind: str, file: str, caption: str) -> Any:
    if kind == "image":
        return swanlab.Image(file, caption=caption)
    if kind == "audio":
        return swanlab.Audio(file, caption=caption)
    return swanlab.Video(_gif(file), caption=caption)


def _gif(file: str) -> str:
    """The clip as the one kind of video that SwanLab shows; of a long one the beginning."""
    import av

    with av.open(file) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_image() for frame in islice(container.decode(stream), _MOST_FRAMES)]
        each_ms = round(1000 / float(stream.average_rate or _USUAL_RATE))
    target = f"{file}.gif"
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=each_ms, loop=0)
    return target
