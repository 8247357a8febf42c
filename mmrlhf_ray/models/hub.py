"""Models by their names: `hf:ORG/NAME[@REVISION]` of Hugging Face, `ms:ORG/NAME[@REVISION]` of ModelScope.

A copy that was fetched before is used without asking the hub. Code and pickled weights are not fetched.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.config.paths import HUB, MAY_FETCH, MODELSCOPE
from mmrlhf_ray.errors import MissingExtra, ModelError

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "README.md", "LICENSE*", "NOTICE*")
_DOWNLOAD = """
import importlib, json, sys
library, name, options = json.loads(sys.argv[1])
try:
    found = importlib.import_module(library).snapshot_download(name, **options)
except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    print(f"{type(error).__name__}: {lines[0][:200]}")
    sys.exit(1)
print(found)
"""


@dataclass(frozen=True)
class HubModel:
    """A model on a hub."""

    prefix: str
    name: str
    revision: str | None

    @classmethod
    def of(cls, path: str) -> "HubModel | None":
        """What a path names; None for a directory."""
        prefix = next((prefix for prefix in (HUB, MODELSCOPE) if path.startswith(prefix)), None)
        if prefix is None:
            return None
        name, _, revision = path.removeprefix(prefix).partition("@")
        return cls(prefix, name, revision or None)

    @property
    def library(self) -> str:
        """The Python package that talks to the hub."""
        return "huggingface_hub" if self.prefix == HUB else "modelscope"

    @property
    def by_hand(self) -> str:
        """The command that fetches it into a directory."""
        target = f"models/{self.name.rpartition('/')[2]}"
        revision = f" --revision {self.revision}" if self.revision else ""
        if self.prefix == HUB:
            return f"hf download {self.name}{revision} --local-dir {target}"
        return f"modelscope download --model {self.name}{revision} --local_dir {target}"


def local_model(path: str, fetch: bool = True) -> str:
    """The directory of a model, which is fetched where it is not here and `fetch` allows it; a path that names no hub's
    model stays, and so does one that may not be fetched.

    Raises ModelError, with the command that fetches it by hand, and MissingExtra.
    """
    model = HubModel.of(path)
    if model is None:
        return path
    if find_spec(model.library) is None:
        raise MissingExtra(
            f"{path} needs the package {model.library}: pip install {model.library}; or fetch it elsewhere with "
            f"`{model.by_hand}` and give the directory"
        )
    kept = _download(model, {"local_files_only": True}, {"HF_HUB_OFFLINE": "1"})
    if kept.returncode == 0 and is_complete(Path(last_line(kept.stdout))):
        return last_line(kept.stdout)
    return _fetched(path, model) if fetch else path


def model_directory(name: str) -> Path:
    """The directory of the model that a user names: a directory in Hugging Face format, that of a run, which has one in
    `model`, or `hf:…` or `ms:…`, as local_model(). Raises ModelError."""
    path = Path(local_model(name))
    found = next((place for place in (path, path / MODEL_DIR) if (place / "config.json").is_file()), None)
    if found is None:
        hint = "; the run has exported none yet: see `mmrlhf export`" if (path / "config.yaml").is_file() else ""
        raise ModelError(
            f"{name}: expected a model in Hugging Face format, a run that exported one, hf:ORG/NAME or ms:ORG/NAME; "
            f"found no config.json there or in {MODEL_DIR}{hint}"
        )
    return found


def _fetched(path: str, model: HubModel) -> str:
    hint = f"where there is a network, `{model.by_hand}` fetches it: give that directory instead"
    if "HF_HUB_OFFLINE" in os.environ and MAY_FETCH not in os.environ:
        raise ModelError(f"{path}: not here, and HF_HUB_OFFLINE is set: nothing is fetched; unset it, or {hint}")
    print(f"fetching {path}; a copy is kept, and used from then on", file=sys.stderr, flush=True)
    done = _download(model, {}, {})
    if done.returncode:
        raise ModelError(f"{path}: cannot be fetched: {last_line(done.stdout) or 'see above'}; {hint}")
    directory = Path(last_line(done.stdout))
    if not is_complete(directory):
        raise ModelError(
            f"{path}: {directory} has no config.json, or not all the weights in safetensors; expected a model in "
            "Hugging Face format"
        )
    return str(directory)


def _download(
    model: HubModel, options: Mapping[str, object], env: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """The hub's own function; its progress is shown, its result printed."""
    given = {"allow_patterns": _FILES, **({"revision": model.revision} if model.revision else {}), **options}
    return hub_process(_DOWNLOAD, [model.library, model.name, given], env)


def hub_process(code: str, arguments: Sequence[object], env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run Python that uses a hub's library and reads `arguments` as JSON. In a process of its own: the libraries read
    once, when they are imported, whether they may use the network. Where `env` is given it is quiet."""
    ours = {} if env or MAY_FETCH not in os.environ else {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, json.dumps(arguments)],
        env={**os.environ, **ours, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if env else None,
        text=True,
        check=False,
    )


def is_complete(directory: Path) -> bool:
    """Whether the files are there that an interrupted download or export may lack."""
    if not (directory / "config.json").is_file():
        return False
    wanted = {
        file
        for index in directory.glob("*.safetensors.index.json")
        for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    }
    return all((directory / file).is_file() for file in wanted) and any(directory.glob("*.safetensors"))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
