"""Supervised fine-tuning on demonstrations, and on responses that people liked or disliked."""

import logging
from pathlib import Path

from mmrlhf_ray.config import DataConfig, SFTConfig
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.supervised.fit import run_supervised
from mmrlhf_ray.training.tasks import SFTTask

logger = logging.getLogger(__name__)


def run(cfg: SFTConfig, resume: bool = False) -> Path:
    """Train and export to `<run>/model`; returns the run's directory. Raises as preflight()."""
    prepare = None if cfg.feedback_coef else demonstrations_only
    return run_supervised(cfg, SFTTask(cfg.feedback_coef), "sft", resume, environment=cfg.environment, prepare=prepare)


def demonstrations_only(records: Records, data: DataConfig, run_dir: Path) -> Records:
    """Without the rows that have feedback, which count nothing at feedback_coef=0. Raises DataError if none is left."""
    wanted = [value == 0 for value in records.records.column("feedback").to_pylist()]
    if not any(wanted):
        raise DataError(f"{records.file}: every row has feedback, which counts nothing at feedback_coef=0; raise it")
    if not all(wanted):
        logger.warning("%s: %d rows with feedback left out (feedback_coef=0)", records.file, wanted.count(False))
    return records.kept(wanted)
