"""Extras that are not installed: commands that need one say so, everything else does without."""

import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmrlhf_ray.errors import EXTRAS

ROOT = Path(__file__).parents[2]
# An interpreter in which some packages are really not to be found; they come as JSON in its first argument.
_WITHOUT = """
import importlib.machinery, json, sys
hidden = set(json.loads(sys.argv.pop(1)))

class Installed(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path = [Installed if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
_COMMAND = _WITHOUT + "from mmrlhf_ray.cli.main import main; main()"
_IMPORTS = _WITHOUT + "import importlib; [importlib.import_module(name) for name in sys.argv[1:]]"
# fastapi and uvicorn are hidden from no job: ray[serve] and vLLM bring and import them.
_ONLY_EXTRAS = ["sqlalchemy", "psycopg", "crowdkit", "onnx", "onnxscript", "onnxruntime"]
_ONLY_EXTRAS += ["pydicom", "highway_env", "mujoco", "imageio", "minatar"]
_WITHOUT_EXTRAS = [
    "mmrlhf_ray.demo.run",
    "mmrlhf_ray.scenarios.recipe",
    *(f"mmrlhf_ray.pipelines.{job}" for job in ("ppo.job", "supervised.sft", "supervised.reward_model")),
    *(f"mmrlhf_ray.pipelines.{job}.job" for job in ("preference", "probe", "evaluate", "parity")),
    *(f"mmrlhf_ray.pipelines.{job}.job" for job in ("discrete", "behaviour")),
]


def _python(code: str, hidden: list[str], *args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, json.dumps(hidden), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("extra", "hidden", "command"),
    [
        ("feedback", "sqlalchemy", ("feedback", "serve")),
        ("feedback", "sqlalchemy", ("feedback", "annotators", "add", "Ann")),
        ("feedback", "sqlalchemy", ("feedback", "annotators", "list")),
        ("feedback", "sqlalchemy", ("feedback", "annotators", "remove", "Ann")),
        ("feedback", "sqlalchemy", ("feedback", "export", "votes.parquet")),
        ("feedback", "sqlalchemy", ("feedback", "implicit", "out")),
        ("feedback", "crowdkit", ("feedback", "agreement", "votes.parquet")),
        ("feedback", "sqlalchemy", ("iterate", "jobs/iterate.yaml")),
        ("onnx", "onnxscript", ("discrete-export", "run")),
        ("onnx", "onnxruntime", ("discrete-serve", "run")),
        ("quantize", "compressed_tensors", ("export", "run", "out", "--quantize", "int8", "--data", "rows.jsonl")),
        ("serve", "fastapi", ("serve", "run")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_command_names_the_extra_that_it_lacks(extra: str, hidden: str, command: tuple[str, ...]) -> None:
    done = _python(_COMMAND, [hidden], *command)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'error: this needs the extra `{extra}`, of which {hidden} cannot be found: pip install "mmrlhf-ray[{extra}]"'
    ]


def test_jobs_and_the_demo_do_without_extras() -> None:
    done = _python(_IMPORTS, _ONLY_EXTRAS, *_WITHOUT_EXTRAS)
    assert done.returncode == 0, done.stderr


def test_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = packages_distributions()
    for extra, modules in EXTRAS.items():
        of_modules = {canonicalize_name(name) for module in modules for name in packages[module]}
        assert of_modules - {"psycopg-binary"} == {canonicalize_name(Requirement(r).name) for r in declared[extra]}
        for module in modules:
            importlib.import_module(module)
