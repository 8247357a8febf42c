"""What a deployed model's application reported, from the app to records that training reads."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmrlhf_ray.cli.feedback import app
from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.digits import digit_png, digits_of
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.collect.observed import write_implicit
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE
from tests.unit.feedback.test_api import upload
from tests.unit.feedback.world import World


def report(world: World, response_id: str, text: str, prompt: dict[str, Any], *events: tuple[str, Any]) -> None:
    body = {"response_id": response_id, "text": text, "source": "m-1", "prompt": prompt}
    assert world.call("client", "POST", "/api/responses", json=body).status_code == 201
    for number, (kind, value) in enumerate(events):
        event = {"event_id": f"{response_id}-{number}", "response_id": response_id, "kind": kind, "value": value}
        assert world.call("client", "POST", "/api/events", json=event).status_code == 201


@pytest.fixture
def observed(world: World) -> World:
    image = upload(world, digit_png(digits_of("train")[0].source))
    upload(world, digit_png(digits_of("train")[1].source))  # nobody asks about it
    shown = {"prompt": "<image> Which digit?", "prompt_id": "q1", "media_ids": [image]}
    report(world, "r1", "Seven.", shown, ("copy", {}), ("click", {}))
    report(world, "r2", "It is a two.", shown, ("edit", {"text": "It is a seven."}))
    report(world, "r3", "Hello.", {"prompt": "Hi", "prompt_id": "q2"})
    return world


def test_events_become_weighted_labels(observed: World, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    data_dir = f"data_dir={observed.config.data_dir}"
    done = CliRunner().invoke(app, ["implicit", str(out), "--set", data_dir, "--set", "implicit.copied=0.3"])
    assert done.exit_code == 0, done.output
    assert done.output == f"{out}: 2 records\n"
    read = read_records(DataConfig(path=str(out)), DEMONSTRATION, tmp_path)
    said = [(row["prompt_id"], row["response"], round(row["feedback"], 6)) for row in read.records.to_pylist()]
    assert said == [("q1", "Seven.", 0.4), ("q1", "It is a two.", -0.3)]
    assert len(read.media) == 1


def test_edits_become_preferences(observed: World, tmp_path: Path) -> None:
    with observed.database.read() as session:
        assert write_implicit(session, observed.config, "preference", tmp_path / "pairs") == 1
    (row,) = read_records(DataConfig(path=str(tmp_path / "pairs")), PREFERENCE, tmp_path).records.to_pylist()
    assert (row["chosen"], row["rejected"]) == ("It is a seven.", "It is a two.")


def test_nothing_to_write_is_said(world: World, tmp_path: Path) -> None:
    report(world, "r3", "Hello.", {"prompt": "Hi"}, ("edit", {"text": "Hello."}))
    with world.database.read() as session:
        for kind in ("demonstration", "preference"):
            with pytest.raises(DataError, match=f"no {kind} comes of 1 events about 1 responses"):
                write_implicit(session, world.config, kind, tmp_path / "out")
        with pytest.raises(DataError, match="kind 'ranking' is unknown; expected one of demonstration, preference"):
            write_implicit(session, world.config, "ranking", tmp_path / "out")
    assert not (tmp_path / "out").exists()
