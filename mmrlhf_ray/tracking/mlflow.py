"""MLflow: the server that `MLFLOW_TRACKING_URI` names, else an SQLite file in the run's directory."""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mmrlhf_ray.tracking.tracker import SAMPLES, Sample, TrackedRun, clip_files, flat

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
EXPERIMENT = "mmrlhf"
_ID_TAG = "mmrlhf.run"
_MOST_PARAMS = 100
"""In one call, as MLflow has it."""
_LONGEST_PARAM = 6000


class Mlflow:
    """A run of MLflow. `MLFLOW_EXPERIMENT_NAME` says in which experiment."""

    def __init__(self, run: TrackedRun) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.place = uri or f"sqlite:///{run.directory / DATABASE}"
        self._client = MlflowClient(tracking_uri=self.place)
        artifacts = None if uri else (run.directory / ARTIFACTS).as_uri()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT), artifacts)
        found = self._client.search_runs([experiment], f"tags.`{_ID_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {_ID_TAG: run.id, "mmrlhf.job": run.job}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        for part in _parts([Param(_name(key), _short(value)) for key, value in flat(run.config)]):
            self._client.log_batch(self._id, params=part)
        self._client.log_dict(self._id, dict(run.config), "config.yaml")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another run has just made it
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        values = [Metric(_name(name), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=values)

    def show(self, step: int, samples: Sequence[Sample]) -> None:
        """A table as an artifact, and the media as artifacts that it names; pictures also by step."""
        place = f"{SAMPLES}/step-{step:06d}"
        with TemporaryDirectory() as directory:
            files = clip_files(samples, Path(directory) / place)
            self._client.log_artifacts(self._id, str(Path(directory) / place), place)
            for number, (sample, own) in enumerate(zip(samples, files, strict=True)):
                for clip, file in zip(sample.clips, own, strict=True):
                    if clip.kind == "image":
                        self._client.log_image(self._id, mlflow.Image(str(file)), key=f"{SAMPLES}/{number}", step=step)
        rows = [
            [step, s.task, s.prompt, s.response, s.score, s.kl, " ".join(f"{place}/{file.name}" for file in own)]
            for s, own in zip(samples, files, strict=True)
        ]
        columns = zip(*rows, strict=True)
        names = ("step", "task", "prompt", "response", "score", "kl", "media")
        self._client.log_table(self._id, dict(zip(names, map(list, columns), strict=True)), f"{SAMPLES}.json")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _name(name: str) -> str:
    """With the characters alone that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 1] + "…"


def _parts(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[at : at + _MOST_PARAMS] for at in range(0, len(values), _MOST_PARAMS))
