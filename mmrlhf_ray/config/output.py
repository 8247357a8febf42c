"""Where a run writes."""

import hashlib
import os
from pathlib import Path

from pydantic import Field, model_validator

from mmrlhf_ray.config.paths import PathText
from mmrlhf_ray.config.section import Section


class OutputConfig(Section):
    """Keys of every job that say where its files are."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Run name; everything is written to `<output_dir>/<name>`."""
    output_dir: PathText = Field("runs", validate_default=True)
    """A directory; or the URL of object storage (`s3://bucket/runs`, any protocol that fsspec knows), to which all that
    the run writes on its machine is uploaded behind it."""
    work_dir: PathText | None = None
    """Where a run whose `output_dir` is a URL writes on its machine: `<work_dir>/<name>`. On several nodes a directory
    that every node sees. `null` = a directory for each URL below `~/.cache/mmrlhf/runs`."""

    @model_validator(mode="after")
    def _work_dir_is_here(self) -> "OutputConfig":
        if self.work_dir is None:
            return self
        if "://" in self.work_dir:
            raise ValueError(f"work_dir={self.work_dir} must be a directory")
        if self.run_url is None:
            raise ValueError(f"work_dir={self.work_dir} has no effect unless output_dir is a URL; leave it out")
        return self

    @property
    def run_url(self) -> str | None:
        """Where the run's directory is uploaded to; None where it stays on this machine."""
        return f"{self.output_dir.rstrip('/')}/{self.name}" if "://" in self.output_dir else None

    @property
    def run_dir(self) -> Path:
        """The run's directory on this machine."""
        if self.run_url is None:
            return Path(self.output_dir) / self.name
        if self.work_dir is not None:
            return Path(self.work_dir) / self.name
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "mmrlhf" / "runs" / hashlib.sha256(self.output_dir.encode()).hexdigest()[:12] / self.name
