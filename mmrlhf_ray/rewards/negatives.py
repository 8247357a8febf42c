"""Adversarial responses as records of preferences and rankings."""

import json
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from mmrlhf_ray.rewards.adversary import Fooling
from mmrlhf_ray.schema import PREFERENCE, RANKING, check


def negative_records(fooling: Sequence[Fooling], table: Literal["PREFERENCE", "RANKING"]) -> pa.Table:
    """Records in which the better response is preferred to the one that tries to fool. `extras` say as `probe` how.

    A preference has margin 1, as where all votes agree. A prompt with other media has an id of its own, since one id
    stands for one prompt.
    """
    rows = []
    for own in fooling:
        extras = json.loads(own.prompt["extras"]) | {"probe": own.probe}
        prompt_id = f"{own.prompt['prompt_id']}#{own.probe}" if own.of_media else own.prompt["prompt_id"]
        prompt = own.prompt | {"prompt_id": prompt_id, "extras": json.dumps(extras, ensure_ascii=False)}
        if table == "PREFERENCE":
            rows.append(prompt | {"chosen": own.better, "rejected": own.response, "margin": 1.0})
        else:
            rows.append(prompt | {"responses": [own.better, own.response], "ranks": [1, 2], "aspects": "{}"})
    schema = PREFERENCE if table == "PREFERENCE" else RANKING
    return check(pa.Table.from_pylist(rows, schema=schema), schema, "negative_records")
