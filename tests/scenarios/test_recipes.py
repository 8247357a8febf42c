"""Recipes whose jobs follow each other, from data to table, cut short."""

import json
from pathlib import Path

from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.scenarios import captioning_scenes, questions_scenes
from mmrlhf_ray.scenarios.recipe import run

SHORT = ["steps=1", "decisions_per_step=500", "max_minutes=3"]


def test_captions_are_counted_and_written(tmp_path: Path) -> None:
    captioning_scenes.make(tmp_path / "public", 0, pictures=120)
    found = run("captioning", tmp_path / "out", tmp_path / "public", changes=SHORT)
    figures = dict(found.more)
    assert any(name.startswith("IoU of places") for name in figures)
    assert [name for name, _, _, _ in found.classes] == ["there", "absent"]
    captions = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    mentioned = [thing for caption in captions for thing in caption["caption"]]
    made_up = sum(not thing["there"] for thing in mentioned)
    said = figures[f"mentioned things that are not there ({len(mentioned)})"] if mentioned else "none"
    assert said == "none" or said.startswith(f"{made_up / len(mentioned):.3f} [")
    assert all(0 <= side <= 1 for thing in mentioned for side in thing["box"])
    assert (tmp_path / "out" / "caption" / "train" / "records.parquet").is_file()
    (step,) = read_metrics(tmp_path / "out" / "captioning")
    assert {"cost", "multiplier"} <= step.keys()


def test_a_policy_may_look_before_it_answers(tmp_path: Path) -> None:
    questions_scenes.make(tmp_path / "public", 0, pictures=60)
    found = run("questions", tmp_path / "out", tmp_path / "public", changes=SHORT)
    assert [name for name, _ in found.more] == ["looks before an answer, number", "looks before an answer, yes/no"]
    assert {name for name, _, _ in found.groups} == {"number", "yes/no"}
