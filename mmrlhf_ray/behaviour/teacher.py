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
from mmrlhf_ray.behaviour.ledger import UNASKED, Ledger, Pair, Vote
from mmrlhf_ray.behaviour.presses import Pressed, comparisons
from mmrlhf_ray.behaviour.reward import RewardEnsemble, RewardLearner, agreement
from mmrlhf_ray.behaviour.segments import Recorded, Replay, stacked
from mmrlhf_ray.config.behaviour import BehaviourConfig, PeopleAnnotators
from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.feedback.regions import REACTION_S

_NEWEST = 200
"""Segments whose rewards have mean 0 and the deviation of the configuration, and that keys are pressed over."""
_POLL_S = 2.0
_PART_S = REACTION_S[1] - REACTION_S[0]
"""Of a clip, that a press is about."""
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
        self._pressed: set[str] = set()
        """Ids of answers by keys, each heard."""
        if self._people is not None:
            self._people.ask(self.ledger.open_pairs(self._overlap))
            self._people.show(self.ledger.clips.values())

    @property
    def ensemble(self) -> RewardEnsemble:
        return self.learner.ensemble

    @property
    def answers(self) -> int:
        """Votes, or clips that keys were pressed over."""
        return len(self._pressed) if self._by_keys else len(self.ledger.votes)

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
        if self._people is not None:
            self.hear()  # what waits is counted
        count = due(self._cfg.ask, step, self._cfg.steps) - self.ledger.asked
        if self._people is not None:  # who are slower than the run: what waits grows stale
            count = min(count, self._cfg.ask.first - self._waiting)
        rng = np.random.default_rng([self._cfg.seed, _ASKING, step, len(self.ledger.pairs) + len(self.ledger.clips)])
        if count > 0 and self.seen > 1:
            (self._show_clips if self._by_keys else self._ask_pairs)(count, step, rng)
        self.hear()

    def hear(self) -> int:
        """Take the votes that there are; how many answers were new."""
        if self._people is not None:
            if self._by_keys:
                return sum(map(self._hear_presses, self._people.presses(self.ledger.clips)))
            return self.ledger.add(self._people.votes(self.ledger.pairs))
        known = {segment.name: segment for segment in self._pool}
        return sum(self.ledger.add([self._vote(pair, known)]) for pair in self.ledger.open_pairs())

    def wait(self, votes: int) -> None:
        """Wait for people's votes. Raises RunFailed where none comes for as long as the configuration says."""
        section = self._cfg.annotators
        if not isinstance(section, PeopleAnnotators):
            return
        until = time.monotonic() + section.wait_s
        while self.answers < votes:
            if self.hear():
                until = time.monotonic() + section.wait_s
            elif time.monotonic() > until:
                raise RunFailed(
                    f"annotators.wait_s={section.wait_s:g}: no vote came for so long; {self.answers} of "
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
        self.ensemble.normalise(stacked([r.segment for r in list(self._pool)[-_NEWEST:]]))
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
            pair = self.ledger.ask(better, other, UNASKED)
            self.ledger.add([Vote(f"{pair.pair_id}-demonstration", pair.pair_id, "demonstration", "left")])

    def _shown(self, replays: Sequence[Replay]) -> list[Recorded]:
        """All segments of some episodes."""
        steps = self._cfg.segments.steps
        ends = [(r, end) for r in replays for end in range(steps, len(r.actions) + 1, steps)]
        return [self._once_more(Replay(r.seed, r.actions[:end], steps)) for r, end in ends]

    @property
    def _overlap(self) -> int:
        return self._cfg.annotators.overlap if isinstance(self._cfg.annotators, PeopleAnnotators) else 1

    @property
    def _by_keys(self) -> bool:
        return isinstance(self._cfg.annotators, PeopleAnnotators) and self._cfg.annotators.by == "keys"

    @property
    def _waiting(self) -> int:
        """Questions that not all people whom they are for have answered."""
        if self._by_keys:
            return len(self.ledger.clips) - len(self._pressed) // self._overlap
        return len(self.ledger.open_pairs(self._overlap))

    def _ask_pairs(self, count: int, step: int, rng: np.random.Generator) -> None:
        ensemble = self.ensemble if self.ledger.votes else None
        chosen = choose_pairs(list(self._pool), count, self._cfg.ask, ensemble, rng)
        pairs = [self.ledger.ask(first, second, step) for first, second in chosen]
        if self._people is not None:
            self._people.ask(pairs)

    def _show_clips(self, count: int, step: int, rng: np.random.Generator) -> None:
        """Of the newest segments, since presses are about what the policy does now."""
        assert self._people is not None
        newest = [clip for clip in list(self._pool)[-_NEWEST:] if clip.name not in self.ledger.clips]
        chosen = [newest[place] for place in rng.permutation(len(newest))[:count]]
        for clip in chosen:
            self.ledger.show(clip)
        self._people.show(chosen)

    def _hear_presses(self, pressed: Pressed) -> int:
        """1 for an answer that is new. Its comparisons are the same however often they are made."""
        if pressed.answer_id in self._pressed:
            return 0
        clip = self.ledger.clips[pressed.clip]
        for better, worse in comparisons(pressed, clip, _PART_S, self._cfg.segments.frames_per_second):
            pair = self.ledger.ask(better, worse, UNASKED)
            vote = Vote(f"{pressed.answer_id}-{pair.pair_id}", pair.pair_id, pressed.annotator, "left")
            self.ledger.add([vote])
        self._pressed.add(pressed.answer_id)
        return 1

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
