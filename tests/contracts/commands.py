"""Would a command that a page shows start? Programs, options, files, keys, make's targets and modules must exist."""

import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer.main

from mmrlhf_ray.cli.main import app
from mmrlhf_ray.config import JobKind, dotted_keys, load_config, read_job_kind
from mmrlhf_ray.config.aliases import ALIASES
from tests.contracts.pages import ROOT

_PLACEHOLDER = re.compile(r"<\w+>|[A-Z_]+|…")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S+")
_KEY = re.compile(r"([a-z][\w.]*)=")


def check(command: str) -> None:
    """Raises, of whatever kind, for a command that would not start. Words in capitals stand for the reader's own."""
    command = re.sub(r"\[(--\w+(?: [A-Z]+)?|[a-z]+=[a-z]+ \.\.\.)\]", "", command)  # [--root DIR]: what may follow
    for part in re.split(r" && | \|\| ", re.sub(r" >+ \S+| &$", "", command)):
        words = _words(part)
        while _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        program, *words = words
        if (ROOT / program.removeprefix("../")).exists():
            continue
        _PROGRAMS[program.removeprefix(".venv/bin/")](words)


def _words(command: str) -> list[str]:
    """As a shell would, but for YAML in braces or brackets, which has blanks."""
    return shlex.split(re.sub(r"(\S+=[{\[].*?[}\]]+)(?=\s|$)", r"'\1'", command))


def _mmrlhf(words: list[str]) -> None:
    root: Any = typer.main.get_command(app)
    command = root
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if _PLACEHOLDER.fullmatch(words[0]):
            return
        with root.make_context("mmrlhf", [], resilient_parsing=True) as context:
            found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command, words = found, words[1:]
    options = {option: parameter for parameter in command.params for option in parameter.opts} | {"--help": None}
    options |= {option: parameter for parameter in command.params for option in parameter.secondary_opts}
    if command is root:
        options |= {"--install-completion": None, "--show-completion": None}
    unknown = {word for word in words if word.startswith("--")} - options.keys()
    assert not unknown, f"no such option: {unknown}"
    if words and "--help" not in words:
        assert not hasattr(command, "commands") or command is root, f"{words}: a command is missing"
    _keys(command.name, [word for word in words if not word.startswith("-")])


def _keys(name: str, words: list[str]) -> None:
    """`key=value` are keys of the job; files of jobs/ load with them."""
    changes = [word for word in words if _KEY.match(word)]
    kinds = {name, ALIASES[name].job} if name in ALIASES else {name}
    for file in (word for word in words if word.startswith("jobs/")):
        kind = read_job_kind(ROOT / file)
        assert kinds & {kind.value, "submit", "plan"}, f"{file} is a {kind.value} job"
        load_config(ROOT / file, changes, kind.config)
    jobs = [kind.config for kind in JobKind if kind.value in kinds or kinds & {"submit", "plan", "train"}]
    known = {re.sub(r"\*", "x", key) for job in jobs for key in dotted_keys(job)}
    patterns = [re.compile(re.escape(key).replace(r"\*", r"[^.]+")) for job in jobs for key in dotted_keys(job)]
    for change in changes if jobs else []:
        key = change.split("=")[0]
        assert key in known or any(pattern.fullmatch(key) for pattern in patterns), f"{name} has no key {key}"


def _python(words: list[str]) -> None:
    if not words or words[0] != "-m":
        return  # a file of the reader's
    if len(words) == 1 or _PLACEHOLDER.fullmatch(words[1]) or words[1] == "json.tool":
        return
    if words[1] == "pytest":
        _pytest(words[2:])
        return
    found = importlib.util.find_spec(words[1])
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{words[1]}.__main__")
    assert found is not None, f"{words[1]} is not a command"
    assert found.origin is not None
    assert "__main__" in Path(found.origin).read_text(), f"{words[1]} is not a command"


def _pytest(words: list[str]) -> None:
    assert (ROOT / words[0].split("::")[0]).exists(), words[0]


def _make(words: list[str]) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert targets is not None
    assert {word for word in words if "=" not in word} <= set(targets[1].split()), words


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for word in words for found in re.findall(r"\[(.*)\]", word) for name in found.split(",")}
    assert named <= extras.keys(), named
    _files(words)


def _files(words: list[str]) -> None:
    """Files of the repository that another program is given."""
    ours = [word for word in words if re.match(r"(jobs|cluster|constraints|docs)/", word)]
    assert [word for word in ours if not (ROOT / word).exists()] == []


def _sbatch(words: list[str]) -> None:
    _files(words)
    if "cluster/slurm.sh" in words:
        _mmrlhf(words[words.index("cluster/slurm.sh") + 1 :])


def _ray(words: list[str]) -> None:
    if "mmrlhf" in words:
        _mmrlhf(words[words.index("mmrlhf") + 1 :])


def _serve(words: list[str]) -> None:
    if words:
        module, _, name = words[1].partition(":")
        assert hasattr(importlib.import_module(module), name)


_PROGRAMS: Mapping[str, Callable[[list[str]], None]] = {
    "mmrlhf": _mmrlhf, "python": _python, "pytest": _pytest, "make": _make, "pip": _pip, "sbatch": _sbatch,
    "ray": _ray, "serve": _serve, "kubectl": _files, "docker": _files, "tensorboard": _files, "curl": _files,
    "source": _files, "cd": _files, "mkdir": _files, "export": _files,
}  # fmt: skip
