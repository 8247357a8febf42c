"""Every algorithm on Omni-Digits from the demo's SFT policy: gold reward before and after, KL, minutes."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks import algorithms, studies
from benchmarks.compare_report import Compared, Curve, print_rows, write_page
from mmrlhf_ray.algorithms.statistics import mean_interval
from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import Records, read_records, write_records
from mmrlhf_ray.demo import profiles
from mmrlhf_ray.demo.profiles import COMPARE_DIR, FULL_PROFILE, Paths
from mmrlhf_ray.demo.report import proxy_gold
from mmrlhf_ray.demo.scoring import ScoredResponse, score_responses
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.pipelines.evaluate import job as evaluate
from mmrlhf_ray.pipelines.ppo import job as ppo
from mmrlhf_ray.pipelines.preference import job as preference
from mmrlhf_ray.pipelines.supervised import reward_model
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.progress import duration
from mmrlhf_ray.schema import PREFERENCE, PROMPT, RESPONSE

_RESULT = "result.json"
_BASELINE = "sft"
_ONLINE = ("ppo", *algorithms.ONLINE, *studies.NAMES)


def names() -> tuple[str, ...]:
    """Everything that can be compared."""
    return (*algorithms.NAMES, *studies.NAMES)


def run_compare(root: Path, wanted: Sequence[str], seed: int) -> Path:
    """Train and evaluate what `wanted` names into `<root>/compare`, from the models of the demo run at `root`; without
    names, everything that has no result there yet.

    What is there from an earlier call stays in the table; a name that is given again is run again. Returns the page.
    Raises ConfigError for an unknown name, RunError where there is no finished demo.
    """
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        raise ConfigError(f"compare: no algorithm is called {unknown[0]!r}; known are {', '.join(names())}")
    paths = Paths(root)
    _check_demo(paths)
    if not _result_file(paths, _BASELINE).is_file():
        _evaluate(paths, _BASELINE, seed)
        _save(paths, _BASELINE, {"minutes": 0.0})
    for name in wanted or [name for name in names() if not _result_file(paths, name).is_file()]:
        print(f"── {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        _train(name, paths, seed)
        minutes = (time.monotonic() - started) / 60
        _evaluate(paths, name, seed)
        _save(paths, name, {"minutes": minutes})
        print(f"── {name}: {duration(60 * minutes)}", file=sys.stderr, flush=True)
    rows = compared(paths)
    print_rows(rows)
    return write_page(root / COMPARE_DIR, rows, curves(paths))


def _check_demo(paths: Paths) -> None:
    needed = (paths.root / "sft" / "model", paths.root / "reward-model" / "model", paths.preferences)
    missing = [path for path in needed if not path.is_dir()]
    if missing:
        raise RunError(f"{missing[0]}: not there; run `mmrlhf demo --output {paths.root}` first")


def _train(name: str, paths: Paths, seed: int) -> None:
    if name in algorithms.OFFLINE:
        preference.run(_into(paths, algorithms.offline(name, paths, seed)))
    elif name in studies.NAMES:
        if name in studies.FEW_PAIRS_RUNS:
            _few_pairs_reward_model(paths, seed)
        ppo.run(_into(paths, studies.config(name, paths, FULL_PROFILE, seed)))
    else:
        ppo.run(_into(paths, algorithms.online(name, paths, seed)))


def _into(paths: Paths, cfg: Any) -> Any:
    return cfg.model_copy(update={"output_dir": str(paths.root / COMPARE_DIR)})


def _few_pairs_reward_model(paths: Paths, seed: int) -> None:
    """A reward model that has seen too little, once for all runs that use it."""
    if (studies.few_pairs_root(paths) / "reward-model" / "model").is_dir():
        return
    cfg = profiles.reward_model(paths, FULL_PROFILE, seed)
    every = read_records(cfg.data, PREFERENCE, paths.root)
    few = every.records.slice(0, studies.FEW_PAIRS)
    used = {media_id for row in few.column("media_ids").to_pylist() for media_id in row}
    kept = pa.array([media_id in used for media_id in every.media.column("media_id").to_pylist()])
    data = studies.few_pairs_root(paths) / "preferences"
    data.parent.mkdir(parents=True, exist_ok=True)
    write_records(data, few, every.media.filter(kept))
    changes = {
        "output_dir": str(studies.few_pairs_root(paths)),
        "data": cfg.data.model_copy(update={"path": str(data)}),
        "eval_every_steps": None,
        "epochs": studies.FEW_PAIRS_EPOCHS,
    }
    reward_model.run(cfg.model_copy(update=changes))


def _evaluate(paths: Paths, name: str, seed: int) -> None:
    """Held-out answers, KL to the SFT policy, and the demo's reward model's opinion."""
    cfg = profiles.evaluate(paths, seed)
    model = paths.model("sft") if name == _BASELINE else paths.model(f"{COMPARE_DIR}/{name}")
    changes = {
        "name": f"{name}-evaluate",
        "policy": model,
        "baseline": None,
        "reference": paths.model("sft"),
        "ablate_media": False,
    }
    evaluate.run(_into(paths, cfg.model_copy(update=changes)))


def _result_file(paths: Paths, name: str) -> Path:
    return paths.root / COMPARE_DIR / f"{name}-evaluate" / _RESULT


def _save(paths: Paths, name: str, result: Mapping[str, float]) -> None:
    """Written last: what has a result is complete."""
    partial = _result_file(paths, name).with_suffix(".partial")
    partial.write_text(json.dumps(result))
    os.replace(partial, _result_file(paths, name))


def _answers(paths: Paths, name: str, prompts: Records) -> list[ScoredResponse]:
    table = evaluate.read_responses(paths.root / COMPARE_DIR / f"{name}-evaluate", "policy")
    return score_responses(table, prompts.records)


def compared(paths: Paths) -> list[Compared]:
    """A row for SFT and for every run that is finished, in the order of names()."""
    prompts = read_records(DataConfig(path=str(paths.data / "prompts_heldout")), PROMPT, paths.root)
    before = {r.prompt_id: r.gold.total for r in _answers(paths, _BASELINE, prompts)}
    rows = []
    for name in (_BASELINE, *names()):
        if not _result_file(paths, name).is_file():
            continue
        answers = _answers(paths, name, prompts)
        gains = [r.gold.total - before[r.prompt_id] for r in answers]
        minutes = json.loads(_result_file(paths, name).read_text())["minutes"]
        rows.append(
            Compared(
                name=name,
                gold=mean_interval([r.gold.total for r in answers]),
                gain=mean_interval(gains),
                accuracy=float(np.mean([r.gold.correct for r in answers])),
                grounded=float(np.mean([r.gold.grounded for r in answers])),
                proxy=float(np.mean([r.score for r in answers])),
                kl=float(np.mean([r.kl for r in answers])),
                response_tokens=float(np.mean([r.response_tokens for r in answers])),
                minutes=minutes,
            )
        )
    return rows


def curves(paths: Paths) -> list[Curve]:
    """Proxy, gold and costs of the responses of each finished online run, step by step."""
    prompts = read_records(DataConfig(path=str(paths.data / "prompts_train")), PROMPT, paths.root)
    found = []
    for name in _ONLINE:
        run = paths.root / COMPARE_DIR / name
        if not _result_file(paths, name).is_file():
            continue
        files = sorted((run / ppo.ROLLOUTS_DIR).iterdir())
        rollouts = pa.concat_tables([pq.read_table(file, schema=RESPONSE) for file in files])
        points = proxy_gold(score_responses(rollouts, prompts.records))
        costs = [{key: row[key] for key in row if key.startswith(("cost_", "lagrange_"))} for row in read_metrics(run)]
        found.append(Curve(name, points, costs))
    return found


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="What to train; default: all that has no result.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Directory of a finished `mmrlhf demo`.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of training.")] = 0,
) -> None:
    """Train the demo's SFT policy with every algorithm and compare: gold reward before and after, KL, minutes."""
    print(run_compare(root, names or [], seed))


if __name__ == "__main__":
    typer.run(main)
