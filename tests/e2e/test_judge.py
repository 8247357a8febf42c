"""A real, served vision-language model as a judge, next to a reward model on the same held-out pairs."""

from pathlib import Path

import pytest

from benchmarks.judge import SIZES, measure

pytestmark = pytest.mark.e2e


def test_a_served_model_judges_pairs_next_to_a_reward_model(tmp_path: Path) -> None:
    size = SIZES["small"]
    found = measure(tmp_path, size)
    assert found["overall"]["pairs"] == size.pairs_heldout
    (judge,) = found["judges"].values()
    answered = judge["agreement"]["pairs"] if judge["agreement"] else 0
    assert answered + judge["unanswered"] == size.pairs_heldout, "a pair without an answer is counted, not invented"
    assert (judge["side_changes"] is None) == (answered == 0)
    assert "Judges on the same pairs" in (tmp_path / "reward-model" / "report.html").read_text()
