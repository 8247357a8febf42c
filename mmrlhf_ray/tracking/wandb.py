"""Weights & Biases: online where there is a key, else offline, in the run's directory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import wandb
from requests.utils import get_netrc_auth

from mmrlhf_ray.tracking.tracker import SAMPLES, Sample, TrackedRun, clip_files

PROJECT = "mmrlhf"
_STEP = "step"


class Wandb:
    """A run of Weights & Biases. `WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY` and the like are read by the library."""

    def __init__(self, run: TrackedRun) -> None:
        mode: Any = None if os.environ.get("WANDB_MODE") or _has_key() else "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=run.directory,
            job_type=run.job,
            config=dict(run.config),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True),
        )
        # Steps that are done again after a resumption come with a lower number, which wandb's own step cannot have.
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)

    @property
    def place(self) -> str:
        """Where the run can be looked at."""
        if self._run.offline:
            return f"{Path(self._run.dir).parent}; send it with `wandb sync`"
        return str(self._run.url)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({_STEP: step, **metrics})

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """A table with the media in it, and the same media by themselves, which show by step."""
        with TemporaryDirectory() as directory:
            files = clip_files(samples, Path(directory))
            # A column has one kind of media: the first picture of a prompt, its second one, its first sound, …
            kinds = [clip.kind for sample in samples for clip in sample.clips]
            places = {(kind, n): None for kind in kinds for n in range(_most(samples, kind))}
            names = ["task", "prompt", "response", "score", "kl", *(f"{kind} {n}" for kind, n in places)]
            table, alone = wandb.Table(columns=names), dict[str, list[Any]]()
            for sample, own in zip(samples, files, strict=True):
                caption, shown = f"{sample.score:.3g} · {sample.response}", dict[tuple[str, int], Any](places)
                for clip, file in zip(sample.clips, own, strict=True):
                    number = sum(shown[kind, n] is not None for kind, n in places if kind == clip.kind)
                    shown[clip.kind, number] = _media(clip.kind, file, caption)
                    alone.setdefault(f"{SAMPLES}/{clip.kind}", []).append(_media(clip.kind, file, caption))
                table.add_data(sample.task, sample.prompt, sample.response, sample.score, sample.kl, *shown.values())
            self._run.log({_STEP: step, f"{SAMPLES}/table": table, **alone})

    def close(self) -> None:
        self._run.finish()


def _most(samples: Sequence[Sample], kind: str) -> int:
    """Clips of a kind in one prompt."""
    return max(sum(clip.kind == kind for clip in sample.clips) for sample in samples)


def _media(kind: str, file: Path, caption: str) -> Any:
    if kind == "image":
        return wandb.Image(str(file), caption=caption)
    if kind == "audio":
        return wandb.Audio(str(file), caption=caption)
    return wandb.Video(str(file), caption=caption, format=file.suffix[1:])


def _has_key() -> bool:
    """Whether there is an account: a key in the environment, or one that `wandb login` wrote down."""
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(wandb.setup().settings.base_url))
