"""The configuration of supervised training: SFT, reward models, preferences."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.base import LearnerUse, ModelConfig, ModelUse, TrainJobConfig
from mmrlhf_ray.config.environment import ToolsEnvironment
from mmrlhf_ray.config.rewards import JudgeReward


def _refuse_facts(cfg: TrainJobConfig) -> None:
    for key, data in (("data", cfg.data), ("eval_data", cfg.eval_data)):
        if data is not None and data.facts_column is not None:
            raise ValueError(
                f"{key}.facts_column={data.facts_column} is for reward models; a policy never sees facts, leave it out"
            )


class _WithTools(TrainJobConfig):
    """Jobs whose prompts may describe tools."""

    environment: ToolsEnvironment | None = None
    """Tools that prompts describe to the model, as in `ppo`, written by its own chat template in the same way as for
    sampling. Calls and what tools return stand in the records; nothing is called."""


class SFTConfig(_WithTools):
    """Supervised fine-tuning on DEMONSTRATION records."""

    feedback_coef: NonNegativeFloat = 0.0
    """λ of L′ = L + λH: how much rows with feedback ±1 count next to demonstrations; at 0 they count nothing."""

    @property
    def table(self) -> Literal["DEMONSTRATION"]:
        return "DEMONSTRATION"

    @model_validator(mode="after")
    def _without_facts(self) -> "SFTConfig":
        _refuse_facts(self)
        return self


class RewardModelConfig(_WithTools):
    """A reward model on PREFERENCE (bradley_terry) or RANKING records (plackett_luce, rating)."""

    objective: Literal["bradley_terry", "plackett_luce", "rating"] = "bradley_terry"
    """`bradley_terry`: pairs; `plackett_luce`: rankings; `rating`: ratings by aspect."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels believed wrong (bradley_terry)."""
    margin_coef: NonNegativeFloat = 0.0
    """How far apart scores must be, times the record's `margin` (bradley_terry)."""
    center_coef: NonNegativeFloat = 0.0
    """Weight of (r_chosen + r_rejected)², which keeps scores near zero (Eisenstein et al. 2023)."""
    aspects: dict[str, float] = Field(default_factory=dict)
    """Aspect of the ratings → its weight in the score; each gets its own head (rating)."""
    ensemble: PositiveInt = 1
    """Heads that each learn from their own resampling of the rows; their spread is the uncertainty."""
    lm_coef: NonNegativeFloat = 0.0
    """Weight of the preferred responses' mean negative log-likelihood next to the ranking loss (GRM, Yang et al. 2024);
    the vocabulary head stays as it is."""
    debias: tuple[Literal["length", "repetition"], ...] = ()
    """Measures of form whose part is taken out of the scores, as fitted to held-out responses."""
    score_scale: Literal["as_learned", "temperature", "standardise"] = "as_learned"
    """Each task's scale of the scores: as they come, so that differences are log odds on held-out pairs, or in units
    of the held-out scores' mean and standard deviation."""
    judges: tuple[JudgeReward, ...] = ()
    """Judges that are asked about the held-out pairs after training, to stand next to the model in the report."""
    adversarial_share: float = Field(0.0, ge=0, lt=1)
    """Share of each batch's rows whose worse response is made to fool (docs/reward-models.md); 0 = none."""
    adversarial_words: PositiveInt = 64
    """Most words of a response that is made to fool; give about as many as the policy may say."""
    adversarial_refusal: str = ""
    """The response that is better than any claim where a prompt's media were taken away."""

    @property
    def table(self) -> Literal["PREFERENCE", "RANKING"]:
        return "PREFERENCE" if self.objective == "bradley_terry" else "RANKING"

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {"model": ModelUse(self.model, any_head=True)}

    @property
    def trained(self) -> Mapping[str, LearnerUse]:
        return {"learner": LearnerUse(self.model, self.learner, scalar=True)}

    @property
    def held_for(self) -> str | None:
        return f"adversarial_share={self.adversarial_share:g}" if self.adversarial_share else None

    @model_validator(mode="after")
    def _fits_objective(self) -> "RewardModelConfig":
        if self.lm_coef and self.learner.engine.zero_stage == 3:
            raise ValueError(
                f"lm_coef={self.lm_coef:g} keeps the vocabulary head whole on every rank, which zero_stage=3 divides; "
                "use zero_stage 0, 1 or 2, or leave lm_coef out"
            )
        if self.judges and (self.eval_data is None or self.eval_data.streaming):
            raise ValueError("judges are asked about held-out records; give eval_data, not streamed, or leave them out")
        if len({judge.name for judge in self.judges}) < len(self.judges):
            raise ValueError(f"judges: names must be unique, got {[judge.name for judge in self.judges]}")
        if self.eval_data is None and (self.debias or self.score_scale != "as_learned"):
            raise ValueError(
                f"debias={list(self.debias)} and score_scale={self.score_scale} are fitted to held-out responses; give "
                "eval_data, or leave them out"
            )
        if self.objective == "rating" and self.score_scale == "temperature":
            raise ValueError(
                "score_scale=temperature makes log odds of differences, and those of objective=rating are ratings; "
                "use standardise or as_learned"
            )
        if self.objective == "rating" and self.adversarial_share:
            raise ValueError(
                f"adversarial_share={self.adversarial_share:g}: responses that are made to fool have no ratings, so "
                "they belong to objective=bradley_terry or plackett_luce; leave it out"
            )
        if (self.objective == "rating") != bool(self.aspects):
            raise ValueError(
                f"aspects belong to objective=rating; got objective={self.objective}, aspects={self.aspects}"
            )
        for key in ("label_smoothing", "margin_coef", "center_coef"):
            if self.objective != "bradley_terry" and getattr(self, key):
                raise ValueError(f"{key} belongs to objective=bradley_terry, not {self.objective}; leave it out")
        return self


_WITH_REFERENCE = frozenset({"dpo", "ipo", "kto", "bco", "mpo"})
"""Objectives that compare with a reference, whose log-probabilities are computed before training."""


class PreferenceConfig(_WithTools):
    """Direct preference training of a policy, without a reward model."""

    objective: Literal["dpo", "ipo", "kto", "orpo", "simpo", "bco", "mpo"] = "dpo"
    """The loss (docs/algorithms.md)."""
    reference: ModelConfig | None = None
    """`null` = `model` at the start of training. orpo and simpo use no reference."""
    beta: PositiveFloat = 0.1
    """Inverse temperature of the implicit reward; the weight of the odds ratio in orpo."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels believed wrong (cDPO)."""
    simpo_margin: NonNegativeFloat = 0.5
    """γ of SimPO."""
    sft_coef: NonNegativeFloat = 0.0
    """Weight of the chosen response's mean negative log-likelihood (dpo, ipo, simpo)."""
    desirable_weight: PositiveFloat = 1.0
    """λ_D of KTO: weight of liked responses."""
    undesirable_weight: PositiveFloat = 1.0
    """λ_U of KTO: weight of disliked responses."""
    mpo_weights: tuple[float, float, float] = (0.8, 0.2, 1.0)
    """Of DPO, BCO and SFT in mpo."""
    changed_token_weight: PositiveFloat | None = None
    """dpo: tokens that differ between chosen and rejected, and those that people marked, count this much, others 1
    (RLHF-V); `null` = sums."""
    margin_scale: NonNegativeFloat = 0.0
    """dpo: β grows with the record's margin m to β·(1 + margin_scale·(1 − exp(−margin_rate·m))) (MM-RLHF)."""
    margin_rate: PositiveFloat = 1.0
    """dpo: how soon a growing margin has its full effect, see `margin_scale`."""
    unpaired: bool = False
    """kto, bco: read DEMONSTRATION records with feedback ±1 instead of PREFERENCE records."""

    @property
    def table(self) -> Literal["DEMONSTRATION", "PREFERENCE"]:
        return "DEMONSTRATION" if self.unpaired else "PREFERENCE"

    @property
    def models(self) -> Mapping[str, ModelUse]:
        return {"model": ModelUse(self.model)} | ({"reference": ModelUse(self.reference)} if self.reference else {})

    @property
    def held_for(self) -> str | None:
        return f"objective={self.objective}" if self.objective in _WITH_REFERENCE else None

    @model_validator(mode="after")
    def _fits_objective(self) -> "PreferenceConfig":
        _refuse_facts(self)
        given = self.model_fields_set
        belongs = {
            "label_smoothing": {"dpo"},
            "simpo_margin": {"simpo"},
            "sft_coef": {"dpo", "ipo", "simpo"},
            "desirable_weight": {"kto"},
            "undesirable_weight": {"kto"},
            "mpo_weights": {"mpo"},
            "changed_token_weight": {"dpo"},
            "margin_scale": {"dpo"},
            "unpaired": {"kto", "bco"},
            "reference": _WITH_REFERENCE,
        }
        for key, objectives in belongs.items():
            default = type(self).model_fields[key].default
            if key in given and getattr(self, key) != default and self.objective not in objectives:
                raise ValueError(f"{key} belongs to objective {' or '.join(sorted(objectives))}, not {self.objective}")
        return self
