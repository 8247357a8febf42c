"""The value of the demo's responses: gold scores, summaries with intervals, comparison, and the bars to pass."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.segment import Segments
from rich.table import Table

from mmrlhf_ray.algorithms.statistics import Interval, WinTieLoss, mean_interval, wilson_interval, win_tie_loss
from mmrlhf_ray.demo.gold import GoldScore, gold_reward
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import PROMPT, RESPONSE, check

TIE = 0.05
"""Gold rewards this close are a tie: a few tokens of length, not a better answer."""
GOLD_GAIN = 0.15
"""Gold reward that PPO must add to SFT's."""

_WIDEST = 200


@dataclass(frozen=True)
class ScoredResponse:
    """One row of a RESPONSE table with its gold score. Columns as in the schema."""

    step: int
    policy: str
    media: str
    prompt_id: str
    task: str
    modality: str
    text: str
    finish_reason: str
    response_tokens: int
    score: float
    kl: float
    gold: GoldScore


@dataclass(frozen=True)
class GroupSummary:
    """Means over `n` responses. accuracy and gold with 95 % intervals; proxy and kl are NaN where not asked for."""

    n: int
    accuracy: Interval
    grounded: float
    gold: Interval
    proxy: float
    kl: float
    response_tokens: float
    unfinished: float


@dataclass(frozen=True)
class PolicySummary:
    """`overall`, and the same per task and per modality."""

    overall: GroupSummary
    by_task: Mapping[str, GroupSummary]
    by_modality: Mapping[str, GroupSummary]


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline on gold reward, prompt by prompt; `outcome.net` is (wins − losses) / n."""

    outcome: WinTieLoss
    tolerance: float


@dataclass(frozen=True)
class Bar:
    """One requirement of a run: what was measured, what was required, whether it passed."""

    name: str
    passed: bool
    measured: str
    required: str


@dataclass(frozen=True)
class Verdict:
    """Everything that is concluded from the held-out responses of SFT, PPO, and PPO with swapped media."""

    sft: PolicySummary
    ppo: PolicySummary
    swapped: PolicySummary
    comparison: Comparison
    bars: tuple[Bar, ...]

    @property
    def passed(self) -> bool:
        return all(bar.passed for bar in self.bars)


def score_responses(responses: pa.Table, prompts: pa.Table) -> list[ScoredResponse]:
    """Gold score of every row of a RESPONSE table; `prompts` (PROMPT) holds the ground truth in `extras`.

    Responses to swapped media are held against the prompt's own truth. Raises DataError for an unknown prompt.
    """
    check(responses, RESPONSE, "demo scoring")
    check(prompts, PROMPT, "demo scoring")
    truth = {
        prompt_id: json.loads(extras)
        for prompt_id, extras in zip(prompts["prompt_id"].to_pylist(), prompts["extras"].to_pylist(), strict=True)
    }
    scored = []
    own = [field.name for field in fields(ScoredResponse) if field.name != "gold"]
    for row_number, row in enumerate(responses.select(own).to_pylist()):
        extras = truth.get(row["prompt_id"])
        if extras is None:
            raise DataError(
                f"responses row {row_number}: prompt_id {row['prompt_id']!r} is not among the {len(truth)} prompts; "
                "pass the PROMPT table that was answered"
            )
        gold = gold_reward(row["text"], row["finish_reason"], row["response_tokens"], extras)
        scored.append(ScoredResponse(**row, gold=gold))
    return scored


def summarise(scored: Sequence[ScoredResponse]) -> PolicySummary:
    """Summary of one policy's responses, overall and per task and modality. Raises DataError when there are none."""
    if not scored:
        raise DataError("summarise: there are no responses to summarise")
    return PolicySummary(
        overall=_summarise_group(scored),
        by_task=_by(scored, lambda response: response.task),
        by_modality=_by(scored, lambda response: response.modality),
    )


def compare(candidate: Sequence[ScoredResponse], baseline: Sequence[ScoredResponse]) -> Comparison:
    """Win, tie, loss of the candidate on gold reward, paired by prompt (means over a prompt's samples)."""
    ours, theirs = _gold_by_prompt(candidate), _gold_by_prompt(baseline)
    unpaired = sorted(ours.keys() ^ theirs.keys())
    if unpaired:
        raise DataError(
            f"compare: both policies must answer the same prompts; {len(unpaired)} are answered by one alone, "
            f"the first is {unpaired[0]!r}"
        )
    order = sorted(ours)
    outcome = win_tie_loss([ours[p] for p in order], [theirs[p] for p in order], TIE)
    return Comparison(outcome, TIE)


def bars(sft: PolicySummary, ppo: PolicySummary, comparison: Comparison) -> list[Bar]:
    """The bars that PPO must pass against SFT."""
    before, after, outcome = sft.overall, ppo.overall, comparison.outcome
    return [
        Bar(
            f"Gold reward at least {GOLD_GAIN} above SFT's",
            after.gold.estimate >= before.gold.estimate + GOLD_GAIN,
            f"{after.gold.estimate:.3f}",
            f"≥ {before.gold.estimate + GOLD_GAIN:.3f}",
        ),
        Bar(
            "More wins than losses against SFT, 95 % interval above zero",
            outcome.net.low > 0,
            f"{outcome.wins} : {outcome.losses}, wins − losses {outcome.net}",
            "lower end > 0",
        ),
        Bar(
            "Accuracy not below SFT's 95 % interval",
            after.accuracy.estimate >= before.accuracy.low,
            f"{after.accuracy.estimate:.3f}",
            f"≥ {before.accuracy.low:.3f}",
        ),
    ]


def media_bar(own: PolicySummary, swapped: PolicySummary) -> Bar:
    """Does the policy look and listen? Both summaries are of the same prompts, all with media."""
    return Bar(
        "Swapping the media costs accuracy (95 % intervals apart)",
        swapped.overall.accuracy.high < own.overall.accuracy.low,
        str(swapped.overall.accuracy),
        f"upper end < {own.overall.accuracy.low:.3f}",
    )


def judge(prompts: pa.Table, sft: pa.Table, ppo: pa.Table, swapped: pa.Table) -> Verdict:
    """Score, summarise and compare the held-out RESPONSE tables of the three rows of the result table."""
    scored_sft, scored_ppo = score_responses(sft, prompts), score_responses(ppo, prompts)
    scored_swapped = score_responses(swapped, prompts)
    before, after = summarise(scored_sft), summarise(scored_ppo)
    comparison = compare(scored_ppo, scored_sft)
    # Prompts of text alone have no media to swap: the ablation is judged on the others.
    ablated = [response for response in scored_swapped if response.modality != "text"]
    asked = {response.prompt_id for response in ablated}
    own = [response for response in scored_ppo if response.prompt_id in asked]
    found = [*bars(before, after, comparison), media_bar(summarise(own), summarise(ablated))]
    return Verdict(before, after, summarise(scored_swapped), comparison, tuple(found))


def print_table(verdict: Verdict, console: Console | None = None) -> None:
    """Print the result table, the comparison and the bars."""
    console = console or Console()
    title = f"{verdict.ppo.overall.n} held-out responses"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, summary in rows(verdict):
        # Intervals go below their estimates, so that the table fits 80 columns.
        table.add_row(name.replace(", ", ",\n"), *(cell.replace(" [", "\n[") for cell in cells(summary.overall)))
    # Figures are never cut: a table that is too wide for the terminal runs over its edge.
    lines = console.render(table, console.options.update(width=max(console.width, _WIDEST)))
    console.print(Segments(lines), crop=False, end="")
    outcome = verdict.comparison.outcome
    console.print(
        f"PPO against SFT on gold reward: {outcome.wins} wins, {outcome.ties} ties, {outcome.losses} losses; "
        f"wins − losses {outcome.net} (95 % interval)",
        highlight=False,
    )
    for bar in verdict.bars:
        mark = "[green]passed[/green]" if bar.passed else "[bold red]MISSED[/bold red]"
        console.print(f"{mark}  {bar.name}: {bar.measured} (required {bar.required})", highlight=False)


COLUMNS = ("accuracy", "grounded", "gold", "proxy", "KL", "length")


def rows(verdict: Verdict) -> tuple[tuple[str, PolicySummary], ...]:
    """The rows of the result table, in order."""
    return (("SFT", verdict.sft), ("PPO", verdict.ppo), ("PPO, media swapped", verdict.swapped))


def cells(group: GroupSummary) -> tuple[str, ...]:
    """`group` as text, one cell for each of COLUMNS. KL in nats per response, length in tokens."""
    return (
        str(group.accuracy),
        number(group.grounded),
        str(group.gold),
        number(group.proxy),
        number(group.kl, 2),
        number(group.response_tokens, 1),
    )


def number(value: float, digits: int = 3) -> str:
    """`value` with fixed digits; a dash where there is none, and no sign where it is zero."""
    return "–" if not np.isfinite(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def _by(scored: Sequence[ScoredResponse], key: Callable[[ScoredResponse], str]) -> dict[str, GroupSummary]:
    groups: dict[str, list[ScoredResponse]] = {}
    for response in scored:
        groups.setdefault(key(response), []).append(response)
    return {name: _summarise_group(groups[name]) for name in sorted(groups)}


def _summarise_group(scored: Sequence[ScoredResponse]) -> GroupSummary:
    correct = sum(response.gold.correct for response in scored)
    return GroupSummary(
        n=len(scored),
        accuracy=wilson_interval(correct, len(scored)),
        grounded=_mean([response.gold.grounded for response in scored]),
        gold=mean_interval([response.gold.total for response in scored]),
        proxy=_mean([response.score for response in scored]),
        kl=_mean([response.kl for response in scored]),
        response_tokens=_mean([response.response_tokens for response in scored]),
        unfinished=_mean([response.finish_reason != "stop" for response in scored]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values, dtype=np.float64))


def _gold_by_prompt(scored: Sequence[ScoredResponse]) -> dict[str, float]:
    totals: dict[str, list[float]] = {}
    for response in scored:
        totals.setdefault(response.prompt_id, []).append(response.gold.total)
    return {prompt_id: _mean(values) for prompt_id, values in totals.items()}
