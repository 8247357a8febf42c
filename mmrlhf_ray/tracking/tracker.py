"""What every tracker does, and what it is told about a run."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mimetypes import guess_extension
from pathlib import Path
from typing import Any, Protocol

ID_FILE = "tracking.json"
"""In the run's directory: the id by which trackers know the run, so that a resumed run is the same one there."""
SAMPLES = "samples"
"""The name of the table of rollouts in every tracker."""


@dataclass(frozen=True)
class Clip:
    """A picture, a sound or a video that a prompt shows."""

    kind: str
    """image, audio or video."""
    mime: str
    data: bytes

    @property
    def suffix(self) -> str:
        """Of a file that holds it, such as `.png`."""
        return guess_extension(self.mime) or ""


@dataclass(frozen=True)
class Sample:
    """A response with its prompt, for people to look at."""

    task: str
    prompt: str
    response: str
    score: float
    kl: float
    """Nats of the response to the reference; NaN without one."""
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told when it starts."""

    directory: Path
    job: str
    config: Mapping[str, Any]
    """The run's configuration, without `env`, which may hold secrets."""
    id: str
    """The same in every attempt of a run."""
    resume_step: int | None = None
    """The first step that will be logged again; None = the run starts."""
    earlier: Sequence[tuple[int, Mapping[str, float]]] = ()
    """Steps of earlier attempts with their metrics, for a tracker that cannot continue a run of its own."""

    @property
    def name(self) -> str:
        return self.directory.name


class Tracker(Protocol):
    """Where a run's metrics and samples can be looked at."""

    @property
    def place(self) -> str:
        """Where the run can be looked at, in words."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step, by their grouped names; all are finite."""

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """Some responses of one step."""

    def close(self) -> None:
        """The run ends here; what was given is written on return."""


def run_id(run_dir: Path, resumed: bool) -> str:
    """The run's id: of the attempt before where the run is resumed, else a new one, which is written down."""
    file = run_dir / ID_FILE
    if resumed and file.is_file():
        return str(json.loads(file.read_text(encoding="utf-8"))["id"])
    fresh = secrets.token_hex(6)
    file.write_text(json.dumps({"id": fresh}) + "\n", encoding="utf-8")
    return fresh


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def clip_files(samples: Sequence[Sample], directory: Path) -> list[list[Path]]:
    """Write the clips into `directory`; of each sample the files, in their order."""
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for number, sample in enumerate(samples):
        files = [directory / f"{number:02d}-{place}{clip.suffix}" for place, clip in enumerate(sample.clips)]
        for file, clip in zip(files, sample.clips, strict=True):
            file.write_bytes(clip.data)
        found.append(files)
    return found
