"""What an evaluation writes of its responses: prompts and media come by reference."""

import json
import math
from pathlib import Path

import pyarrow as pa
import ray

from mmrlhf_ray.config import EvaluateConfig
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import encode_response, load_encoder
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.pipelines.evaluate.job import _Written
from mmrlhf_ray.reports.media import find_media
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import concat_rollouts, rollouts_of
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.unit.tiny import messages, picture, rollout_table


def test_prompts_and_media_of_an_evaluation_are_kept(session: SessionInfo, model_dir: Path, tmp_path: Path) -> None:
    answer, parts, names = encode_response(load_encoder(model_dir), "answer : 7"), [], []
    for number in range(2):
        image = picture(number)
        names.append(media_id(image))
        clip = {"media_id": names[-1], "kind": "image", "mime": "image/png", "data": image}
        prompt = {"prompt_id": f"p{number}", "messages": messages(["image"]), "media_ids": names[-1:], "task": "t",
                  "modality": "image", "extras": json.dumps({"answer": "7"})}  # fmt: skip
        table = rollout_table([TokenRow([1], answer, names[-1:])], prompt_id=[f"p{number}"], modality=["image"])
        prompts, media = pa.Table.from_pylist([prompt], schema=PROMPT), pa.Table.from_pylist([clip], schema=MEDIA)
        parts.append(rollouts_of(table, {}, 0.0, (ray.put(prompts),), {names[-1]: ray.put(media)}))
    rollouts = concat_rollouts(parts).select([1, 0])
    cfg = EvaluateConfig.model_validate({"name": "e", "policy": {"path": str(model_dir)}, "data": {"path": "d"}})
    judged = _Written(cfg, tmp_path).judged(
        "policy", rollouts, [1.0, math.nan], {"right": ComponentScores((1.0, None), (None, "down"))}, None
    )
    rows = judged.responses.to_pylist()
    assert [(row["prompt_id"], row["text"], row["media_ids"]) for row in rows] == [
        ("p1", "answer : 7", names[1:]),
        ("p0", "answer : 7", names[:1]),
    ]
    assert [json.loads(row["components"]) for row in rows] == [{"right": 1.0}, {"right": None}]
    assert json.loads(rows[0]["extras"]) == {"answer": "7"}
    assert rows[0]["tokens"] == []
    assert judged.parts == {"right": (1.0, None)}
    for number, name in enumerate(names):
        found = find_media(tmp_path, name)
        assert found is not None
        assert (found[0].read_bytes(), found[1]) == (picture(number), "image/png")
