"""Recipes of docs/scenarios from data to table, cut short. `make scenarios` runs all of them whole."""

from pathlib import Path

import pytest

from mmrlhf_ray.scenarios.recipe import run


@pytest.mark.parametrize(
    ("name", "changes", "better_than"),
    [
        ("driving", ["steps=10"], 0.5),  # the most frequent decision is right in 0.44 of the cases
        ("watching", ["steps=3", "max_minutes=1"], 0.7),  # in 0.58
    ],
)
def test_a_recipe_ends_with_its_table(name: str, changes: list[str], better_than: float, tmp_path: Path) -> None:
    found = run(name, tmp_path, changes=changes)
    assert found.accuracy.estimate > better_than
    written = (tmp_path / "table.md").read_text()
    assert f"| accuracy | {found.accuracy.estimate:.3f} [" in written
    assert (tmp_path / name / "report.html").is_file()
