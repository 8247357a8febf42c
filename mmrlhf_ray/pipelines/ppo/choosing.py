"""Prompts of a run that are skipped for their pass rates, and the scores that these are made of."""

import math
from dataclasses import dataclass
from statistics import fmean

import pyarrow as pa

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.config.selection import SelectionConfig
from mmrlhf_ray.pipelines.ppo.judged import Judged
from mmrlhf_ray.rewards.mixture import Mixed
from mmrlhf_ray.rollout.groups import group_rows
from mmrlhf_ray.rollout.selection import PassRates, Selection


@dataclass(frozen=True)
class Choosing:
    """`selection` of a run."""

    cfg: SelectionConfig
    steps: int
    """Of the run."""
    selection: Selection

    @classmethod
    def of(cls, cfg: PPOConfig, rows: int, known: PassRates) -> "Choosing | None":
        """None where every prompt is taken. `rows`: prompts that there are."""
        if cfg.selection is None:
            return None
        return cls(cfg.selection, cfg.steps, Selection(cfg.selection, cfg.seed, rows, known))

    @property
    def known(self) -> PassRates:
        """For a checkpoint."""
        return self.selection.known

    def divide(self, prompts: pa.Table, version: int) -> tuple[list[int], list[int]]:
        """Rows of ENCODED_PROMPT that are taken, and the positions of the others. `version`: steps that are done."""
        names, positions = (prompts.column(name).to_pylist() for name in ("prompt_id", "group_id"))
        taken, skipped = [], []
        for row, (name, position) in enumerate(zip(names, positions, strict=True)):
            if self.selection.takes(name, position, version / self.steps):
                taken.append(row)
            else:
                skipped.append(position)
        return taken, skipped

    def note(self, judged: Judged, mixed: Mixed) -> None:
        """Pass rates of prompts whose responses were judged. `mixed`: their scores."""
        table = judged.rollouts.table
        numbers = self._numbers(judged, mixed)
        names = table.column("prompt_id").to_pylist()
        for rows in group_rows(table).values():
            scores = [
                number for number in numbers[rows.start : rows.stop] if number is not None and math.isfinite(number)
            ]
            self.selection.note(names[rows.start], scores)

    def _numbers(self, judged: Judged, mixed: Mixed) -> list[float | None]:
        """Of each row; None where there is none."""
        if self.cfg.reward is not None:
            return list(judged.scores[self.cfg.reward].values)
        return [score if kept else None for score, kept in zip(mixed.scores, mixed.keep, strict=True)]

    def metrics(self) -> dict[str, float]:
        """`prompts_sampled`: prompts with a pass rate; `prompts_solved`: those of them of which all responses were
        solved; `pass_rate`: the mean, where there are any."""
        rates = list(self.known.rates.values())
        found = {"prompts_sampled": float(len(rates)), "prompts_solved": float(sum(rate == 1.0 for rate in rates))}
        return found | ({"pass_rate": fmean(rates)} if rates else {})

    def warnings(self) -> list[str]:
        """What happened since the last call that a user should know of."""
        count, self.selection.exhausted = self.selection.exhausted, 0
        if not count:
            return []
        return [
            f"selection: as many prompts in a row as there are were skipped, {count} times, and the next one was taken "
            "whatever its pass rate; raise selection.solved_rate or at_least, or end the run: most prompts are solved"
        ]
