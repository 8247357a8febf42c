"""Which responses fool a reward? Adversarial responses are scored beside honest ones to the same prompts."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mmrlhf_ray.config import FluencyReward, ProbeRewardConfig, RolePlacement
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.records.quarantine import Rejected, settle
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import check_same_tokens
from mmrlhf_ray.pipelines.probe.report import Probed, print_report, summarise
from mmrlhf_ray.pipelines.probe.rows import ProbeRows, Unusable, build_rows, choose
from mmrlhf_ray.pipelines.run_dir import check_models, check_reward_model, run_directory
from mmrlhf_ray.planning.placement import check_fits
from mmrlhf_ray.rewards.batch import Rows, extras_columns
from mmrlhf_ray.rewards.check import check_rewards
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rewards.user import with_absolute_path
from mmrlhf_ray.runtime.actors import ActorGroup, Seat, reserve
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import DEMONSTRATION, PROBE, check
from mmrlhf_ray.workers.crew import Reserved, absolute, device_of, seats
from mmrlhf_ray.workers.fleet import PendingScores, Rollouts, Servers
from mmrlhf_ray.workers.roles.functions import RewardFunctions
from mmrlhf_ray.workers.roles.servers import Reference, Scorer

RESPONSES_FILE = "probe.parquet"
SUMMARY_FILE = "probe.json"
_ROWS_PER_CALL = 256


def run(cfg: ProbeRewardConfig) -> bool:
    """Write `probe.parquet` (PROBE) and `probe.json` and print what they say; returns whether every probe passed.

    There is nothing to resume: a probe starts over. Raises as pipelines.ppo.run().
    """
    check_models(cfg.policy.path)
    for reward in cfg.model_rewards:
        check_reward_model(reward.model.path)
    check_same_tokens(cfg.policy.path, *(reward.model.path for reward in cfg.model_rewards))
    with run_directory(cfg) as run_dir:
        records = read_records(cfg.data, DEMONSTRATION, run_dir)
        check_rewards(cfg.rewards, extras_columns(records.records))
        rows = prepare(cfg, records, run_dir)
        with ray_session() as session:
            check_fits(cfg, session.resources.get("CPU", 0.0), session.resources.get("GPU", 0.0))
            table = _scored(cfg, rows)
        results = summarise(table, cfg.rewards, cfg.tolerated_share)
        pq.write_table(table, run_dir / RESPONSES_FILE)
        (run_dir / SUMMARY_FILE).write_text(json.dumps(summary(cfg, results), indent=2, ensure_ascii=False))
    print_report(results, cfg.tolerated_share)
    print(f"Figures: {run_dir / SUMMARY_FILE}. Responses: {run_dir / RESPONSES_FILE}")
    return all(result.passed for result in results)


def summary(cfg: ProbeRewardConfig, results: list[Probed]) -> dict[str, Any]:
    """What probe.json holds."""
    return {"tolerated_share": cfg.tolerated_share, "probes": {r.probe: asdict(r) for r in results}}


def prepare(cfg: ProbeRewardConfig, records: Records, run_dir: Path) -> ProbeRows:
    """Choose the records and write their probes. Raises DataError, or ConfigError for rows that fit into no pass."""
    chosen, honest = choose(records, cfg.where, cfg.prompts, cfg.seed)
    rows, unusable = build_rows(cfg, load_encoder(cfg.policy.path), chosen, honest)
    _set_aside(cfg, chosen, unusable, run_dir)
    names = ("facts_token_ids", "prompt_token_ids", "response_token_ids")
    longest = max(sum(map(len, row.values())) for row in rows.rollouts.select(list(names)).to_pylist())
    if longest > cfg.score_micro_batch_tokens:
        raise ConfigError(
            f"score_micro_batch_tokens={cfg.score_micro_batch_tokens} is less than the {longest} tokens of the longest "
            "row (facts, prompt with its media, response); raise it, or lower max_response_tokens"
        )
    return rows


def _set_aside(cfg: ProbeRewardConfig, chosen: Records, unusable: list[Unusable], run_dir: Path) -> None:
    originals = chosen.records.to_pylist()
    remedy = "Mend the record or its media, or raise the limit that it exceeds"
    rejected = [
        Rejected(
            BadRow(chosen.file, chosen.rows[u.number], originals[u.number]["prompt_id"], u.reason, remedy),
            originals[u.number],
        )
        for u in unusable
    ]
    settle(rejected, len(originals) - len(rejected), chosen.file, cfg.data.on_bad_row, run_dir)


@dataclass(frozen=True)
class _Judges:
    """Who scores; None where no reward asks for it."""

    scorers: Servers | None
    functions: ActorGroup | None
    reference: Servers | None


def _scored(cfg: ProbeRewardConfig, rows: ProbeRows) -> pa.Table:
    judges = _start(cfg, rows)
    features, count = ray.put(features_table(rows.features)), len(rows.rollouts)
    parts: list[dict[str, ComponentScores]] = []
    with Progress("probing", count, "response") as progress:
        for first in range(0, count, _ROWS_PER_CALL):
            table = rows.rollouts.slice(first, _ROWS_PER_CALL).combine_chunks()
            parts.append(_ask(cfg, judges, Rollouts(table, ray.put(table), features, 0.0)))
            progress.update(first + len(table), len(table))
        answers = {r.name: ComponentScores.concat([part[r.name] for part in parts]) for r in cfg.rewards}
        mixed = mix(cfg.rewards, answers, Rows.of(rows.rollouts), MixtureState.start(cfg.rewards))
        for warning in mixed.warnings:
            progress.note(warning)
    return probe_table(rows, answers, mixed.scores)


def _start(cfg: ProbeRewardConfig, rows: ProbeRows) -> _Judges:
    """Reserve all places, start everybody, wait until all are ready."""
    place, deadline = cfg.placement, cfg.deadlines
    everyone = [seat for role in cfg.roles for seat in _seats(cfg, role)]
    reserved = Reserved(reserve(everyone, place.strategy, deadline), tuple(everyone))
    arguments: dict[str, tuple[type, dict[str, Any]]] = {
        "scorer": (
            Scorer,
            {
                "models": [absolute(reward.model) for reward in cfg.model_rewards],
                "device": device_of(place.scorer, cfg.device),
            },
        ),
        "functions": (
            RewardFunctions,
            {
                "components": [with_absolute_path(reward) for reward in cfg.function_rewards],
                "prompts": rows.prompts,
                "model_path": absolute(cfg.policy).path,
            },
        ),
        "reference": (
            Reference,
            {"model": absolute(cfg.policy), "temperature": 1.0, "device": device_of(place.reference, cfg.device)},
        ),
    }
    groups = {
        role: reserved.role(role, kind, **given) for role, (kind, given) in arguments.items() if role in cfg.roles
    }
    for role, group in groups.items():
        group.wait(group.call("ready"), deadline.start_s, f"starting {role}")
    budget = PassBudget(cfg.score_micro_batch_tokens)
    return _Judges(
        scorers=Servers(groups["scorer"], "score", budget, deadline.stage_s) if "scorer" in groups else None,
        functions=groups.get("functions"),
        reference=Servers(groups["reference"], "logprobs", budget, deadline.stage_s) if "reference" in groups else None,
    )


def _seats(cfg: ProbeRewardConfig, role: str) -> list[Seat]:
    placed = getattr(cfg.placement, role)
    return seats(role, placed) if isinstance(placed, RolePlacement) else [Seat(f"{role}-0", placed)]


def _ask(cfg: ProbeRewardConfig, judges: _Judges, rollouts: Rollouts) -> dict[str, ComponentScores]:
    """Every component's scores of these rows."""
    facts = [len(f) for f in rollouts.table.column("facts_token_ids").to_pylist()]
    models = judges.scorers.ask(rollouts, extra_tokens=facts) if judges.scorers else None
    functions = judges.functions.handles[0].score.remote(rollouts.reference) if judges.functions else None
    reference = judges.reference.ask(rollouts) if judges.reference else None
    pending = PendingScores(models, cfg.model_rewards, functions, cfg.deadlines.stage_s)
    answers, _ = pending.result()
    if reference is not None:
        means = [float(row.mean()) for row in reference.result()[0]]
        answers |= {r.name: ComponentScores.of(means) for r in cfg.rewards if isinstance(r, FluencyReward)}
    return answers


def probe_table(rows: ProbeRows, answers: Mapping[str, ComponentScores], mixed: tuple[float, ...]) -> pa.Table:
    """PROBE of all rows; `answers` by component in the order of `rewards`."""
    by_component = [[math.nan if v is None else v for v in scores.values] for scores in answers.values()]
    columns = {
        "prompt_id": rows.prompt_ids,
        "task": rows.rollouts.column("task"),
        "modality": rows.rollouts.column("modality"),
        "probe": rows.probes,
        "text": rows.texts,
        "response_tokens": [len(ids) for ids in rows.rollouts.column("response_token_ids").to_pylist()],
        "score": mixed,
        "scores": [list(scores) for scores in zip(*by_component, strict=True)],
    }
    return check(pa.table(columns, schema=PROBE), PROBE, "probe_table")
