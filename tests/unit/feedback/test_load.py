"""Votes in three projects outlive kills of the server; tests/e2e/test_feedback_server.py does it with many more."""

from pathlib import Path

from tests.e2e.feedback_load import Load, check, run_load


def test_no_vote_is_lost_or_counted_twice(tmp_path: Path) -> None:
    load = Load(annotators=5, items=17, kills=2, processes=1)
    check(run_load(load, f"sqlite:///{tmp_path}/votes.sqlite3", tmp_path))
