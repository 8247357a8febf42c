"""CloningData: demonstrations are imitated, votes of people are votes, and without them votes are simulated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import DecideTask
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.discrete.demonstrations import cloning_data_of
from mmrlhf_ray.discrete.feedback import CloningData, cloning_data
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA
from tests.unit.discrete_tiny import IMAGE, NOWHERE, TEXT, job, made_up

PICTURE = media_row("image", digit_png(0))
CLONE = {"kind": "clone", "labelled_share": 0.5}


def write(path: Path, said: list[tuple[str, float]]) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": "Which colour ?"}]
    prompt = {"messages": json.dumps([{"role": "user", "content": content}]), "media_ids": [PICTURE["media_id"]],
              "task": "t", "modality": "image", "extras": "{}"}  # fmt: skip
    rows = [prompt | {"prompt_id": f"d{i}", "response": r, "feedback": f} for i, (r, f) in enumerate(said)]
    records = pa.Table.from_pylist(rows, schema=DEMONSTRATION)
    write_records(path, records, pa.Table.from_pylist([PICTURE], schema=MEDIA))
    return {"path": str(path)}


def clone(demonstrations: dict[str, Any] | None = None, **keys: Any) -> DiscreteConfig:
    task = {"kind": "decide", "classes": ["red", "green", "blue"], "demonstrations": demonstrations, **NOWHERE}
    return job(
        tasks={"colour": task}, algorithm=CLONE, observation={"modalities": {"image": IMAGE, "said": TEXT}}, **keys
    )


def read_cloning_data(cfg: DiscreteConfig, quarantine_to: Path) -> CloningData:
    task = cfg.tasks["colour"]
    assert isinstance(task, DecideTask)
    assert task.demonstrations is not None
    return cloning_data_of(cfg, made_up(cfg), read_records(task.demonstrations, DEMONSTRATION, quarantine_to))


def test_without_demonstrations_votes_are_simulated(tmp_path):
    cfg = clone(human_loss={"coef": 1.0, "share": 1.0})
    cases = made_up(cfg)
    found, expected = cloning_data_of(cfg, cases, None), cloning_data(cases, 0.5, cfg.human_loss, 0)
    assert found.cases is cases
    for name in ("imitate", "voted", "vote"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.vote.all()


def test_demonstrations_follow_the_training_cases(tmp_path):
    said = [("blue", 0.0), (" green ", 1.0), ("red", -1.0), ("red", -0.5)]
    cfg = clone(write(tmp_path / "said", said), human_loss={"coef": 1.0})
    found = read_cloning_data(cfg, tmp_path)
    assert len(found.cases) == 10
    assert (found.imitate[:6] >= 0).sum() == 3
    assert found.imitate[6:].tolist() == [2, -1, -1, -1]
    assert not found.vote[:6].any()
    assert found.voted.tolist() == [-1] * 7 + [1, 0, 0]
    assert found.vote[6:].tolist() == [0.0, 1.0, -1.0, -0.5]
    assert found.cases.observations([7])["image"].any()
    assert found.cases.prompt_ids[6:] == ("d0", "d1", "d2", "d3")


def test_a_response_that_is_no_class_is_named(tmp_path):
    cfg = clone(write(tmp_path / "said", [("blue", 0.0), ("mauve", 0.0)]))
    with pytest.raises(DataError, match=r"1 of 2 rows .*\n.*d1\): its response 'mauve' is none of the classes"):
        read_cloning_data(cfg, tmp_path)
