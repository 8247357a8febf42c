"""Votes on the disk: none lost, none counted twice, whatever ended the process."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.ledger import LEDGER_DIR, Ledger, Vote, set_ledger_aside
from mmrlhf_ray.behaviour.segments import Recorded
from mmrlhf_ray.errors import RunError
from tests.unit.behaviour.test_env import played
from tests.unit.behaviour_tiny import job


@pytest.fixture(scope="module")
def segments() -> list[Recorded]:
    with closing(RecordedEnv(job())) as env:
        return played(env, 60)


def test_what_was_asked_and_heard_is_there_again(segments: list[Recorded], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    pair = ledger.ask(segments[0], segments[1], 0)
    ledger.ask(segments[2], segments[3], 1)
    assert ledger.ask(segments[0], segments[1], 5) is pair
    vote = Vote("v1", pair.pair_id, "me", "left")
    assert ledger.add([vote, vote]) == 1
    assert ledger.add([vote]) == 0
    back = Ledger(tmp_path)
    assert list(back.pairs) == list(ledger.pairs)
    assert back.votes == {"v1": vote}
    assert back.add([vote]) == 0
    assert [p.step for p in back.open_pairs()] == [1]
    assert len(back.open_pairs(overlap=2)) == 2
    found = back.pairs[pair.pair_id]
    assert np.array_equal(found.first.observations["state"], segments[0].segment.observations["state"])
    assert found.first.actions.dtype == segments[0].segment.actions.dtype
    assert found.replays[1].name == segments[1].name
    assert (tmp_path / LEDGER_DIR / "votes.jsonl").read_text().count("\n") == 1


def test_a_line_that_a_kill_cut_off_is_cut_off(segments: list[Recorded], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    pair = ledger.ask(segments[0], segments[1], 0)
    ledger.add([Vote("v1", pair.pair_id, "me", "left")])
    with (tmp_path / LEDGER_DIR / "votes.jsonl").open("a") as file:
        file.write('{"vote_id": "v2", "pair_')
    back = Ledger(tmp_path)
    assert list(back.votes) == ["v1"]
    assert back.add([Vote("v2", pair.pair_id, "you", "right")]) == 1
    assert list(Ledger(tmp_path).votes) == ["v1", "v2"]


def test_a_vote_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="never asked about the pair nothing"):
        Ledger(tmp_path).add([Vote("v1", "nothing", "me", "left")])


def test_a_pair_that_cannot_be_read_ends_the_run(segments: list[Recorded], tmp_path: Path) -> None:
    pair = Ledger(tmp_path).ask(segments[0], segments[1], 0)
    (tmp_path / LEDGER_DIR / "segments" / f"{pair.pair_id}.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match="cannot be read"):
        Ledger(tmp_path)


def test_votes_are_material_with_left_the_first(segments: list[Recorded], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.material(3, 0.1) is None
    pairs = [ledger.ask(segments[n], segments[n + 1], 0) for n in range(4)]
    choices = ("left", "right", "tie", "both_bad")
    ledger.add(
        Vote(f"v{n}", pair.pair_id, "me", choice) for n, (pair, choice) in enumerate(zip(pairs, choices, strict=True))
    )
    material = ledger.material(3, 0.1)
    assert material is not None
    assert material.preferred.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert material.first.observations["state"].shape == (4, 5, 1)
    assert material.weights.shape == (3, 4)


def test_a_run_that_starts_over_keeps_earlier_votes_aside(segments: list[Recorded], tmp_path: Path) -> None:
    set_ledger_aside(tmp_path)
    for _ in range(2):
        ledger = Ledger(tmp_path)
        ledger.add([Vote("v1", ledger.ask(segments[0], segments[1], 0).pair_id, "me", "left")])
        set_ledger_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["votes.previous-1", "votes.previous-2"]
