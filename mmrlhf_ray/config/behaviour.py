"""Configuration of `mmrlhf behaviour`: behaviour in an environment, learned with RLlib from preferences over clips."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.base import ModelUse, RecordsUse, TrackedConfig
from mmrlhf_ray.config.discrete import EnvRunnersSection, LearnersSection
from mmrlhf_ray.config.discrete_parts import DQN, PPO
from mmrlhf_ray.config.paths import FunctionText, PathText
from mmrlhf_ray.config.placement import Resources
from mmrlhf_ray.config.rewards import CostConfig
from mmrlhf_ray.config.section import Section

LEAST_KEYS_S = 3.0
"""Seconds of a clip that keys are pressed over."""


class PictureSection(Section):
    """What the environment renders, as an observation next to its own."""

    height: PositiveInt = 64
    """Pixels."""
    width: PositiveInt = 64
    """Pixels."""


class EnvironmentSection(Section):
    """A Gymnasium environment."""

    id: str
    """As `gymnasium.make` takes it: `Reacher-v5`, `MinAtar/Breakout-v1`, `highway_env:highway-fast-v0`; what stands
    before a colon is imported first."""
    arguments: Mapping[str, Any] = {}
    """Further arguments of `gymnasium.make`."""
    episode_steps: PositiveInt | None = None
    """Every episode has this many steps: where the environment ends before, it starts anew without the policy being
    told, so that the end of an episode says nothing about the task. `null` = as the environment ends."""
    picture: PictureSection | None = None
    """`null` = what the environment itself shows is observed, and nothing is rendered in training."""
    facts: FunctionText | None = None
    """`file.py:function` that is given the environment after each step and returns a dictionary that judges see. It
    runs in a thread of its own: it reads the environment, and neither steps nor renders it."""
    facts_s: PositiveFloat = 10.0
    """Seconds for one answer of `facts`; where it takes longer, the run ends."""

    @model_validator(mode="after")
    def _facts_are_asked(self) -> "EnvironmentSection":
        if self.facts is None and self.facts_s != type(self).model_fields["facts_s"].default:
            raise ValueError(f"environment.facts_s={self.facts_s:g} has no effect without facts; leave it out")
        return self


class SegmentsSection(Section):
    """Pieces of behaviour that are compared."""

    steps: PositiveInt = 25
    """Length of each."""
    pool: int = Field(1000, ge=2)
    """Newest segments that questions are chosen from."""
    frames_per_second: PositiveInt = 10
    """Of clips."""


class SimulatedAnnotators(Section):
    """Annotators who see the environment's reward, which training never does."""

    kind: Literal["simulated"] = "simulated"
    wrong: float = Field(0.1, ge=0, lt=0.5)
    """Share of their votes that are the wrong way round."""


class ScriptAnnotators(Section):
    """A function of yours, for tasks without a reward function."""

    kind: Literal["script"]
    judge: FunctionText
    """`file.py:function`: judge(states_a, states_b) → left, right or tie. A state is a dictionary with `observation`,
    `action` and `facts`."""
    wrong: float = Field(0.0, ge=0, lt=0.5)
    """Share of its votes that are turned round."""
    deadline_s: PositiveFloat = 30.0
    """Seconds for one answer; a judge that takes longer ends the run."""


class PeopleAnnotators(Section):
    """People, through the feedback app; clips are put into its queue."""

    kind: Literal["people"]
    url: str = Field(pattern=r"^https?://")
    """Of `mmrlhf feedback serve`."""
    token_env: str = "MMRLHF_FEEDBACK_TOKEN"
    """Environment variable that holds the token of an account with the role admin."""
    by: Literal["pairs", "keys"] = "pairs"
    """`pairs`: which of two clips is better; `keys`: + and − are pressed while a clip plays, and the parts of the clip
    that they are about are compared."""
    question: str | None = None
    """What people are asked; `null` = a sentence that fits `by`."""
    overlap: PositiveInt = 1
    """People who are asked about each pair or clip."""
    wait_s: PositiveFloat = 3600.0
    """Seconds without a vote before the first step after which the run ends, to be resumed."""


Annotators = Annotated[SimulatedAnnotators | ScriptAnnotators | PeopleAnnotators, Field(discriminator="kind")]


class AskSection(Section):
    """Which pairs are asked about, and when."""

    pairs: PositiveInt = 700
    """Pairs asked about over the run, or clips that keys are pressed over; early steps ask more."""
    first: PositiveInt = 100
    """Of these, before the policy learns for the first time."""
    choose: Literal["disagreement", "random"] = "disagreement"
    """`disagreement`: the pairs whose preference the members disagree about most; `random`: any."""
    candidates: PositiveInt = 10
    """With `disagreement`: random pairs drawn for each that is asked."""

    @model_validator(mode="after")
    def _first_of_all(self) -> "AskSection":
        if self.first > self.pairs:
            raise ValueError(f"ask.first={self.first} must not be above ask.pairs={self.pairs}")
        return self


class DemonstrationsSection(Section):
    """Episodes that show the behaviour: each of their segments counts as better than one of the first policy's."""

    path: PathText
    """As `episodes-after.json` of a run, or written by `behaviour.episodes.write_replays` (docs/behaviour.md)."""
    pairs: PositiveInt = 100
    """Pairs of a shown segment and one of the policy, before the first step; beyond `ask.pairs`."""


class RewardEnsembleSection(Section):
    """Reward models over segments, trained again in every step as votes come."""

    members: PositiveInt = 3
    """Networks; the reward is their mean. Each weighs the votes by a bootstrap of its own."""
    hidden: tuple[PositiveInt, ...] = Field((64, 64), min_length=1)
    """Widths of the layers."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of AdamW."""
    batch_size: PositiveInt = 32
    """Pairs of an update."""
    updates: PositiveInt = 100
    """Updates in each step of the run."""
    first_updates: PositiveInt = 500
    """Updates before the first step."""
    label_noise: float = Field(0.1, ge=0, lt=1)
    """Share of votes that the likelihood takes to be random."""
    heldout: float = Field(0.1, ge=0, lt=1)
    """Share of votes that are never learned from, for the figure of agreement."""
    scale: PositiveFloat = 1.0
    """Standard deviation of the reward of a step, whose mean is 0."""


class BehaviourCostSection(CostConfig):
    """A cost of behaviour, whose mean over steps is held under a bound by a Lagrange multiplier."""

    of: str = "action"
    """`action` = mean square of the actions; else a key of the environment's `info`, such as `crashed`."""


class NetSection(Section):
    """The policy's networks. Pictures go through two convolutions first."""

    hidden: tuple[PositiveInt, ...] = Field((64, 64), min_length=1)
    """Widths of the layers."""


class BehaviourEvaluationSection(Section):
    """Episodes of the policy without chance in its actions, on seeds that training does not use."""

    episodes: PositiveInt = 20
    """Seeds."""
    worst: NonNegativeInt = 2
    """Episodes of the lowest return that the report shows as clips."""
    clip_steps: PositiveInt = 100
    """Steps of such a clip at most."""
    measure: FunctionText | None = None
    """`file.py:function`: measure(states) of an episode → a dictionary of figures."""
    deadline_s: PositiveFloat = 60.0
    """Seconds for one episode's figures."""


class BehaviourConfig(TrackedConfig):
    """Learning a behaviour from preferences over clips of it (Christiano et al. 2017)."""

    environment: EnvironmentSection
    segments: SegmentsSection = SegmentsSection()
    learn_from: Literal["votes", "environment"] = "votes"
    """`environment`: its own reward instead, for comparison; no one is asked."""
    annotators: Annotators = SimulatedAnnotators()
    """Who compares clips."""
    ask: AskSection = AskSection()
    demonstrations: DemonstrationsSection | None = None
    """`null` = none."""
    reward_model: RewardEnsembleSection = RewardEnsembleSection()
    cost: BehaviourCostSection | None = None
    """`null` = none."""
    net: NetSection = NetSection()
    algorithm: Annotated[PPO | DQN, Field(discriminator="kind")]
    """How the policy learns. A decision is a step of the environment."""
    steps: PositiveInt = 50
    """Steps of the run: in each, people are asked, the reward models learn, and the policy acts and learns."""
    decisions_per_step: PositiveInt = 4000
    """Steps of the environment in each."""
    env_runners: EnvRunnersSection = EnvRunnersSection()
    learners: LearnersSection = LearnersSection()
    evaluation: BehaviourEvaluationSection = BehaviourEvaluationSection()

    @property
    def roles(self) -> Mapping[str, Resources]:
        return {"env_runners": self.env_runners, "learners": self.learners}

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {}

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        return {}

    @model_validator(mode="after")
    def _fits(self) -> "BehaviourConfig":
        limit = self.environment.episode_steps
        if limit is not None and self.segments.steps > limit:
            raise ValueError(f"segments.steps={self.segments.steps} is above environment.episode_steps={limit}")
        if isinstance(self.annotators, PeopleAnnotators) and self.annotators.by == "keys":
            self._keys_fit()
        if self.learn_from == "environment" and self.demonstrations is not None:
            raise ValueError("demonstrations teach as votes do; with learn_from=environment leave them out")
        if self.learn_from == "environment" and self.cost is not None:
            raise ValueError(
                "cost is weighed against the reward that votes teach; with learn_from=environment leave it out"
            )
        return self

    def _keys_fit(self) -> None:
        seconds = self.segments.steps / self.segments.frames_per_second
        if seconds < LEAST_KEYS_S:
            raise ValueError(
                f"annotators.by=keys wants clips of at least {LEAST_KEYS_S:g} s to press in, but segments.steps="
                f"{self.segments.steps} at frames_per_second={self.segments.frames_per_second} last {seconds:g} s"
            )
        if self.demonstrations is not None:
            raise ValueError(
                "demonstrations compare whole segments, annotators.by=keys compares parts of them; leave one out"
            )
