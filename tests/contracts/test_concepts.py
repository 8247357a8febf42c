"""docs/concepts.md: every path and name exists, and every command is one that would start."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contracts.commands import check

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
    check(command)


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
            check(command)


def _defined(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
