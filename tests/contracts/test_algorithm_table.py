"""docs/algorithms.md: every option has a row, every function and test it names exists, every recipe loads."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from mmrlhf_ray import algorithms
from mmrlhf_ray.algorithms.advantages import OUTCOME_ESTIMATORS, TOKEN_ESTIMATORS, WHITEN_DEFAULT
from mmrlhf_ray.algorithms.aggregation import AGGREGATIONS
from mmrlhf_ray.algorithms.mismatch import CORRECTIONS
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES
from mmrlhf_ray.config import AlgorithmConfig, DistillationConfig, PPOConfig, PreferenceConfig, RewardModelConfig
from mmrlhf_ray.config.algorithm import MismatchConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "algorithms.md").read_text()
FUNCTIONS = {
    name
    for module in pkgutil.iter_modules(algorithms.__path__)
    for name in vars(importlib.import_module(f"{algorithms.__name__}.{module.name}"))
}
"""What the modules of algorithms/ hold."""
COLUMNS = ["equation", "source", "function", "test"]
OPTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "`advantage_estimator`": (AlgorithmConfig, "advantage_estimator"),
    "`whiten`": (AlgorithmConfig, "whiten"),
    "`kl_estimator`": (AlgorithmConfig, "kl_estimator"),
    "`kl_in`": (AlgorithmConfig, "kl_in"),
    "`policy_loss`": (AlgorithmConfig, "policy_loss"),
    "`aggregation`": (AlgorithmConfig, "aggregation"),
    "`distillation.divergence`": (DistillationConfig, "divergence"),
    "`mismatch.correction`": (MismatchConfig, "correction"),
    "`objective` (reward model)": (RewardModelConfig, "objective"),
    "`objective` (preference)": (PreferenceConfig, "objective"),
}
TABLES = {
    "`advantage_estimator`": {*OUTCOME_ESTIMATORS, *TOKEN_ESTIMATORS, "gae"},
    "`whiten`": set(WHITEN_DEFAULT.values()) | {"center"},
    "`policy_loss`": set(POLICY_LOSSES),
    "`aggregation`": set(AGGREGATIONS),
    "`mismatch.correction`": set(CORRECTIONS),
}


@dataclass(frozen=True)
class Row:
    table: str
    """First cell of the header."""
    name: str
    equation: str
    functions: list[str]
    tests: list[str]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _rows(page: str) -> Iterator[Row]:
    for table in re.findall(r"(?:^\|.*\n)+", page, re.M):
        header, _, *lines = map(_cells, table.splitlines())
        assert header[1:] == COLUMNS, header
        for cells in lines:
            assert len(cells) == 5, f"a cell holds a | or is missing: {cells}"
            name, equation, _, function, test = cells
            yield Row(header[0], name, equation, re.findall(r"`(\w+)`", function), re.findall(r"`([^`]+)`", test))


ROWS = list(_rows(PAGE))
IDS = [f"{row.table}: {row.name}".replace("`", "") for row in ROWS]


def _choices(model: type[BaseModel], field: str) -> set[str]:
    annotation = model.model_fields[field].annotation
    literals = [annotation] if get_origin(annotation) is Literal else get_args(annotation)
    return {choice for literal in literals for choice in get_args(literal)}


@pytest.mark.parametrize("table", OPTIONS)
def test_every_option_has_a_row_and_every_row_is_an_option(table: str) -> None:
    rows = [row.name.strip("`") for row in ROWS if row.table == table]
    assert len(rows) == len(set(rows))
    assert set(rows) == _choices(*OPTIONS[table])


@pytest.mark.parametrize("table", TABLES)
def test_every_option_has_its_function(table: str) -> None:
    assert TABLES[table] == _choices(*OPTIONS[table])


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_functions_and_tests_exist(row: Row) -> None:
    assert row.equation
    assert row.functions
    assert set(row.functions) <= FUNCTIONS, set(row.functions) - FUNCTIONS
    assert row.tests
    for test in row.tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert any(name.startswith("test_") for name in defined), test
        assert not function or function in defined, test


RECIPES = {
    section.partition("\n")[0]: re.findall(r"```yaml\n(.*?)```", section, re.S)
    for section in PAGE.partition("## Recipes\n")[2].split("\n### ")[1:]
}


def test_the_recipes_are_all_there() -> None:
    assert set(RECIPES) == {
        "A2C", "GRPO", "Dr. GRPO", "RLOO", "REINFORCE++", "DAPO", "GSPO", "CISPO", "On-policy distillation",
        "Distillation from distributions",
    }  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_are_valid(recipe: list[str]) -> None:
    (text,) = recipe
    keys = yaml.safe_load(text)
    job = {
        "name": "recipe",
        "policy": {"path": "model"},
        "rewards": [{"name": "format", "kind": "function", "function": "format"}],
        "data": {"path": "prompts"},
        "sampling": {"max_response_tokens": 64},
    }
    config = PPOConfig.model_validate(job | keys)
    assert config.algorithm.model_fields_set == set(keys["algorithm"])
