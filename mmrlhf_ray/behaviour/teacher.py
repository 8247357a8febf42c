"""People's side of a run: segments seen, pairs asked about, votes heard, and the reward models that learn from them."""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from mmrlhf_ray.behaviour.annotators import People, judge_of, noisy_vote
from mmrlhf_ray.behaviour.choosing import choose_pairs, due
from mmrlhf_ray.behaviour.env import RecordedEnv
from mmrlhf_ray.behaviour.episodes import again, read_replays, whole_env
from mmrlhf_ray.behaviour.ledger import SHOWN, Ledger, Pair, Vote
from mmrlhf_ray.behaviour.reward import RewardEnsemble, RewardLearner, agreement
from mmrlhf_ray.behaviour.segments import Recorded, Replay, stacked
from mmrlhf_ray.config.behaviour import BehaviourConfig, PeopleAnnotators
from mmrlhf_ray.errors import RunFailed

_NORMALISED_BY = 200
"""Newest segments whose rewards have mean 0 and the deviation of the configuration."""
_POLL_S = 2.0
_ASKING, _LEARNING, _SHOWING = range(3)
"""Streams of random numbers."""


class Teacher:
    """Of one run. close() it."""

    def __init__(
        self, cfg: BehaviourConfig, run_dir: Path, space: gymnasium.spaces.Dict, actions: Discrete | Box
    ) -> None:
        self._cfg = cfg
        self.ledger = Ledger(run_dir)
        self.learner = RewardLearner(RewardEnsemble(cfg.reward_model, space, actions, cfg.seed))
        self._pool: deque[Recorded] = deque(maxlen=cfg.segments.pool)
        self._judge = judge_of(cfg)
        self._people = People(cfg, cfg.annotators) if isinstance(cfg.annotators, PeopleAnnotators) else None
        self._again: RecordedEnv | None = None
        if self._people is not None:
            self._people.ask(self.ledger.open_pairs(self._overlap))

    @property
    def ensemble(self) -> RewardEnsemble:
        return self.learner.ensemble

    @property
    def seen(self) -> int:
        """Segments that questions can be chosen from."""
        return len(self._pool)

    def see(self, segments: Iterable[Recorded]) -> None:
        """Take segments that runners recorded."""
        self._pool.extend(segments)

    def ask(self, step: int) -> None:
        """Ask about as many pairs as are due before this step, and hear the votes that there are."""
        if step == 0:
            self._show()
        count = due(self._cfg.ask, step, self._cfg.steps) - self.ledger.asked
        if self._people is not None:  # who are slower than the run: what waits grows stale
            count = min(count, self._cfg.ask.first - len(self.ledger.open_pairs(self._overlap)))
        rng = np.random.default_rng([self._cfg.seed, _ASKING, step, len(self.ledger.pairs)])
        if count > 0 and self.seen > 1:
            ensemble = self.ensemble if self.ledger.votes else None
            chosen = choose_pairs(list(self._pool), count, self._cfg.ask, ensemble, rng)
            pairs = [self.ledger.ask(first, second, step) for first, second in chosen]
            if self._people is not None:
                self._people.ask(pairs)
        self.hear()

    def hear(self) -> int:
        """Take the votes that there are; how many were new."""
        if self._people is not None:
            return self.ledger.add(self._people.votes(self.ledger.pairs))
        known = {segment.name: segment for segment in self._pool}
        return sum(self.ledger.add([self._vote(pair, known)]) for pair in self.ledger.open_pairs())

    def wait(self, votes: int) -> None:
        """Wait for people's votes. Raises RunFailed where none comes for as long as the configuration says."""
        section = self._cfg.annotators
        if not isinstance(section, PeopleAnnotators):
            return
        until = time.monotonic() + section.wait_s
        while len(self.ledger.votes) < votes:
            if self.hear():
                until = time.monotonic() + section.wait_s
            elif time.monotonic() > until:
                raise RunFailed(
                    f"annotators.wait_s={section.wait_s:g}: no vote came for so long; {len(self.ledger.votes)} of "
                    f"{votes} are there. People vote at {section.url}; then use --resume"
                )
            else:
                time.sleep(_POLL_S)

    def learn(self, step: int) -> dict[str, float]:
        """Train the reward models on all votes; figures of it."""
        section = self._cfg.reward_model
        votes = self.ledger.material(section.members, section.heldout)
        if votes is None:
            raise RunFailed(
                "no one has voted, so that there is no reward to learn from; use --resume once there are votes"
            )
        if step == 0:
            self.ensemble.scale_inputs(stacked([r.segment for r in self._pool]))
        updates = section.first_updates if step == 0 else section.updates
        rng = np.random.default_rng([self._cfg.seed, _LEARNING, step])
        figures = {"pairs": self.ledger.asked, "votes": len(votes)}
        loss = self.learner.learn(votes, updates, rng)
        self.ensemble.normalise(stacked([r.segment for r in list(self._pool)[-_NORMALISED_BY:]]))
        agreed, held = agreement(self.ensemble, votes), ~votes.weights.any(0)
        # A vote that chance gave no weight is not learned from either; both are votes that were not seen.
        measured = {"reward_loss": loss, "agreement": _mean(agreed[~held]), "heldout_agreement": _mean(agreed[held])}
        return figures | {name: value for name, value in measured.items() if np.isfinite(value)}

    def state(self) -> Mapping[str, Any]:
        """For checkpoints; votes are on the disk already."""
        return self.learner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of state()."""
        self.learner.restore(state)

    def close(self) -> None:
        """Close what is open."""
        for opened in (self._judge, self._people, self._again):
            if opened is not None:
                opened.close()

    def _show(self) -> None:
        """Put segments of demonstrations above those of the first policy (Ibarz et al. 2018, "Reward learning from
        human preferences and demonstrations in Atari")."""
        section = self._cfg.demonstrations
        if section is None:
            return
        shown = self._shown(read_replays(Path(section.path)))
        rng = np.random.default_rng([self._cfg.seed, _SHOWING])
        for _ in range(section.pairs - (len(self.ledger.pairs) - self.ledger.asked)):
            better, other = shown[rng.integers(len(shown))], self._pool[rng.integers(self.seen)]
            pair = self.ledger.ask(better, other, SHOWN)
            self.ledger.add([Vote(f"{pair.pair_id}-demonstration", pair.pair_id, "demonstration", "left")])

    def _shown(self, replays: Sequence[Replay]) -> list[Recorded]:
        """All segments of some episodes."""
        steps = self._cfg.segments.steps
        ends = [(r, end) for r in replays for end in range(steps, len(r.actions) + 1, steps)]
        return [self._once_more(Replay(r.seed, r.actions[:end], steps)) for r, end in ends]

    @property
    def _overlap(self) -> int:
        return self._cfg.annotators.overlap if isinstance(self._cfg.annotators, PeopleAnnotators) else 1

    def _vote(self, pair: Pair, known: Mapping[str, Recorded]) -> Vote:
        """A judge's. What a run that was killed had not judged yet is played again."""
        assert self._judge is not None
        assert not isinstance(self._cfg.annotators, PeopleAnnotators)
        both = [known.get(replay.name) or self._once_more(replay) for replay in pair.replays]
        return noisy_vote(self._judge, pair, both[0], both[1], self._cfg.annotators.wrong, self._cfg.seed)

    def _once_more(self, replay: Replay) -> Recorded:
        self._again = self._again or whole_env(self._cfg)
        return again(self._again, replay)


def _mean(values: np.ndarray) -> float:
    told = values[np.isfinite(values)]
    return float(told.mean()) if len(told) else float("nan")
