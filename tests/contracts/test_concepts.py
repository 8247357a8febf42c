"""docs/concepts.md: every path and name exists, and every command is one that would start."""

import ast
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import load_config, read_job_kind

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "concepts.md").read_text()
TOPICS = (
    "Modalities and encoders", "Fusion", "Human feedback", "Rewards", "From Q-learning to PPO",
    "Several tasks, and how learning is tuned", "Evaluation", "Deployment", "Ethics",
)  # fmt: skip


@dataclass(frozen=True)
class Concept:
    name: str
    places: list[str]
    command: str


def _concepts() -> list[Concept]:
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.M):
        header, _, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
        )
        assert header == ["concept", "where", "command"]
        for row in rows:
            assert len(row) == 3, row
            (command,) = re.findall(r"^`([^`]+)`$", row[2])
            found.append(Concept(row[0], re.findall(r"`([^`]+)`", row[1]), command))
    return found


CONCEPTS = _concepts()
COMMANDS = sorted({concept.command for concept in CONCEPTS})


def test_the_topics_are_all_there_and_no_concept_twice() -> None:
    assert tuple(re.findall(r"^## (.+)$", PAGE, re.M)) == TOPICS
    names = [concept.name for concept in CONCEPTS]
    assert len(names) == len(set(names)) > 60


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.name)
def test_it_lives_there(concept: Concept) -> None:
    assert concept.places
    for place in concept.places:
        path, _, name = place.partition("::")
        assert (ROOT / path).exists(), place
        assert not name or name in _defined(ROOT / path), place


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_would_start(command: str) -> None:
    program, *words = _words(command)
    _PROGRAMS[program](words)


def test_commands_that_would_not_start_are_noticed() -> None:
    wrong = (
        "mmrlhf discreet x",
        "mmrlhf discrete jobs/none.yaml",
        "mmrlhf demo --fsat",
        "mmrlhf sft jobs/demo-sft.yaml lr=1",
        "mmrlhf ppo jobs/demo-sft.yaml",
        "python -m mmrlhf_ray.nothing",
        "pytest tests/none.py",
        "make it",
    )
    for command in wrong:
        with pytest.raises(Exception):  # noqa: B017, PT011 -- of whatever kind
            test_the_command_would_start(command)


def _defined(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _words(command: str) -> list[str]:
    """As a shell would, but for YAML in braces or brackets, which has blanks."""
    return shlex.split(re.sub(r"(\S+=[{\[].*?[}\]]+)(?=\s|$)", r"'\1'", command))


def _mmrlhf(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options
    files = [word for word in words if word.startswith("jobs/")]
    for file in files:
        kind = read_job_kind(ROOT / file)
        assert command.name in (kind.value, "submit")
        load_config(ROOT / file, [word for word in words if "=" in word], kind.config)


def _python(words: list[str]) -> None:
    assert words[0] == "-m"
    assert importlib.util.find_spec(words[1]) is not None
    assert "__main__" in Path(importlib.util.find_spec(words[1]).origin).read_text()  # type: ignore[union-attr, arg-type]


def _pytest(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file(), words[0]


def _tensorboard(words: list[str]) -> None:
    assert importlib.util.find_spec("tensorboard") is not None
    assert words[0] == "--logdir"


_PROGRAMS = {"mmrlhf": _mmrlhf, "python": _python, "pytest": _pytest, "tensorboard": _tensorboard}
