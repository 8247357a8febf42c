"""docs/coming-from.md: every key of ours in its tables exists, and no key of theirs is there twice in a table."""

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from mmrlhf_ray.config import JobKind, Reward, dotted_keys
from tests.contracts.pages import ROOT

PAGE = ROOT / "docs" / "coming-from.md"
LIBRARIES = ("TRL", "verl", "OpenRLHF", "LLaMA-Factory", "ms-swift")
_KEY = re.compile(r"([a-z][a-z_]*(?:\[\])?(?:\.[a-z_]+)*)(?:: .*)?")
_VALUES = {"sequence_mean", "token_mean", "constant_length", "low_var_kl", "k3", "n", "false", "group_norm", "grpo"}
_VALUES |= {"reinforce_baseline", "reinforce_pp_baseline"}
"""What keys are set to; spans of code in the right column that are no keys."""


def _tables() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for library, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S):
        rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.M)
        found[library] = [row for row in rows if row != (library, "here")]
    return found


TABLES = _tables()


def _known() -> set[str]:
    jobs = {key for kind in JobKind for key in dotted_keys(kind.config)}
    components = get_args(get_args(Reward)[0])
    return jobs | {f"rewards[].{field}" for kind in components for field in kind.model_fields}


def _ours(cell: str) -> Iterator[str]:
    for span in re.findall(r"`([^`]+)`", cell):
        key = _KEY.fullmatch(span)
        if key and span not in _VALUES and not span.startswith("mmrlhf"):
            yield key[1]


def test_every_library_has_its_table() -> None:
    assert tuple(TABLES) == LIBRARIES
    assert all(len(rows) >= 20 for rows in TABLES.values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_our_keys_exist(library: str) -> None:
    keys = {key for _, cell in TABLES[library] for key in _ours(cell)}
    assert len(keys) > 20
    assert sorted(keys - _known()) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_row_names_something_of_theirs_and_of_ours(library: str) -> None:
    assert [theirs for theirs, ours in TABLES[library] if not theirs.strip() or not ours.strip()] == []
    cells = [theirs for theirs, _ in TABLES[library]]
    assert len(cells) == len(set(cells))


def test_a_key_that_is_gone_is_noticed() -> None:
    assert set(_ours("`learner.optimizer.rate`, `mmrlhf sft`, `rewards[].wait`: x")) == {
        "learner.optimizer.rate",
        "rewards[].wait",
    }
    assert not {"learner.optimizer.rate", "rewards[].wait"} & _known()
