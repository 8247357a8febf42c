"""Which responses fool a reward? Adversarial responses are scored alongside honest ones to the same prompts."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from mmrlhf_ray.config import FluencyReward, JudgeReward, ProbeRewardConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.records.quarantine import Rejected, settle
from mmrlhf_ray.data.records.readers import Records, write_records
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.probe.report import Probed, print_report, summarise
from mmrlhf_ray.pipelines.probe.rows import ProbeRows, Unusable, adversary, build_rows, choose
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.rewards.adversary import Honest
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rewards.negatives import negative_records
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts, rollouts_of
from mmrlhf_ray.rollout.groups import group_rows
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROBE, check
from mmrlhf_ray.workers.crew import Crew, crew, start_functions, start_references, start_scorers
from mmrlhf_ray.workers.roles.functions import Rewards
from mmrlhf_ray.workers.roles.reference import References

RESPONSES_FILE = "probe.parquet"
SUMMARY_FILE = "probe.json"
_ROWS_PER_CALL = 256


def run(cfg: ProbeRewardConfig) -> bool:
    """Write `probe.parquet` (PROBE) and `probe.json` and print what they say; returns whether every probe passed.

    There is nothing to resume: a probe starts over. Raises as preflight() and prepare().
    """
    with preflight(cfg, run_directory(cfg)) as checked:
        run_dir = checked.run_dir
        rows = prepare(cfg, checked.records["data"], run_dir)
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            table = _scored(cfg, rows)
        results = summarise(table, cfg.rewards, cfg.tolerated_share)
        pq.write_table(table, run_dir / RESPONSES_FILE)
        (run_dir / SUMMARY_FILE).write_text(json.dumps(summary(cfg, results), indent=2, ensure_ascii=False))
    print_report(results, cfg.tolerated_share)
    print(f"Figures: {run_dir / SUMMARY_FILE}. Responses: {run_dir / RESPONSES_FILE}")
    return all(result.passed for result in results)


def write_preferences(cfg: ProbeRewardConfig, out: Path) -> Path:
    """Write every probe of the chosen records to the directory `out` as PREFERENCE records, nothing scored; returns it.

    Of each, the honest response is preferred, and where media were swapped the one that is honest to what is shown.
    Raises as preflight() and choose(), and DataError where `out` holds something else.
    """
    with preflight(cfg, run_directory(cfg)) as checked:
        chosen, honest = choose(checked.records["data"], cfg.where, cfg.prompts, cfg.seed)
        made = adversary(cfg, chosen, honest)
        rows = [Honest(row, row["response"]) for row in chosen.records.to_pylist()]
        fooling = [own for number, row in enumerate(rows) for own in made.responses(number, row)]
        preferences = negative_records(fooling, "PREFERENCE")
        shown = pc.unique(pc.list_flatten(preferences["media_ids"]))
        write_records(out, preferences, chosen.media.filter(pc.is_in(chosen.media["media_id"], shown)))
    print(f"{len(preferences)} preferences of {len(rows)} prompts")
    return out


def summary(cfg: ProbeRewardConfig, results: list[Probed]) -> dict[str, Any]:
    """The contents of probe.json."""
    return {"tolerated_share": cfg.tolerated_share, "probes": {r.probe: asdict(r) for r in results}}


def prepare(cfg: ProbeRewardConfig, records: Records, run_dir: Path) -> ProbeRows:
    """Choose the records and write their probes. Raises DataError, or ConfigError for rows that fit into no pass."""
    chosen, honest = choose(records, cfg.where, cfg.prompts, cfg.seed)
    rows, unusable = build_rows(cfg, load_encoder(cfg.policy.path, allowed=cfg.sampling.allow_tokens), chosen, honest)
    _set_aside(cfg, chosen, unusable, run_dir)
    if all(isinstance(reward, JudgeReward) and reward.pairs for reward in cfg.rewards):
        print("Probes that change the media are left out: to a prompt with other media there is one response")
        rows = rows.comparable()
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
    remedy = "Fix the record or its media, or raise the limit that it exceeds"
    rejected = [
        Rejected(
            BadRow(chosen.file, chosen.rows[u.number], originals[u.number]["prompt_id"], u.reason, remedy),
            originals[u.number],
        )
        for u in unusable
    ]
    settle(rejected, len(originals) - len(rejected), chosen.file, cfg.data.on_bad_row, run_dir)


def _scored(cfg: ProbeRewardConfig, rows: ProbeRows) -> pa.Table:
    with crew(cfg, cfg.roles) as own:
        answers = _answers(cfg, own, rows)
    mixed = mix(cfg.rewards, answers, Rows.of(rows.rollouts), MixtureState.start(cfg.rewards))
    for warning in mixed.warnings:
        print(warning, file=sys.stderr)
    return probe_table(rows, answers, mixed.scores)


def _answers(cfg: ProbeRewardConfig, own: Crew, rows: ProbeRows) -> dict[str, ComponentScores]:
    """Every component's scores of all rows, in the order of `rewards`."""
    budget, models = PassBudget(cfg.score_micro_batch_tokens), [reward.model for reward in cfg.model_rewards]
    scorers = start_scorers(own, cfg, models, budget, [r.quantile for r in cfg.model_rewards]) if models else None
    functions = start_functions(own, cfg, rows.prompts) if cfg.function_rewards else None
    references = start_references(own, cfg, cfg.policy, 1.0, budget) if "reference" in cfg.roles else None
    for role in (scorers, functions, references):
        if role is not None:
            role.wait_ready(cfg.deadlines.start_s)
    rewards = Rewards(scorers, cfg.model_rewards, functions)
    features = {name: ray.put(features_table({name: own})) for name, own in rows.features.items()}
    media = dict.fromkeys(rows.media.column("media_id").to_pylist(), ray.put(rows.media))
    count = len(rows.rollouts)
    parts: list[dict[str, ComponentScores]] = []
    with Progress("probing", count, "response") as progress:
        for own_rows in _calls(rows.rollouts):
            table = rows.rollouts.slice(own_rows.start, len(own_rows)).combine_chunks()
            parts.append(_ask(cfg, rewards, references, rollouts_of(table, features, media=media)))
            progress.update(own_rows.stop, len(table))
    return {r.name: ComponentScores.concat([part[r.name] for part in parts]) for r in cfg.rewards}


def _calls(rollouts: pa.Table) -> list[range]:
    """Rows that are scored together: whole groups, which a judge may compare, of about _ROWS_PER_CALL rows."""
    calls = [range(0, 0)]
    for rows in group_rows(rollouts).values():
        if len(calls[-1]) >= _ROWS_PER_CALL:
            calls.append(range(rows.start, rows.start))
        calls[-1] = range(calls[-1].start, rows.stop)
    return calls


def _ask(
    cfg: ProbeRewardConfig, rewards: Rewards, references: References | None, rollouts: Rollouts
) -> dict[str, ComponentScores]:
    """Every component's scores of these rows."""
    scoring = rewards.ask(rollouts)
    referring = references.ask(rollouts) if references else None
    answers, _ = scoring.result()
    if referring is not None:
        means = referring.result()[0].means().tolist()
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
