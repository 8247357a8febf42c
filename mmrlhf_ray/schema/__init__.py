"""The data contract: Arrow schemas of everything that passes between the parts."""

from mmrlhf_ray.schema.check import check
from mmrlhf_ray.schema.tables import (
    ANNOTATION,
    DEMONSTRATION,
    ENCODED_PROMPT,
    EVAL_SCORE,
    EXPERIENCE,
    FEATURES,
    MEDIA,
    MODALITIES,
    PREFERENCE,
    PROBE,
    PROMPT,
    RANKING,
    RESPONSE,
    ROLLOUT,
    SCHEMA_VERSION,
    TABLES,
    TRAINING_ROW,
)

__all__ = [
    "ANNOTATION",
    "DEMONSTRATION",
    "ENCODED_PROMPT",
    "EVAL_SCORE",
    "EXPERIENCE",
    "FEATURES",
    "MEDIA",
    "MODALITIES",
    "PREFERENCE",
    "PROBE",
    "PROMPT",
    "RANKING",
    "RESPONSE",
    "ROLLOUT",
    "SCHEMA_VERSION",
    "TABLES",
    "TRAINING_ROW",
    "check",
]
