"""Which prompts are sampled when their turn comes, by how often they were solved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from mmrlhf_ray.algorithms.prompt_weights import easy_first_weight, frontier_weight
from mmrlhf_ray.config.selection import SelectionConfig


class SavedPassRates(TypedDict):
    """Of a checkpoint."""

    rates: dict[str, float]
    skipped_in_a_row: int


@dataclass(frozen=True)
class PassRates:
    """All that is known of the prompts."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """prompt_id → share of the responses that were solved when it was last sampled."""
    skipped_in_a_row: int = 0
    """Prompts since one was last taken."""

    def to_dict(self) -> SavedPassRates:
        """For checkpoints; JSON."""
        return {"rates": dict(self.rates), "skipped_in_a_row": self.skipped_in_a_row}

    @classmethod
    def from_dict(cls, state: SavedPassRates) -> "PassRates":
        """The inverse of `to_dict`."""
        return cls(state["rates"], state["skipped_in_a_row"])


def draw_probability(rate: float | None, cfg: SelectionConfig, progress: float) -> float:
    """The probability with which a prompt of pass rate `rate` is taken; 1 where it is None.

    The order's weight, but at least `at_least`; times `solved_rate` where all was solved. progress: share of the run's
    steps that are done.
    """
    if rate is None:
        return 1.0
    wanted = 1.0
    if cfg.order == "frontier":
        wanted = max(cfg.at_least, frontier_weight(rate))
    elif cfg.order == "easy_first":
        wanted = max(cfg.at_least, easy_first_weight(rate, progress, cfg.competence, cfg.competent_after))
    return wanted * (cfg.solved_rate if rate == 1.0 else 1.0)


class Selection:
    """Decides on one prompt after the other. Dice hang on the position drawn, so that a run that is resumed throws the
    same."""

    def __init__(self, cfg: SelectionConfig, seed: int, epoch: int, known: PassRates):
        """`epoch`: prompts that there are."""
        self._cfg, self._seed, self._epoch = cfg, seed, epoch
        self._rates, self._skipped = dict(known.rates), known.skipped_in_a_row
        self.exhausted = 0
        """How often a prompt was taken only because an entire epoch before it was skipped, since a caller last cleared
        this."""

    @property
    def known(self) -> PassRates:
        """For a checkpoint."""
        return PassRates(dict(self._rates), self._skipped)

    def takes(self, prompt_id: str, position: int, progress: float) -> bool:
        """Whether the prompt at `position` is sampled. After as many skipped as there are prompts the next is taken
        whatever its pass rate: a run in which everything is solved goes on, and says so."""
        probability = draw_probability(self._rates.get(prompt_id), self._cfg, progress)
        taken = np.random.default_rng((self._seed, position, _DICE)).random() < probability
        if not taken and self._skipped >= self._epoch:
            taken, self.exhausted = True, self.exhausted + 1
        self._skipped = 0 if taken else self._skipped + 1
        return taken

    def note(self, prompt_id: str, scores: list[float]) -> None:
        """Scores of a prompt's responses that have one; without any the pass rate stays as it was."""
        if scores:
            self._rates[prompt_id] = sum(score >= self._cfg.solved_at for score in scores) / len(scores)


_DICE = 0x5E1EC7
"""Sets these dice apart from others of the same seed and position."""
