"""Configuration of the loop: sample, ask people, learn from their votes, and again."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from mmrlhf_ray.config.base import Longest, ModelConfig, ModelUse, RecordsUse, RunConfig
from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.config.feedback import FeedbackConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import PPOConfig, SamplingConfig
from mmrlhf_ray.config.placement import Placement, Resources
from mmrlhf_ray.config.problems import problem
from mmrlhf_ray.config.rewards import FunctionReward, JudgeReward, RemoteReward
from mmrlhf_ray.config.section import Section
from mmrlhf_ray.config.supervised import PreferenceConfig, RewardModelConfig

TextReward = Annotated[FunctionReward | RemoteReward | JudgeReward, Field(discriminator="kind")]
"""A reward that is computed from text, without a model of ours."""

_STAND_IN: Mapping[str, Any] = {"path": "."}
_SHARED: dict[str, Any] = {"name": "round", "output_dir": ".", "seed": 0, "device": "cpu", "deadlines": {}}
_TRAINED = {"model": _STAND_IN, "data": _STAND_IN, "eval_data": _STAND_IN, "sampling": {}}
REWARD_MODEL_KEYS: dict[str, Any] = _SHARED | _TRAINED
"""Keys of a reward-model job that the loop sets → what stands in for them while the others are checked."""
PPO_KEYS: dict[str, Any] = _SHARED | {"policy": _STAND_IN, "reference": None, "data": _STAND_IN}
PREFERENCE_KEYS: dict[str, Any] = REWARD_MODEL_KEYS | {"reference": None, "unpaired": False}
SERVE_KEYS: dict[str, Any] = {"data_dir": ".", "database": None}
_REWARD = {"name": "reward_model", "kind": "model", "model": _STAND_IN}


def _as_job(
    kind: type[Section],
    set_here: Mapping[str, Any],
    needed: Mapping[str, Any],
    keys: dict[str, Any],
    info: ValidationInfo,
) -> dict[str, Any]:
    """`keys` checked as a job of that kind, paths resolved. `set_here`: what the loop sets; `needed`: what it adds.

    Raises ValueError with every problem, and for a key that the loop sets.
    """
    taken = sorted(keys.keys() & set_here.keys())
    if taken:
        raise ValueError(f"{taken[0]} is set by the loop; leave it out")
    values = json.dumps({**needed, **set_here, **keys}, default=str)
    try:
        job = kind.model_validate_json(values, strict=True, context=info.context)
    except ValidationError as error:
        raise ValueError("; ".join(problem(d, kind) for d in error.errors(include_url=False))) from error
    return job.model_dump(mode="json", include=set(keys), exclude_unset=True)


RewardModelKeys = Annotated[dict[str, Any], AfterValidator(partial(_as_job, RewardModelConfig, REWARD_MODEL_KEYS, {}))]
PPOKeys = Annotated[dict[str, Any], AfterValidator(partial(_as_job, PPOConfig, PPO_KEYS, {"rewards": [_REWARD]}))]
PreferenceKeys = Annotated[dict[str, Any], AfterValidator(partial(_as_job, PreferenceConfig, PREFERENCE_KEYS, {}))]
ServeKeys = Annotated[dict[str, Any], AfterValidator(partial(_as_job, FeedbackConfig, SERVE_KEYS, {}))]


class SampleSection(SamplingConfig):
    """Responses that pairs are chosen from."""

    n_samples_per_prompt: int = Field(4, ge=2)
    """Responses to each prompt."""
    prompts: PositiveInt | None = None
    """How many prompts are drawn in each round; `null` = all."""

    @model_validator(mode="after")
    def _differ(self) -> "SampleSection":
        self.refuse_greedy("all responses to a prompt would be the same", "sample")
        return self


class AskSection(Section):
    """The questions that people are asked."""

    pairs: PositiveInt = 200
    """In each round."""
    selection: Literal[
        "random",
        "disagreement",
        "disagreement_votes",
        "margin",
        "diversity",
        "disagreement_diversity",
        "disagreement_random",
    ] = "random"
    """Which of the pairs are asked. Those that need scores are random in the first round, unless
    `reward_model.scorer` is given; disagreement needs an `ensemble` of two or more."""
    candidates_per_prompt: PositiveInt = 3
    """Pairs of different responses to one prompt that are chosen from."""
    overlap: PositiveInt = 3
    """People who answer each question."""
    question: Literal["pair", "rank", "rate"] = "pair"
    """How people compare the two responses."""
    arena: bool = False
    """Learn from the votes of the server's arena as well: those that are there when a round makes its labels."""

    @property
    def needs_scores(self) -> bool:
        """Whether a reward model must have scored the candidates."""
        return self.selection not in ("random", "diversity")


class FeedbackSection(Section):
    """The feedback server: one that runs, or one for this run alone."""

    url: str | None = Field(None, pattern=r"^https?://")
    """Address of a feedback server that runs."""
    token_env: str = "MMRLHF_FEEDBACK_TOKEN"
    """With `url`: environment variable that holds the token of an account with the role admin."""
    serve: ServeKeys | None = None
    """Keys of `mmrlhf feedback serve`, {} for all defaults: the app is started, with its data in `<run>/feedback`."""

    @model_validator(mode="after")
    def _one_server(self) -> "FeedbackSection":
        if (self.url is None) == (self.serve is None):
            raise ValueError("give exactly one of url and serve; `serve: {}` starts the app for this run")
        return self


class WaitSection(Section):
    """When there are enough votes."""

    enough: float = Field(1.0, gt=0, le=1)
    """Share of the round's questions that have all their votes."""
    deadline_s: PositiveFloat = 7 * 86_400.0
    """After which the run ends with an error; `--resume` waits again."""
    poll_s: PositiveFloat = 5.0
    """Seconds between two looks at the votes."""


class AnnotatorsSection(Section):
    """Programs that answer in people's place, through the same HTTP API."""

    module: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    """Run as `python -m` once for each annotator; what it reads is in docs/feedback.md."""
    count: PositiveInt = 5
    """How many of them there are."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed on to the program."""


class RewardModelSection(Section):
    """The reward model that each round trains on all votes so far."""

    base: ModelConfig | None = None
    """Starting point of the first round's training; `null`: the policy that the loop starts with."""
    start: Literal["previous", "first"] = "first"
    """Starting point of later rounds' training, always with a new head: `base` again, or the reward model of the round
    before, which is quicker and was less accurate (docs/feedback.md)."""
    scorer: ModelConfig | None = None
    """A reward model that is there already, for the selection of the first round's questions."""
    consensus: Literal["majority", "dawid_skene"] = "majority"
    """How several votes on one pair become a preference."""
    heldout_share: float = Field(0.1, ge=0, lt=1)
    """Of the prompts; their pairs measure the reward model and never train it."""
    job: RewardModelKeys
    """Other keys of a `reward-model` job, such as `epochs`, `ensemble`, `batch_size`."""


class TrainSection(Section):
    """How the policy learns: exactly one of the two jobs, its other keys as in a separate job file."""

    start: Literal["previous", "first"] = "previous"
    """Policy that each round trains on from: that of the round before, or the one that the loop starts with. It stays
    close to the latter either way."""
    ppo: PPOKeys | None = None
    """`rewards` given here are added to the round's reward model."""
    uncertainty_coef: NonNegativeFloat = 0.0
    """As of a model reward, of the round's reward model (ppo)."""
    preference: PreferenceKeys | None = None
    """Keys of a `preference` job."""

    @model_validator(mode="after")
    def _one_job(self) -> "TrainSection":
        if (self.ppo is None) == (self.preference is None):
            raise ValueError("give exactly one of ppo and preference")
        if self.preference is not None and self.uncertainty_coef:
            raise ValueError("uncertainty_coef belongs to ppo, which has a reward model; leave it out")
        return self


class EvaluateSection(Section):
    """The measure of whether a round was worth it."""

    data: DataConfig
    """Held-out prompts."""
    rewards: tuple[TextReward, ...] = ()
    """Their mixture is the primary reward, such as a benchmark's; `null` = the round's own reward model, which scores
    the policies before and after the round. Training never sees it."""
    n_samples_per_prompt: PositiveInt = 1
    """Responses of each policy to each prompt."""


class StopSection(Section):
    """A round improves when the 95 % interval of its gain in primary reward is above `min_gain`."""

    patience: PositiveInt = 1
    """Rounds in a row without improvement after which the loop stops."""
    min_gain: float = 0.0
    """Gain in primary reward that an improvement must be above."""


class IterateConfig(RunConfig):
    """`mmrlhf iterate`: from votes to a better policy, round by round."""

    rounds: PositiveInt = 3
    """At most."""
    policy: ModelConfig
    """Where the loop starts."""
    prompts: DataConfig
    """Prompts that people are asked about and the policy is trained on."""
    sample: SampleSection = SampleSection()
    ask: AskSection = AskSection()
    feedback: FeedbackSection
    wait: WaitSection = WaitSection()
    annotators: AnnotatorsSection | None = None
    """`null` = people."""
    reward_model: RewardModelSection
    train: TrainSection
    evaluate: EvaluateSection
    stop: StopSection = StopSection()
    generator: GeneratorConfig = GeneratorConfig()
    score_micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass of a scorer or reference server."""
    placement: Placement = Placement()
    """Of sampling, scoring and evaluation, and of PPO unless `train.ppo` says otherwise."""

    @model_validator(mode="after")
    def _stays_here(self) -> "IterateConfig":
        if self.run_url is not None:
            raise ValueError(
                f"output_dir={self.output_dir} is a URL, and the jobs of a loop read each other's files; give a "
                "directory, and copy it there when the loop is done"
            )
        return self

    @property
    def roles(self) -> Mapping[str, Resources]:
        """No actors for the loop itself: only the jobs of a round have them."""
        return {}

    @property
    def models(self) -> Mapping[str, ModelUse]:
        key, data = max(
            ("prompts", self.prompts), ("evaluate.data", self.evaluate.data), key=lambda own: own[1].most_prompt_tokens
        )
        longest = Longest(
            f"{key}.max_prompt_tokens + sample.max_response_tokens",
            data.most_prompt_tokens + self.sample.max_response_tokens,
        )
        found = {"policy": ModelUse(self.policy, reads=longest)}
        section = self.reward_model
        found |= {"reward_model.base": ModelUse(section.base, any_head=True, reads=longest)} if section.base else {}
        if section.scorer:
            found["reward_model.scorer"] = ModelUse(section.scorer, scores=True, reads=longest)
        return found

    @property
    def records(self) -> Mapping[str, RecordsUse]:
        return {
            "prompts": RecordsUse(self.prompts, "PROMPT", most_media=self.generator.most_media),
            "evaluate.data": RecordsUse(self.evaluate.data, "PROMPT", most_media=self.generator.most_media),
        }

    @model_validator(mode="after")
    def _agrees(self) -> "IterateConfig":
        self.placement.refuse_changing("generators join and leave in online training alone")
        members = self.reward_model.job.get("ensemble", 1)
        if self.ask.selection.startswith("disagreement") and members < 2:
            raise ValueError(
                f"ask.selection={self.ask.selection} needs members that can disagree; set reward_model.job.ensemble to "
                "2 or more"
            )
        if self.annotators is not None and self.annotators.count < self.ask.overlap:
            raise ValueError(
                f"annotators.count={self.annotators.count} is less than ask.overlap={self.ask.overlap}: no question "
                "would ever have its votes"
            )
        if self.ask.arena and self.feedback.serve is not None and not self.feedback.serve.get("arena"):
            raise ValueError(
                "ask.arena=true, but the app that feedback.serve starts has no arena; name its models in "
                "feedback.serve.arena, or give the feedback.url of a server that has one"
            )
        for key, data in (("prompts", self.prompts), ("evaluate.data", self.evaluate.data)):
            if data.streaming:
                raise ValueError(f"{key}.streaming: the loop holds all its prompts; leave it out")
        return self
