"""An exported model to a hub: Hugging Face, or ModelScope with `ms:` before the name."""

import json
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mmrlhf_ray.config.paths import HUB, MAY_FETCH, MODELSCOPE
from mmrlhf_ray.errors import ConfigError, MissingExtra, ModelError, RunFailed
from mmrlhf_ray.models.adapter import check_processor_files
from mmrlhf_ray.models.card import read_card
from mmrlhf_ray.models.hub import HubModel, hub_process, is_complete, last_line

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TOKENS = {HUB: ("HF_TOKEN", "hf auth login"), MODELSCOPE: ("MODELSCOPE_API_TOKEN", "modelscope login")}
"""Prefix of a hub → the variable that holds its token, and the command that keeps one."""
_UPLOAD = """
import json, sys
library, name, folder, files, private, revision, message = json.loads(sys.argv[1])
upload = {"repo_id": name, "folder_path": folder, "allow_patterns": files, "commit_message": message}
if revision:
    upload["revision"] = revision
try:
    if library == "huggingface_hub":
        from huggingface_hub import HfApi
        api = HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
    else:
        from modelscope.hub.api import HubApi
        api = HubApi()
        api.create_repo(name, visibility="private" if private else "public", exist_ok=True)
        url = api.get_model_url(name)
    api.upload_folder(**upload)
except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    print(f"{type(error).__name__}: {lines[0][:300]}")
    sys.exit(1)
print(url)
"""
_HAS_TOKEN = {
    HUB: "from huggingface_hub import get_token; print(bool(get_token()))",
    MODELSCOPE: "from modelscope.hub.api import HubApi; print(bool(HubApi()._api._config.token))",
}


@dataclass(frozen=True)
class Upload:
    """What would go where."""

    target: HubModel
    directory: Path
    files: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """File → bytes."""
        return {file: (self.directory / file).stat().st_size for file in self.files}


def prepare(directory: Path, name: str) -> Upload:
    """Check that the model in `directory` is complete, with a card that hubs read, and that `name` (`ORG/NAME` or
    `hf:ORG/NAME`, `ms:ORG/NAME`, perhaps with `@REVISION`) can be one. Nothing is sent.

    Raises ConfigError for another name, ModelError for a model that is not complete, or without a card.
    """
    target = HubModel.of(name if name.startswith((HUB, MODELSCOPE)) else HUB + name)
    if target is None or not _NAME.fullmatch(target.name):
        raise ConfigError(f"{name}: expected ORG/NAME for Hugging Face, or ms:ORG/NAME for ModelScope")
    _check_complete(directory)
    read_card(directory)
    found = (path for path in directory.rglob("*") if path.is_file())
    names = (path.relative_to(directory) for path in found)
    return Upload(target, directory, tuple(sorted(str(n) for n in names if not any(p[0] == "." for p in n.parts))))


def push(upload: Upload, private: bool) -> str:
    """Send it, and return where it is. The repository is made where it is not there; what is there and not sent stays.

    Raises MissingExtra without the hub's library, ConfigError without a token or network access, RunFailed where the
    hub refuses it.
    """
    target = upload.target
    variable, log_in = _TOKENS[target.prefix]
    if find_spec(target.library) is None:
        raise MissingExtra(
            f"{target.prefix}{target.name} needs the package {target.library}: pip install {target.library}"
        )
    if target.prefix == HUB and "HF_HUB_OFFLINE" in os.environ and MAY_FETCH not in os.environ:
        raise ConfigError("HF_HUB_OFFLINE is set, so that nothing is sent; unset it, or look first with --dry-run")
    if last_line(hub_process(_HAS_TOKEN[target.prefix], [], {"HF_HUB_OFFLINE": "1"}).stdout) != "True":
        raise ConfigError(
            f"{target.prefix}{target.name}: no token to write with; log in with `{log_in}`, or set {variable} to one "
            "that may write"
        )
    given = [target.library, target.name, str(upload.directory), upload.files, private, target.revision, "mmrlhf push"]
    done = hub_process(_UPLOAD, given, {})
    said = last_line(done.stdout)
    if done.returncode:
        raise RunFailed(
            f"{target.prefix}{target.name}: the hub did not take it: {said or 'see above'}; check the network, the "
            "name, and that the token may write there"
        )
    return said


def _check_complete(directory: Path) -> None:
    """Raise ModelError where the weights or the files that describe them are not all there."""
    if (directory / "adapter_config.json").is_file():
        _check_readable(directory / "adapter_model.safetensors")
        return
    check_processor_files(directory)
    if not is_complete(directory):
        raise ModelError(f"{directory}: not all files of the model are there; export it again")
    index = directory / "model.safetensors.index.json"
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    for file in sorted(set(named)) or sorted(path.name for path in directory.glob("*.safetensors")):
        _check_readable(directory / file)


def _check_readable(file: Path) -> None:
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: cannot be read: {' '.join(str(error).split())[:200]}; export the model again"
        ) from error
