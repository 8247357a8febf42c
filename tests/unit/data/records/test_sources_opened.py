"""Data sets as they are opened."""

import json

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.records.rows import open_sources


def test_a_data_set_is_looked_over_once_while_its_files_stay(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n")
    config = DataConfig(path=str(tmp_path / "*.jsonl"))
    (first,) = open_sources(config)
    assert open_sources(config)[0] is first
    assert first.form.name == "mmrlhf"
    for file in files:
        file.write_text(json.dumps({"prompt": "p", "completion": "other"}) + "\n")
    assert open_sources(config)[0].form.name == "trl"
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": "p", "completion": "third"}) + "\n")
    assert len(open_sources(config)[0].fragments) == 3
