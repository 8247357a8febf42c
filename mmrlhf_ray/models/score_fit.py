"""What is taken off a reward model's scores, and their scale for each task: fitted after training, kept with it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmrlhf_ray.algorithms.score_fit import FORM
from mmrlhf_ray.errors import ModelError

SCORE_FIT_FILE = "score_fit.json"
"""Next to a reward model; without it its scores are taken as they are."""
OTHER_TASKS = ""
"""The task whose scale counts where a task has none of its own."""


@dataclass(frozen=True)
class FormFit:
    """How one measure of form moves the scores."""

    coefficient: float
    mean: float
    """Nothing is taken off a response with this value."""
    low: float
    high: float
    """The values that were seen. Beyond them as much is taken off as at their ends, since nothing is known there."""


@dataclass(frozen=True)
class TaskScale:
    """Scores of a task become (score − centre) / scale."""

    centre: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class ScoreFit:
    """Applied to every score of a reward model, by its members as well."""

    form: Mapping[str, FormFit] = field(default_factory=dict)
    """Measure of form → its part."""
    tasks: Mapping[str, TaskScale] = field(default_factory=dict)

    def applied(
        self, scores: NDArray[np.float32], responses: Sequence[Sequence[int]], tasks: Sequence[str]
    ) -> NDArray[np.float32]:
        """Scores [N, members] of responses with these tokens to prompts of these tasks, without the part of their form
        and in their task's scale."""
        return self.without_form(scores, [[FORM[name](ids) for name in self.form] for ids in responses], tasks)

    def without_form(
        self, scores: NDArray[np.float32], form: Sequence[Sequence[float]], tasks: Sequence[str]
    ) -> NDArray[np.float32]:
        """applied(), where the measures `form` [N, measures] are known."""
        taken = np.zeros(len(scores))
        for number, own in enumerate(self.form.values()):
            values = np.array([measures[number] for measures in form], np.float64)
            taken += own.coefficient * (np.clip(values, own.low, own.high) - own.mean)
        scales = [self.tasks.get(task, self.tasks.get(OTHER_TASKS, TaskScale())) for task in tasks]
        shift = taken + np.array([scale.centre for scale in scales])
        fitted: NDArray[np.float32] = (
            (scores - shift[:, None]) / np.array([scale.scale for scale in scales])[:, None]
        ).astype(np.float32)
        return fitted


def read_score_fit(path: str | Path) -> ScoreFit:
    """Of the reward model in a directory; one that changes nothing where there is none. Raises ModelError for a file
    that says nothing of the kind."""
    file = Path(path) / SCORE_FIT_FILE
    if not file.is_file():
        return ScoreFit()
    try:
        said = json.loads(file.read_text())
        form = {name: FormFit(**own) for name, own in said["form"].items()}
        tasks = {name: TaskScale(**own) for name, own in said["tasks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file}: expected the parts `form` and `tasks` that mmrlhf reward-model writes, got "
            f"{type(error).__name__}: {error}; train or export the model again"
        ) from error
    if unknown := sorted(form.keys() - FORM.keys()):
        raise ModelError(f"{file}: form expects names of {sorted(FORM)}, got {unknown}; use a version that knows them")
    if any(own.scale <= 0 for own in tasks.values()):
        raise ModelError(f"{file}: tasks expect scales above 0, got {said['tasks']}; train the model again")
    return ScoreFit(form, tasks)


def write_score_fit(path: Path, fit: ScoreFit) -> None:
    """The inverse of read_score_fit()."""
    (path / SCORE_FIT_FILE).write_text(json.dumps(asdict(fit), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
