"""The Grafana dashboard shows metrics that the code exports, and all that docs/operations.md says to watch."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "cluster" / "kuberay" / "services"
BOARD = json.loads((SERVICES / "dashboard.json").read_text())
SELECTOR = re.compile(r'^\{__name__=~"ray_mmrlhf_(?P<jobs>\w+|\([\w|]+\))_\((?P<names>[^)]+)\)", run=~"\$run"\}$')
JOBS = {
    "ppo": ("pipelines/ppo", "algorithms", "rewards"),
    "sft": ("pipelines/supervised", "training"),
    "reward_model": ("pipelines/supervised", "training"),
    "preference": ("pipelines/preference", "training"),
    "discrete": ("pipelines/discrete", "discrete"),
}
"""Part of the gauges' names → the rooms whose code names the metrics."""


@cache
def written(rooms: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Texts in the code of some rooms, and how those begin that have something filled in."""
    texts, starts = set(), set()
    for file in (file for room in rooms for file in (ROOT / "mmrlhf_ray" / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                starts.add(str(node.values[0].value))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return frozenset(text.replace(" ", "_") for text in texts), tuple(start for start in starts if len(start) > 2)


def exported(job: str, name: str) -> bool:
    """Whether the code of a job names the metric. `name`: a name, or how several begin, with `.+` behind it."""
    texts, starts = written(JOBS[job])
    if name.endswith(".+"):
        begin = name.removesuffix(".+")
        word = begin.removesuffix("_")  # where what comes before the name is chosen from several
        return word in texts or any(text.startswith(begin) for text in (*starts, *texts))
    whole = name.removeprefix("eval_")  # those of an evaluation are named as those of a step
    return bool({name, whole} & texts) or any(name.startswith(start) and start.endswith("_") for start in starts)


def shown() -> Iterator[tuple[str, str]]:
    """Job and metric, or pattern, of every query."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            found = SELECTOR.match(target["expr"])
            assert found, target["expr"]
            for job in found["jobs"].strip("()").split("|"):
                yield from ((job, name) for name in found["names"].split("|"))


def test_every_metric_of_the_dashboard_is_one_that_the_code_exports() -> None:
    asked = list(shown())
    assert len(asked) > 40
    assert [pair for pair in asked if not exported(*pair)] == []


def test_a_metric_that_nobody_exports_would_be_found() -> None:
    assert not exported("ppo", "scoer")
    assert not exported("sft", "idle_.+")


def test_what_the_page_says_to_watch_is_on_the_dashboard() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = page.split("Metrics to watch in online training:")[1].split("\n\n")[1].splitlines()[2:]
    names = [name for row in rows for name in re.findall(r"`([a-z_]+(?:<\w+>|\*)?)`", row.split("|")[1])]
    patterns = [name for job, name in shown() if job == "ppo"]
    assert len(names) > 25
    missing = [n for n in names if not any(re.fullmatch(p, re.sub(r"<\w+>|\*", "x", n)) for p in patterns)]
    assert [name for name in missing if not name.startswith("_")] == []


def test_panels_have_room_a_name_and_the_chosen_source() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in BOARD["panels"]]
    assert len(set(places)) == len(places) == len({p["id"] for p in BOARD["panels"]})
    for panel in BOARD["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert [v["name"] for v in BOARD["templating"]["list"]] == ["datasource", "run"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_the_cluster_loads_it() -> None:
    made = subprocess.run(["kubectl", "kustomize", str(SERVICES)], check=True, capture_output=True, text=True)
    documents = yaml.safe_load_all(made.stdout)
    (board,) = [document for document in documents if document["kind"] == "ConfigMap"]
    assert board["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(board["data"]["dashboard.json"]) == BOARD
