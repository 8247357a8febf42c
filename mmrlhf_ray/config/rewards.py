"""Components that score a response: reward models, functions, remote services and judges, mixed with weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.paths import FunctionText
from mmrlhf_ray.config.section import Section


class CostConfig(Section):
    """The component is a cost: its mean is held under a bound by a Lagrange multiplier instead of weighted."""

    bound: float
    """What the component's mean may be at most."""
    multiplier_lr: PositiveFloat = 0.05
    """The multiplier grows by this · (mean cost − bound) in each step, and never below zero."""
    multiplier_damping: NonNegativeFloat = 0.0
    """Times (mean cost − bound) of the step before, on top of it: keeps multiplier and cost from swinging."""
    initial_multiplier: NonNegativeFloat = 1.0
    """The multiplier in the first step."""
    max_multiplier: PositiveFloat = 100.0
    """The multiplier never grows beyond this."""


class RewardComponent(Section):
    """Keys that every component has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The component's name in metrics; no two have the same."""
    weight: float = 1.0
    """May be negative for penalties that count upwards."""
    tasks: tuple[str, ...] | None = None
    """Only rows of these tasks are scored; `null` = all."""
    modalities: tuple[str, ...] | None = None
    """Only rows of these modalities, as in the column; `null` = all."""
    normalise: bool | Literal["group"] = False
    """In units of the component's running mean and standard deviation; `group`: of those of the responses to the same
    prompt, so that no component's scale hides another (GDPO)."""
    log_sigmoid_around: float | dict[str, float] | None = None
    """The number r becomes log σ(r − this), best the SFT policy's mean score: one number, or one for each task (Wang et
    al. 2024); `null` = r as it is."""
    cost: CostConfig | None = None
    per_turn: bool = False
    """Every turn of an episode is scored by itself, given all that came before it, and its number counts at the turn's
    last token instead of the response's, so that what followed from a turn is put down to it. Estimators that compare
    responses need `normalise: group` with it: in units of all turns of the responses to the same prompt."""
    on_missing: Literal["fail", "drop", "zero"] = "fail"
    """When no number comes back for a row: end the run, leave the row out of training, or count the component as 0."""

    @model_validator(mode="after")
    def _one_scale(self) -> "RewardComponent":
        if self.log_sigmoid_around is not None and (self.normalise or self.cost is not None):
            other = "normalise" if self.normalise else "cost"
            raise ValueError(
                f"log_sigmoid_around={self.log_sigmoid_around} and {other} both say in which units the component "
                "counts; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _turns_count_as_they_are(self) -> "RewardComponent":
        if self.per_turn and (self.normalise is True or self.cost is not None or self.log_sigmoid_around is not None):
            raise ValueError(
                "per_turn: each turn's reward counts as it is, or in units of its group; leave out cost and "
                "log_sigmoid_around, and set normalise to group or false"
            )
        return self


class ModelReward(RewardComponent):
    """A reward model, which sees the media."""

    kind: Literal["model"]
    model: ModelConfig
    """Reward model, as `mmrlhf reward-model` writes it."""
    uncertainty_coef: NonNegativeFloat = 0.0
    """Times the standard deviation of an ensemble's heads, subtracted from the score."""
    quantile: float | None = Field(None, ge=0, le=1)
    """The score is this quantile of an ensemble's heads, so that low ones are doubtful; `null` = their mean."""


class FluencyReward(RewardComponent):
    """Mean log p of the response's tokens under the reference, in nats: how usual its wording is."""

    kind: Literal["fluency"]

    @model_validator(mode="after")
    def _of_responses(self) -> "FluencyReward":
        if self.per_turn:
            raise ValueError("per_turn: fluency is of a response; leave it out")
        return self


class EnvironmentReward(RewardComponent):
    """What `environment` gives: the sum over an episode's turns."""

    kind: Literal["environment"]


class FunctionReward(RewardComponent):
    """A function: built in (`exact_match`) or the user's (`path/to/file.py:function`)."""

    kind: Literal["function"]
    function: FunctionText
    """A built-in function's name, or `path/to/file.py:function`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments passed on with each call."""
    convention: Literal["trl", "verl"] = "trl"
    """`f(prompts, completions, **columns) -> list[float | None]`, or
    `compute_score(data_source, solution_str, ground_truth, extra_info)`."""
    conversational: bool = False
    """Prompts and completions as lists of chat messages, not as text (`trl` only)."""
    ground_truth: str = "answer"
    """Key in `extras` that `verl` functions get as ground_truth."""
    deadline_s: PositiveFloat = 30.0
    """For one step's rows; the function's process is killed when it takes longer."""
    memory_mb: PositiveInt = 4096
    """Address space of the function's process."""


class RemoteReward(RewardComponent):
    """A service: POST {"prompts", "completions", "columns"} → {"scores": [number or null, …]}."""

    kind: Literal["remote"]
    url: str = Field(pattern=r"^https?://")
    """Address of the service."""
    token_env: str | None = None
    """Environment variable whose value is sent as bearer token."""
    batch_size: PositiveInt = 32
    """Responses of a request."""
    concurrency: PositiveInt = 4
    """Requests at one time."""
    timeout_s: PositiveFloat = 10.0
    """For one request."""
    attempts: PositiveInt = 4
    """How often a request is tried."""
    backoff_s: PositiveFloat = 0.25
    """Before the second attempt; doubled before each further one."""
    deadline_s: PositiveFloat = 120.0
    """For one step's rows."""


class RubricAspect(Section):
    """One thing that a judge grades."""

    description: str
    """What the aspect means, in words for the judge."""
    weight: PositiveFloat = 1.0
    """In the score, which is the weighted mean of the aspects' grades."""


class PairsConfig(Section):
    """A judge compares responses to one prompt, two at a time and each two twice, with sides swapped. A response's
    score is its win rate."""

    opponents: int | None = Field(None, ge=2, multiple_of=2)
    """How many responses of its group each one is compared with; `null` = all."""
    labels: tuple[str, str] = ("A", "B")
    """What the judge answers where the first or the second response is better."""
    tie: str = "tie"
    """What it answers where none is."""
    probabilities: bool = False
    """Take the probabilities of the two labels as the judge's first token instead of reading its last line."""

    @model_validator(mode="after")
    def _differ(self) -> "PairsConfig":
        said = [label.casefold() for label in (*self.labels, self.tie)]
        if len(set(said)) < len(said) or not all(label.strip() == label != "" for label in said):
            raise ValueError(f"labels and tie expect three different words, got {[*self.labels, self.tie]}")
        return self


class JudgeReward(RewardComponent):
    """A language model behind an OpenAI-compatible endpoint that grades responses, or compares them."""

    kind: Literal["judge"]
    base_url: str = Field(pattern=r"^https?://")
    """Address of the endpoint, before `/chat/completions`."""
    model: str
    """Name of the model there."""
    token_env: str | None = None
    """Environment variable whose value is sent as bearer token."""
    prompt: str
    """Text with {prompt}, {response} and {columns}; must ask for a number on the last line. With `aspects` it has
    {aspects} too, and must ask for a line `name: grade` for each; with `labels` it must ask for one of them alone; with
    `pairs` it has {first} and {second} instead of {response}, and must ask for one of the labels on the last line."""
    media: tuple[Literal["image", "audio", "video"], ...] = ()
    """Kinds of media that the judge is shown before its prompt, in the order in which prompt and turns show them; of
    the others it sees placeholders."""
    lowest: float = 0.0
    """The lowest grade."""
    highest: float = 10.0
    """The highest. Grades outside [lowest, highest] are missing; scores are grades scaled to [0, 1]."""
    aspects: dict[str, RubricAspect] = Field(default_factory=dict)
    """A rubric: name of what is graded → its meaning and weight; {} = one grade."""
    labels: dict[str, float] = Field(default_factory=dict)
    """Answer → score, such as {yes: 1, no: 0}: the score is expected over the probabilities that the judge gives to
    these as its first token; {} = what it writes is read."""
    pairs: PairsConfig | None = None
    """Compare responses to one prompt with each other; `null` = grade each by itself."""
    least_probability: float = Field(0.5, gt=0, le=1)
    """Labels that have less than this probability together are no answer: the judge meant to say something else."""
    samples: PositiveInt = 1
    """How often each question is asked; needs a `temperature` above 0."""
    samples_needed: PositiveInt | None = None
    """Of them, how many must be answered for a score; `null` = all."""
    aggregate: Literal["mean", "median"] = "mean"
    """Of the samples' scores."""
    temperature: NonNegativeFloat = 0.0
    """Of the judge's sampling."""
    max_tokens: PositiveInt = 256
    """Tokens of a judgement."""
    cached_answers: int = Field(4096, ge=0)
    """How many answers are kept, so that a question that was asked before is not asked again."""
    concurrency: PositiveInt = 8
    """Requests at one time."""
    timeout_s: PositiveFloat = 30.0
    """For one request."""
    attempts: PositiveInt = 4
    """How often a request is tried."""
    backoff_s: PositiveFloat = 0.5
    """Before the second attempt; doubled before each further one."""
    deadline_s: PositiveFloat = 300.0
    """For one step's rows."""

    @property
    def by_probability(self) -> bool:
        """Whether the judge's first token is what counts."""
        return bool(self.labels) or (self.pairs is not None and self.pairs.probabilities)

    @model_validator(mode="after")
    def _answers_can_be_read(self) -> "JudgeReward":
        if not self.lowest < self.highest:
            raise ValueError(f"lowest={self.lowest} must be below highest={self.highest}")
        wanted = ("{first}", "{second}") if self.pairs else ("{response}",)
        for place in (*wanted, *(("{aspects}",) if self.aspects else ())):
            if place not in self.prompt:
                raise ValueError(f"prompt must contain {place}, else the judge does not see what to judge")
        if self.pairs is not None and self.per_turn:
            raise ValueError("per_turn: turns of different episodes have nothing in common to compare; leave out pairs")
        ways = [name for name in ("aspects", "labels", "pairs") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are different ways to answer; leave all but one of them out")
        if len(self.labels) == 1:
            raise ValueError(f"labels expects two or more answers, got {self.labels}")
        return self

    @model_validator(mode="after")
    def _no_idle_keys(self) -> "JudgeReward":
        fields, idle = type(self).model_fields, dict[str, str]()
        if self.samples == 1:
            idle |= dict.fromkeys(("samples_needed", "aggregate"), "samples=1")
        if not self.by_probability:
            idle["least_probability"] = "without labels whose probabilities are taken"
        else:
            idle["max_tokens"] = "where the first token alone is read"
        if self.labels or self.pairs:
            idle |= dict.fromkeys(("lowest", "highest"), "without grades")
        for key, why in idle.items():
            if getattr(self, key) != fields[key].default:
                raise ValueError(f"{key} has no effect {why if ' ' in why else 'with ' + why}; leave it out")
        if self.samples > 1 and (self.temperature == 0 or self.by_probability):
            why = "probabilities are the same each time" if self.by_probability else "temperature=0 gives the same"
            raise ValueError(f"samples={self.samples}: {why}; set samples to 1, or change the other")
        if self.samples_needed is not None and self.samples_needed > self.samples:
            raise ValueError(f"samples_needed={self.samples_needed} is more than samples={self.samples}")
        return self

    def check_groups(self, samples: int, key: str) -> None:
        """Raise ValueError where there is nothing to compare. `samples`: responses to each prompt, as `key` has it."""
        if self.pairs is not None and samples < 2:
            raise ValueError(
                f"rewards.{self.name}.pairs compares the responses to one prompt; set {key} to 2 or more, got {samples}"
            )


Reward = Annotated[
    ModelReward | FluencyReward | EnvironmentReward | FunctionReward | RemoteReward | JudgeReward,
    Field(discriminator="kind"),
]
