"""TensorBoard, in the run's own process: files alone."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mmrlhf_ray.disk import writing
from mmrlhf_ray.tracking.tracker import SAMPLES, Clip, Sample, TrackedRun

DIRECTORY = "tensorboard"


class TensorBoard:
    """Event files in `<run>/tensorboard`. Every method raises RunFailed on a full disk."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = run.directory / DIRECTORY
        with writing(self._path):
            # purge_step makes TensorBoard forget what an earlier attempt wrote for these steps.
            self._events = SummaryWriter(str(self._path), purge_step=run.resume_step or 0)
            if run.resume_step is None:
                self._events.add_text("config", _table(run.config))

    @property
    def place(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {self._path.parent}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars, which are on disk on return."""
        with writing(self._path):
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """A table as text, pictures and sounds; TensorBoard has no place for a clip's file."""
        with writing(self._path):
            for number, sample in enumerate(samples):
                row = {"task": sample.task, "prompt": sample.prompt, "response": sample.response, "score": sample.score}
                self._events.add_text(f"{SAMPLES}/{number}", _table(row), step)
                for place, clip in enumerate(sample.clips):
                    self._add(f"{SAMPLES}/{number}-{place}", clip, step)
            self._events.flush()

    def _add(self, tag: str, clip: Clip, step: int) -> None:
        if clip.kind == "image":
            from PIL import Image

            picture = np.asarray(Image.open(io.BytesIO(clip.data)).convert("RGB"))
            self._events.add_image(tag, picture, step, dataformats="HWC")
        elif clip.kind == "audio":
            import soundfile

            sound, rate = soundfile.read(io.BytesIO(clip.data), always_2d=True)
            self._events.add_audio(tag, sound.mean(axis=1)[None], step, sample_rate=rate)

    def close(self) -> None:
        with writing(self._path):
            self._events.close()


def _table(rows: Mapping[str, object]) -> str:
    """Markdown; a cell's own line ends and bars would break it."""
    cells = ((str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in row) for row in rows.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {' | '.join(row)} |" for row in cells)])
