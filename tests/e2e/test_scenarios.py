"""Recipes of docs/scenarios from data to table, cut short. `make scenarios` runs all of them whole."""

from pathlib import Path

from mmrlhf_ray.scenarios import watching
from mmrlhf_ray.scenarios.recipe import run


def test_a_recipe_makes_its_stand_in_and_ends_with_its_table(tmp_path: Path) -> None:
    found = run("driving", tmp_path, changes=["steps=10"])
    assert found.accuracy.estimate > 0.5  # the most frequent decision is right in 0.44 of the cases
    written = (tmp_path / "table.md").read_text()
    assert f"| accuracy | {found.accuracy.estimate:.3f} [" in written
    assert (tmp_path / "driving" / "report.html").is_file()


def test_a_recipe_reads_the_directory_that_it_is_given(tmp_path: Path) -> None:
    watching.make(tmp_path / "clips", 1, clips=240)
    found = run("watching", tmp_path / "out", tmp_path / "clips", changes=["steps=3", "decisions_per_step=500"])
    assert found.accuracy.estimate > 0.65  # the most frequent decision is right in 0.58
    assert not (tmp_path / "out" / "public").exists()
