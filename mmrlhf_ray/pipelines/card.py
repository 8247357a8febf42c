"""The model card of what a run has trained, from its record and its metrics."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmrlhf_ray.algorithms.statistics import mean_interval
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.config.load import JobKind
from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import ADAPTER_DIR
from mmrlhf_ray.models.card import CardFacts, Result, Results, base_of, shown_path, write_card
from mmrlhf_ray.pipelines.resume import RunRecord, finish
from mmrlhf_ray.runtime.metrics import read_metrics

_POLICY_KEYS = ("policy", "model")
"""Of the model that is trained, the first that a job has."""
_OF_THE_MACHINE = frozenset({
    "name", "output_dir", "work_dir", "env", "placement", "workers", "deadlines", "checkpoint", "recovery", "device",
    "generator", "weights", "reference_engine", "track", "profile", "url", "base_url", "token_env", "database",
})  # fmt: skip
"""Keys that say where and how a run ran, not what it learned; addresses may hold secrets."""
_WHILE_TRAINING = ("loss", "score", "kl", "response_tokens", "pair_accuracy", "preference_accuracy")
_PART = 10
"""Figures of training are means over the last one in so many logged steps, since single steps scatter."""
_EVALUATION = "evaluation.json"


def finish_with_card(run_dir: Path, record: RunRecord) -> None:
    """The run has exported its model: finish(), with a card."""
    write_run_card(run_dir / MODEL_DIR, run_dir, record)
    finish(run_dir)


def write_run_card(directory: Path, run_dir: Path, record: RunRecord, steps: int | None = None) -> None:
    """Write the card of the model that the run of `record` exported to `directory`, and of an adapter next to it, with
    the metrics in `run_dir`. `steps`: that were taken when it was exported; None = all that are logged."""
    rows = [row for row in read_metrics(run_dir) if steps is None or row["step"] < steps]
    figures = [*_held_out(rows), *_of_training(rows)]
    facts = card_facts(run_dir.name, record, steps or (rows[-1]["step"] + 1 if rows else None))
    for exported in (directory, directory.with_name(ADAPTER_DIR)):
        if exported == directory or exported.is_dir():
            write_card(exported, facts, figures)


def card_facts(name: str, record: RunRecord, steps: int | None) -> CardFacts:
    """The card of a run's model. `steps`: that were taken, where that is known."""
    settings = _own_settings(record)
    key = next((key for key in _POLICY_KEYS if key in record.weights), next(iter(record.weights), ""))
    source = _at(record.settings, key).get("path", "")
    algorithm = _algorithm(record.settings)
    after = f" after {steps} steps" if steps else ""
    others = {other: _at(record.settings, other).get("path", "") for other in record.weights if other != key}
    data = {own: _said_data(record.settings, own, rows) for own, rows in record.rows.items()}
    data |= {other: f"model {shown_path(path)}, sha256 {record.weights[other][:16]}" for other, path in others.items()}
    return CardFacts(
        name=name,
        summary=f"Trained by `mmrlhf {record.job}`{f' ({algorithm})' if algorithm else ''}{after}, seed "
        f"{record.settings.get('seed', 0)}.",
        bases=[base_of(Path(source))] if source else [],
        tags=[tag for tag in dict.fromkeys((record.job, algorithm)) if tag],
        datasets=list(dict.fromkeys(_hub_data_sets(record.settings))),
        data=data,
        settings=settings,
    )


def evaluation_results(run: Path) -> list[Results]:
    """The figures of an evaluation's run, to be added to a card. Raises RunError where `run` has none."""
    file = run / _EVALUATION
    if not file.is_file():
        raise RunError(f"{run}: expected the run of `mmrlhf evaluate`, found no {_EVALUATION} there")
    found = json.loads(file.read_text(encoding="utf-8"))
    groups = []
    for name, entry in found.items():
        rows = list(_evaluated(entry))
        if name.startswith("policy") and rows:
            note = f"{entry['responses']} responses; brackets are 95 % intervals." if "responses" in entry else ""
            groups.append(Results(f"Evaluation: {name}", f"{run.name}, {name}", rows, note))
    return groups


def _evaluated(entry: Mapping[str, Any]) -> Iterator[Result]:
    for key in ("score", "net"):
        if isinstance(entry.get(key), Mapping):
            yield Result(key, entry[key]["estimate"], entry[key]["low"], entry[key]["high"])
    for key in ("kl", "response_tokens"):
        if key in entry:
            yield Result(key, entry[key])
    for name, interval in entry.get("rewards", {}).items():
        yield Result(name, interval["estimate"], interval["low"], interval["high"])


def _held_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[Results]:
    """The last evaluation of the run."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if any(key.startswith("eval_") for key in row)), {})
    found = [
        Result(key, value, last.get(f"{key}_low"), last.get(f"{key}_high"))
        for key, value in last.items()
        if key.startswith("eval_") and not key.endswith(("_low", "_high")) and value is not None
    ]
    if found:
        yield Results("Held-out data", "eval_data", found, f"After step {last['step'] + 1}.")


def _of_training(rows: Sequence[Mapping[str, Any]]) -> Iterator[Results]:
    count = max(1, len(rows) // _PART)
    found = []
    for key in _WHILE_TRAINING:
        values = [row[key] for row in rows[-count:] if row.get(key) is not None]
        if values:
            interval = mean_interval(values)
            many = len(values) > 1
            found.append(Result(key, interval.estimate, *((interval.low, interval.high) if many else ())))
    if found:
        note = f"Means over the last {count} logged steps; brackets are 95 % intervals over these steps."
        yield Results("While it was trained", "data", found, note)


def _own_settings(record: RunRecord) -> dict[str, Any]:
    """What differs from the defaults, without what is of a machine."""
    try:
        cfg = JobKind(record.job).config.model_validate({**record.settings, "name": "card"})
    except ValidationError:  # of another version: everything that it says
        return dict(_shown(record.settings))
    return dict(_shown(cfg.model_dump(mode="json", exclude_defaults=True)))


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        shown = {key: _shown(inner) for key, inner in value.items() if key not in _OF_THE_MACHINE}
        return {key: inner for key, inner in shown.items() if inner != {}}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and "://" in value:
        return "(an address)"
    return shown_path(value) if isinstance(value, str) and value.startswith("/") else value


def _algorithm(settings: Mapping[str, Any]) -> str:
    said = settings.get("algorithm")
    estimator = said.get("advantage_estimator", "") if isinstance(said, Mapping) else ""
    return str(estimator or settings.get("objective", ""))


def _said_data(settings: Mapping[str, Any], key: str, rows: str) -> str:
    section = _at(settings, key)
    sources = [section, *(section.get("sources") or ())]
    named = ", ".join(_shown(source["path"]) for source in sources if source.get("path"))
    return f"{named}: {rows}" if named else rows


def _hub_data_sets(value: Any) -> Iterator[str]:
    """ORG/NAME of each data set that settings name as `hf:…`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "path" and isinstance(inner, str) and inner.startswith(HUB):
                yield inner.removeprefix(HUB).partition("@")[0]
            else:
                yield from _hub_data_sets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _hub_data_sets(inner)


def _at(settings: Any, key: str) -> Mapping[str, Any]:
    """The section of a dotted key; components of a list go by their `name`."""
    for part in filter(None, key.split(".")):
        if isinstance(settings, list | tuple):
            settings = next((own for own in settings if isinstance(own, Mapping) and own.get("name") == part), {})
        else:
            settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}
