"""docs/configuration.md, the template files and the editors' schemas are what the configuration classes say."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import FeedbackConfig, JobKind, dotted_keys, load_config, read_job_kind
from mmrlhf_ray.config.aliases import ALIASES
from mmrlhf_ray.config.described import describe, editor_schema, meanings, without_meaning
from mmrlhf_ray.config.reference import reference
from mmrlhf_ray.config.source import read_source
from mmrlhf_ray.config.template import job_template

ROOT = Path(__file__).parents[2]
CLASSES = {**{kind.value: kind.config for kind in JobKind}, "feedback": FeedbackConfig}
NAMES = [*CLASSES, *ALIASES]


def class_of(name: str) -> Any:
    return JobKind(ALIASES[name].job).config if name in ALIASES else CLASSES[name]


def test_the_page_is_as_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), (
        "run: mmrlhf config --reference > docs/configuration.md"
    )


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_has_a_meaning(name: str) -> None:
    assert without_meaning(CLASSES[name]) == []


def test_links_of_the_page_lead_to_its_headings() -> None:
    page = reference()
    headings = ["".join(c for c in head.lower() if c.isalnum() or c in " -_").replace(" ", "-")
                for head in re.findall(r"^#+ (.*)$", page, re.M)]  # fmt: skip
    assert sorted(set(re.findall(r"\(#([^)]+)\)", page)) - set(headings)) == []
    assert len(set(headings)) == len(headings)


@pytest.mark.parametrize("full", [False, True], ids=["short", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_template_loads(name: str, full: bool, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(job_template(name, full))
    cfg = load_config(file, [], class_of(name))
    for key, value in (ALIASES[name].means if name in ALIASES else {}).items():
        found = cfg
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value
    if full:
        short = tmp_path / "short.yaml"
        short.write_text(job_template(name, False))
        assert load_config(short, [], class_of(name)) == cfg


@pytest.mark.parametrize("name", CLASSES)
def test_a_full_template_has_every_key(name: str) -> None:
    said = job_template(name, True)
    assert set(CLASSES[name].model_fields) <= set(yaml.safe_load(said))
    if name in ("discrete", "behaviour"):  # of sections that `kind` chooses from, it shows one
        return
    leaves = {key.rpartition(".")[2] for key in dotted_keys(CLASSES[name]) if "*" not in key}
    assert sorted(key for key in leaves - {"min", "max", "kind"} if not re.search(rf"^[ #-]*{key}:", said, re.M)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_job_files_pass_the_schema_of_editors(path: Path) -> None:
    kind = read_job_kind(path)
    validator = jsonschema.Draft202012Validator(editor_schema(kind.config, kind.value))
    # As an editor sees it: this file alone, without its base.
    values = yaml.safe_load(path.read_text())
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "'stepz' was unexpected"),
        ({"steps": "three"}, "'three' is not of type 'integer'"),
        ({"job": "sft"}, "'ppo' was expected"),
        ({"placement": {"generator": {"replicas": 0}}}, "is not valid under any of the given schemas"),
        ({"policy": None, "base": "other.yaml"}, ""),
    ],
)
def test_the_schema_of_editors_finds(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(job_template("ppo", False))
    values = read_source(file, []).values | changes
    errors = list(jsonschema.Draft202012Validator(editor_schema(JobKind.PPO.config, "ppo")).iter_errors(values))
    assert (message in errors[0].message) if message else not errors


def test_a_file_without_what_is_required_is_refused_unless_it_has_a_base() -> None:
    validator = jsonschema.Draft202012Validator(editor_schema(JobKind.SFT.config, "sft"))
    assert not validator.is_valid({"job": "sft", "name": "a"})
    assert validator.is_valid({"base": "sft.yaml", "model": {"dtype": "bfloat16"}})


def test_meanings_are_inherited_and_may_be_replaced() -> None:
    ppo, evaluate = meanings(CLASSES["ppo"]), meanings(CLASSES["evaluate"])
    assert ppo["seed"] == evaluate["seed"] != ""
    assert ppo["rewards"] != evaluate["rewards"]
    assert describe(CLASSES["ppo"])["properties"]["rewards"]["description"] == ppo["rewards"]


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["config", "sft"]).stdout == job_template("sft", False)
    assert run(app, ["config", "--reference"]).stdout == reference()
    assert '"const": "ppo"' in run(app, ["config", "grpo", "--schema"]).stdout
    wrong = run(app, ["config", "gpro"])
    assert (wrong.exit_code, "did you mean gspo or grpo?" in wrong.output) == (2, True)
    assert run(app, ["config"]).exit_code == 2
    file = tmp_path / "new" / "my-sft.yaml"
    assert run(app, ["config", "sft", "--output", str(file)]).exit_code == 0
    assert file.read_text() == job_template("sft", False)
    assert run(app, ["config", "sft", "--output", str(file)]).exit_code == 2
