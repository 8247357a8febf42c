"""What a loop remembers: killed at any boundary it neither skips nor repeats a stage; and when it stops."""

import hashlib
import json
import re

import pytest

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.iterate.state import (
    _MAY_CHANGE,
    BEFORE,
    ROUND,
    STATE_FILE,
    IterateState,
    advance,
    begin,
    improved,
    load,
    save,
    verdict,
)
from tests.unit.pipelines.loop import loop_config

ALL = [(0, *BEFORE), *((n, stage) for n in (1, 2) for stage in ROUND)]
BETTER = {"estimate": 0.2, "low": 0.1, "high": 0.3}
EVEN = {"estimate": 0.1, "low": 0.0, "high": 0.2}


class Killed(Exception):
    """Stands for the end of the process."""


class Run:
    """Runs stages that only note that they ran; dies before, in, or after one of them."""

    def __init__(self, cfg, directory, gains):
        self.cfg, self.directory, self.gains = cfg, directory, gains
        self.ran = []

    def go(self, die_at=None, when="in", resume=True):
        def stage(number, name):
            if (number, name) == die_at and when == "in":
                raise Killed
            self.ran.append((number, name))
            gain = self.gains[number] if name == "evaluate" and number else None
            return {"gain": gain} if name == "evaluate" else {"said": f"{number}-{name}"}

        def done(state):
            name = state.rounds[-1] and list(state.rounds[-1])[-1]
            here = (len(state.rounds) - 1, name) == die_at
            if here and when == "before it is written down":
                raise Killed
            save(state, self.directory / STATE_FILE)
            if here and when == "after it is written down":
                raise Killed

        return advance(begin(self.directory, self.cfg, resume), self.cfg, stage, done)


@pytest.mark.parametrize("when", ["in", "before it is written down", "after it is written down"])
@pytest.mark.parametrize("die_at", ALL)
def test_a_loop_that_dies_goes_on_where_it_was(tmp_path, die_at, when):
    run = Run(loop_config(rounds=2), tmp_path, [None, BETTER, BETTER])
    with pytest.raises(Killed):
        run.go(die_at, when, resume=False)
    state = run.go()
    again = [die_at] if when == "before it is written down" else []  # nobody could know that it was done
    before = ALL.index(die_at)
    assert run.ran == [*ALL[:before], *again, *ALL[before:]]
    assert [list(done) for done in state.rounds] == [list(BEFORE), list(ROUND), list(ROUND)]
    assert state.rounds[2]["queue"]["said"] == "2-queue"
    assert all(done[stage]["seconds"] >= 0 for done in state.rounds for stage in done)
    assert load(tmp_path / STATE_FILE) == state
    assert run.go() == state  # all is done: nothing runs again
    assert run.ran == [*ALL[:before], *again, *ALL[before:]]


def test_votes_are_never_thrown_away(tmp_path):
    cfg = loop_config(rounds=1)
    run = Run(cfg, tmp_path, [None, BETTER])
    run.go(resume=False)
    with pytest.raises(RunError, match="holds a loop already, votes and all; go on with --resume"):
        begin(tmp_path, cfg, resume=False)
    other = cfg.model_copy(update={"ask": cfg.ask.model_copy(update={"pairs": 7})})
    with pytest.raises(RunError, match=r"another configuration:\n  ask\.pairs was \d+, is now 7\nOnly "):
        begin(tmp_path, other, resume=True)


def test_a_loop_of_an_earlier_version_has_a_hash_of_its_settings(tmp_path):
    cfg = loop_config(rounds=1)
    text = json.dumps(cfg.model_dump(mode="json", exclude=_MAY_CHANGE | {"work_dir"}), sort_keys=True)
    save(IterateState(hashlib.sha256(text.encode()).hexdigest()), tmp_path / STATE_FILE)
    assert begin(tmp_path, cfg, resume=True).rounds == ()
    with pytest.raises(RunError, match="another configuration:\n  see its config.yaml"):
        begin(tmp_path, cfg.model_copy(update={"seed": 9}), resume=True)


def test_more_rounds_may_be_asked_for_later(tmp_path):
    run = Run(loop_config(rounds=1), tmp_path, [None, BETTER, BETTER])
    run.go(resume=False)
    run.cfg = loop_config(rounds=2, wait={"deadline_s": 5.0})
    assert len(run.go().rounds) == 3
    assert run.ran == ALL


@pytest.mark.parametrize(
    ("gains", "keys", "rounds", "reason"),
    [
        ([BETTER] * 5, {"rounds": 3}, 3, "all 3 rounds are done"),
        ([BETTER, EVEN, BETTER], {}, 2, r"round 2 brought no .* \+0.100 \[\+0.000, \+0.200\], is not above 0"),
        ([EVEN, BETTER, EVEN, EVEN, BETTER], {"stop": {"patience": 2}, "rounds": 9}, 4, "for the 2th round in a row"),
        ([BETTER], {"stop": {"min_gain": 0.1}}, 1, "is not above 0.1"),
        ([EVEN], {"rounds": 1}, 1, "no improvement"),
    ],
)  # fmt: skip
def test_when_it_stops(tmp_path, gains, keys, rounds, reason):
    cfg = loop_config(**keys)
    state = Run(cfg, tmp_path, [None, *gains]).go(resume=False)
    assert len(state.rounds) == rounds + 1
    found = verdict(state, cfg)
    assert found.stopped
    assert re.search(reason, found.reason), found.reason


def test_a_gain_counts_when_its_interval_is_above_the_bound():
    cfg = loop_config(stop={"min_gain": 0.05})
    assert improved({"evaluate": {"gain": BETTER}}, cfg)
    assert not improved({"evaluate": {"gain": EVEN}}, cfg)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": "x"}', '{"settings": "x", "rounds": [1]}'])
def test_a_state_that_cannot_be_read_is_no_state(tmp_path, text):
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(RunError, match="cannot be read as the state of a loop"):
        load(tmp_path / STATE_FILE)


def test_the_file_is_replaced_whole(tmp_path):
    state = IterateState("x").after(0, "evaluate", {"gain": None})
    save(state, tmp_path / STATE_FILE)
    save(state.after(1, "sample", {"prompts": 3}), tmp_path / STATE_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    assert json.loads((tmp_path / STATE_FILE).read_text())["rounds"][1] == {"sample": {"prompts": 3}}
