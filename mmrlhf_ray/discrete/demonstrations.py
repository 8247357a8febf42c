"""Training data for cloning: labels, demonstrations, and votes of real or simulated people."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import Clone, DecideTask
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.feedback import CloningData, cloning_data
from mmrlhf_ray.discrete.tasks import Media, columns_of, make_cases, scores_of, wanted


def cloning_data_of(cfg: DiscreteConfig, cases: Cases, demonstrations: Records | None) -> CloningData:
    """Training data of a `clone` run: the training cases of a task, followed by its demonstrations.

    Without demonstrations votes are simulated as `human_loss` says; with them votes are what is in the records.
    Raises DataError as cases_of() does, and for a response that is none of the classes.
    """
    assert isinstance(cfg.algorithm, Clone)
    task = cfg.tasks[cases.task]
    if not isinstance(task, DecideTask) or demonstrations is None:
        return cloning_data(cases, cfg.algorithm.labelled_share, cfg.human_loss, cfg.seed)
    shown = _demonstrated(cfg, cases.task, task, demonstrations)
    labelled = cloning_data(cases, cfg.algorithm.labelled_share, None, cfg.seed)
    return CloningData(
        labelled.cases.followed_by(shown.cases),
        np.concatenate([labelled.imitate, shown.imitate]),
        np.concatenate([labelled.voted, shown.voted]),
        np.concatenate([labelled.vote, shown.vote]),
    )


def _demonstrated(cfg: DiscreteConfig, name: str, task: DecideTask, read: Records) -> CloningData:
    """Responses with feedback 0 to imitate, the others as votes. Scores of these cases are 1 for the response."""
    assert task.demonstrations is not None
    where = f"tasks.{name}.demonstrations"
    records = wanted(read, task.record_tasks, f"tasks.{name}.record_tasks")

    def score(row: Mapping[str, Any]) -> np.ndarray:
        said = row["response"].strip()
        if said not in task.classes:
            raise RowError(f"its response {said[:80]!r} is none of the classes", "fix the row or add the class")
        return np.array([float(said == known) for known in task.classes], np.float32)

    columns = columns_of(cfg, records, Media(records.media, task.demonstrations))
    cases = make_cases(cfg, name, records, columns, scores_of(records, score, where))
    vote = records.records.column("feedback").to_numpy().astype(np.float32)
    said = cases.labels
    return CloningData(cases, np.where(vote == 0, said, -1), np.where(vote == 0, -1, said), vote)
