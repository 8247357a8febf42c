"""What the pinned packages of an extra ask of each other, for a check that takes no index and no minutes.

`python -m tests.contracts.requires`, after a change of constraints/, looks up those that only one of the extras has, as
an environment has one of them alone. It asks pip, in the way that `pip install` does.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_suffix(".json")
EXTRAS = ("cpu", "gpu")
ALSO = ("feedback", "onnx", "behaviour", "docs", "dev")
"""Extras of `make setup`."""
PYTHONS = ("3.11", "3.12", "3.13")
_UNPINNED = ("setuptools",)
"""`make constraints` leaves it to the environment."""
_PLATFORM = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
_PLATFORM |= {"platform_python_implementation": "CPython", "implementation_name": "cpython"}


def pins(extra: str) -> dict[str, Version]:
    """Package → the version that constraints/ has of it."""
    lines = (ROOT / "constraints" / f"{extra}.txt").read_text().splitlines()
    found = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in found}


def project(extra: str) -> list[str]:
    """What the project itself asks for."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [declared["dependencies"], *(declared["optional-dependencies"][name] for name in (extra, *ALSO))]
    return [requirement for group in own for requirement in group]


@cache
def snapshot() -> Mapping[str, list[str]]:
    return json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}


def requires(name: str, version: Version, extra: str) -> list[str] | None:
    """Of a package in that version: from the snapshot, else from its metadata where it is installed; None = unknown."""
    for build in (f"{version}+{extra}", f"{version}"):
        if (kept := snapshot().get(f"{name}=={build}")) is not None:
            return kept
    return list(distribution(name).requires or ()) if _installed(name, str(version)) else None


def conflicts(extra: str, python: str, own: Mapping[str, Version], asked: list[str]) -> list[str]:
    """Why `pip install` of `asked` with these versions would not find them all; empty = it would."""
    problems: list[str] = []
    open_ended: list[tuple[str, Requirement]] = []
    todo = [("pyproject.toml", Requirement(text), "") for text in asked]
    seen: set[tuple[str, str]] = set()
    while todo:
        who, requirement, of_extra = todo.pop()
        if not _applies(requirement, python, of_extra):
            continue
        name = canonicalize_name(requirement.name)
        version = own.get(name)
        if name in _UNPINNED:
            open_ended.append((who, requirement))
            continue
        if version is None:
            problems.append(f"{who} asks for {requirement}, which constraints/{extra}.txt does not have")
            continue
        built = [version, *([Version(f"{version}+cpu")] if extra == "cpu" else [])]
        if not any(requirement.specifier.contains(each, prereleases=True) for each in built):
            problems.append(f"{who} asks for {requirement}, constraints/{extra}.txt has {version}")
        for each in ("", *requirement.extras):
            if (name, each) in seen:
                continue
            seen.add((name, each))
            texts = requires(name, version, extra)
            if texts is None:
                problems.append(
                    f"{name}=={version}: what it asks for is not known; run python -m tests.contracts.requires"
                )
            todo += [(f"{name}=={version}", Requirement(text), each) for text in texts or ()]
    return sorted({*problems, *_without_common(open_ended)})


def _without_common(asked: list[tuple[str, Requirement]]) -> Iterator[str]:
    """Of packages that are not pinned: no version that someone names suits all."""
    for name in {requirement.name for _, requirement in asked}:
        all_of_it = [(who, requirement) for who, requirement in asked if requirement.name == name]
        named = {spec.version.removesuffix(".*") for _, requirement in all_of_it for spec in requirement.specifier}
        if named and not any(all(r.specifier.contains(v, prereleases=True) for _, r in all_of_it) for v in named):
            yield f"no version of {name} suits " + "; ".join(sorted(f"{who}: {r}" for who, r in all_of_it))


def _applies(requirement: Requirement, python: str, extra: str) -> bool:
    here = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra, **_PLATFORM}
    return requirement.marker is None or requirement.marker.evaluate(here)


def _looked_up(versions: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Of each `name==version`, as pip finds it in the index."""
    with TemporaryDirectory() as directory:
        wanted, report = Path(directory) / "wanted.txt", Path(directory) / "report.json"
        wanted.write_text("\n".join(versions))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--requirement", str(wanted), "--report", str(report)], check=True)
        for item in json.loads(report.read_text())["install"]:
            metadata = item["metadata"]
            version = Version(metadata["version"]).public
            yield f"{canonicalize_name(metadata['name'])}=={version}", metadata.get("requires_dist", [])


def main() -> None:
    lines = [{f"{name}=={version}" for name, version in pins(extra).items()} for extra in EXTRAS]
    here = {line for line in lines[0] - lines[1] if _installed(*line.split("=="))}
    cuda = f"torch==={pins('gpu')['torch']}"  # and not the build for CPUs, which is called +cpu
    found = dict(_looked_up([*sorted(lines[1] - lines[0]), cuda]))
    found |= {line: list(distribution(line.split("==")[0]).requires or ()) for line in here}
    torch = distribution("torch")
    if torch.version.endswith("+cpu"):
        found[f"torch=={torch.version}"] = list(torch.requires or ())
    extras = {
        (canonicalize_name(requirement.name), extra)
        for texts in (*found.values(), *(project(extra) for extra in EXTRAS))
        for requirement in map(Requirement, texts)
        for extra in requirement.extras
    }
    kept = {}
    for line, texts in found.items():
        asked = ["", *(extra for name, extra in extras if name == line.split("==")[0])]
        ways = [(python, extra) for python in PYTHONS for extra in asked]
        kept[line] = sorted(text for text in texts if any(_applies(Requirement(text), *way) for way in ways))
    SNAPSHOT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def _installed(name: str, version: str) -> bool:
    try:
        return Version(distribution(name).version).public == version
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
