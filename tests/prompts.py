"""An encoder without a pool around it."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from mmrlhf_ray.rollout.batch import TakeStats
from mmrlhf_ray.schema import FEATURES, MEDIA


def check_prompts(encoder: Any) -> int:
    """Have it check all prompts and serve those that are right; how many there are."""
    return int(encoder.begin(encoder.find_bad(0, 1, None), 1, True).rows)


def served(answer: Iterable[Any]) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table, TakeStats]:
    """What an encoder served: ENCODED_PROMPT, MEDIA and FEATURES of all clips, PROMPT, and the cost."""
    table, records, stats, *clips = answer
    media = pa.concat_tables([MEDIA.empty_table(), *clips[::2]])
    return table, media, pa.concat_tables([FEATURES.empty_table(), *clips[1::2]]), records, stats
