"""What the documentation shows works: commands would start, YAML loads, code compiles, links lead somewhere."""

import ast
import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter, ValidationError

import mmrlhf_ray
from mmrlhf_ray.config import DataConfig, EnvironmentConfig, FeedbackConfig, JobKind, load_config, read_job_kind
from mmrlhf_ray.config.aliases import ALIASES
from mmrlhf_ray.config.source import merged
from mmrlhf_ray.config.template import job_template
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.schema import DEMONSTRATION
from tests.contracts.commands import check
from tests.contracts.pages import PAGES, ROOT, Block, blocks, commands

YAML = [block for page in PAGES for block in blocks(page, "yaml")]
PYTHON = [block for page in PAGES for block in blocks(page, "python")]
JSON = [block for page in PAGES for block in blocks(page, "json")]
LANGUAGES = {"", "bibtex", "json", "python", "sh", "yaml"}
"""Those that a test here looks into; a block without one is commands, what they print, or a picture."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_would_start(page: Path) -> None:
    for command in dict.fromkeys(commands(page)):
        try:
            check(command)
        except Exception as error:
            error.add_note(f"{page.relative_to(ROOT)}: {command}")
            raise


@pytest.mark.parametrize(
    "command",
    [
        "mmrlhf discreet x",
        "mmrlhf discrete jobs/none.yaml",
        "mmrlhf demo --fsat",
        "mmrlhf sft jobs/demo-sft.yaml lr=1",
        "mmrlhf sft my-sft.yaml lr=1",
        "mmrlhf grpo my-grpo.yaml algorithm.kl_coeff=1",
        "mmrlhf ppo jobs/demo-sft.yaml",
        "mmrlhf data chekc x",
        "RAY_ADDRESS=x mmrlhf pppo FILE",
        "sbatch --nodes 4 cluster/slurm.sh ppo jobs/none.yaml",
        "python -m mmrlhf_ray.nothing",
        "python -m mmrlhf_ray.schema",
        "pytest tests/none.py",
        "make it",
        'pip install "mmrlhf-ray[tpu]"',
        "kubectl apply -k cluster/kuberay/5nodes",
        "unknown program",
    ],
)
def test_commands_that_would_not_start_are_noticed(command: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 -- of whatever kind
        check(command)


def test_every_block_is_of_a_language_that_is_tested() -> None:
    assert [str(block) for page in PAGES for block in blocks(page) if block.language not in LANGUAGES] == []
    assert all(page.read_text().count("```") % 2 == 0 for page in PAGES)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    for other in blocks(block.page, "yaml"):
        if other.file:
            (tmp_path / other.file).write_text(other.text)
    _load(block.text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "job: sft\nname: a\n",
        "learner: {optimiser: {lr: 1}}\n",
        "no_such_key: 1\n",
        "- {name: a, kind: oracle}\n",
        "data_dir: x\nportt: 1\n",
        "environment: {kind: tools, tools: [crop], max_turnz: 1}\n",
    ],
)
def test_yaml_that_does_not_load_is_noticed(text: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValidationError, AssertionError)):
        _load(text, tmp_path)


def _load(text: str, directory: Path) -> None:
    """As a job, as the part of one that its other keys are made up for, as rewards, an environment, or as the feedback
    app's."""
    values: Any = yaml.safe_load(text)
    if isinstance(values, dict) and values.keys() == {"environment"}:
        TypeAdapter(EnvironmentConfig).validate_python(values["environment"])
        return
    if isinstance(values, list):
        values = {"rewards": values}
    file = directory / "tried.yaml"
    if "job" in values:
        file.write_text(text)
        cfg = load_config(file, [], read_job_kind(file).config)
        assert "base" in values or mmrlhf_ray.load_config(values) == cfg, "as a mapping, in Python"
        return
    starts = {name: JobKind(ALIASES[name].job if name in ALIASES else name).config for name in _STARTS}
    fitting = [name for name, kind in starts.items() if values.keys() <= kind.model_fields.keys()]
    problems: list[Exception] = []
    for name in fitting:
        start = yaml.safe_load(_template(name))
        if "sources" in values.get("data", {}):  # in the place of a path
            start["data"] = {}
        file.write_text(yaml.safe_dump(merged(start, values)))
        try:
            load_config(file, [], starts[name])
        except ConfigError as error:
            problems.append(error)
        else:
            return
    if values.keys() <= FeedbackConfig.model_fields.keys():
        file.write_text(text)
        load_config(file, [], FeedbackConfig)
        return
    raise problems[0] if problems else AssertionError(f"no job has all of {sorted(values)}")


_template = cache(partial(job_template, full=False))
_STARTS = [*(kind.value for kind in JobKind), *ALIASES]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_its_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = __import__(node.module, fromlist=[name.name for name in node.names])
            assert [name.name for name in node.names if not hasattr(found, name.name)] == []


@pytest.mark.parametrize("block", JSON, ids=str)
def test_json_is_json(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


def test_record_examples_are_read(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    examples = re.findall(r'(\{"(?:messages|prompt)":.*?"response".*?\})', text)
    assert len(examples) == 2
    (tmp_path / "img").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "img" / "7.png")
    (tmp_path / "demonstrations.jsonl").write_text("\n".join(examples))
    read = read_records(DataConfig(path=str(tmp_path / "demonstrations.jsonl")), DEMONSTRATION, tmp_path)
    assert read.records["modality"].to_pylist() == ["image", "image"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
