"""Jobs of behaviour: keys that do not go together, and messages that name the key as the file has it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config import BehaviourConfig, load_config, read_job_kind, save_config
from tests.unit.behaviour_tiny import job


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"environment": {"id": "x", "episode_steps": 3}}, "segments.steps=5 is above environment.episode_steps=3"),
        ({"ask": {"pairs": 5, "first": 6}}, "ask.first=6 must not be above ask.pairs=5"),
        ({"learn_from": "environment", "cost": {"bound": 0.1}}, "leave it out"),
        ({"learn_from": "environment", "demonstrations": {"path": "x.json"}}, "leave them out"),
        ({"annotators": {"kind": "script"}}, "judge"),
        ({"annotators": {"kind": "people", "url": "ftp://x"}}, "url"),
        ({"annotators": {"kind": "simulated", "wrong": 0.5}}, "wrong"),
        ({"algorithm": {"kind": "a2c"}}, "kind"),
        ({"reward_model": {"hidden": []}}, "hidden"),
        ({"segments": {"pool": 1}}, "pool"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job(**keys)


def test_a_file_that_was_written_reads_the_same(tmp_path: Path) -> None:
    cfg = job(annotators={"kind": "script", "judge": "/mine.py:judge"}, cost={"of": "moved", "bound": 0.1})
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", (), BehaviourConfig) == cfg
    assert read_job_kind(tmp_path / "config.yaml").config is BehaviourConfig


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"segments": {"steps": 25}}, "clips of at least 3 s to press in, but segments.steps=25 .* last 2.5 s"),
        ({"segments": {"steps": 100}, "demonstrations": {"path": "shown.json"}}, "leave one out"),
    ],
)
def test_keys_want_clips_that_are_long_enough_and_nothing_beside_them(keys: dict[str, Any], problem: str) -> None:
    people = {"kind": "people", "url": "http://127.0.0.1:1", "by": "keys"}
    with pytest.raises(ValidationError, match=problem):
        job(annotators=people, **keys)
    assert job(annotators=people, segments={"steps": 30})
