"""Rules of one project of the feedback app."""

from typing import Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator

from mmrlhf_ray.config.feedback import Aspect, FeedbackConfig, Language
from mmrlhf_ray.config.section import Section

QuestionKind = Literal["pair", "rank", "rate", "correct", "demonstrate", "spans", "critique", "live"]


class ProjectConfig(Section):
    """What a project sets for itself; all else is as the app is configured."""

    title: str = Field("", max_length=80)
    """What people call it; its name where this is empty."""
    guidelines: dict[Language, str] = Field(default_factory=dict)
    """Markdown by language, `en` or `zh_CN`, shown at the top of the guide; those of the app where there are none."""
    kinds: tuple[QuestionKind, ...] = Field(get_args(QuestionKind), min_length=1)
    """Kinds of questions that it takes."""
    aspects: tuple[Aspect, ...] | None = Field(None, min_length=1, max_length=9)
    """Of its `rate` questions; `null` = those of the app."""
    overlap: PositiveInt | None = None
    """People for an item that does not say how many; `null` = as the app is configured."""
    priority: float = Field(0.0, allow_inf_nan=False)
    """Whoever does not choose a project gets items of the highest first."""
    quota_day: PositiveInt | None = None
    """Most votes of one person in a day (UTC); `null` = no limit."""
    quota: PositiveInt | None = None
    """Most votes of one person in all; `null` = no limit."""
    everyone: bool = True
    """Whether all annotators and reviewers take part; `false` = only those who were given a role in it."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        for name, values in (("kinds", self.kinds), ("aspects", [aspect.name for aspect in self.aspects or ()])):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must differ from each other, got {list(values)}")
        return self

    def in_force(self, config: FeedbackConfig) -> FeedbackConfig:
        """The app's configuration as it holds in this project."""
        own: dict[str, object] = {"aspects": self.aspects, "overlap": self.overlap}
        own = {key: value for key, value in own.items() if value is not None}
        return config.model_copy(update=own) if own else config
