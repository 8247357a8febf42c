"""Configuration of the arena: served models that people compare blind."""

from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mmrlhf_ray.config.section import Section


class ArenaModel(Section):
    """A model behind an OpenAI-compatible endpoint, as `mmrlhf serve` gives one."""

    name: str = Field(min_length=1, max_length=60)
    """What the ratings, and the records of votes, call it."""
    base_url: str = Field(pattern=r"^https?://", max_length=2000)
    """Address of the endpoint, with its `/v1`; `/chat/completions` is asked."""
    model: str | None = None
    """Name by which the endpoint knows the model; `null` = the only one that it lists."""
    token_env: str | None = None
    """Environment variable with the endpoint's token; `null` = it wants none."""


class ArenaConfig(Section):
    """People ask, two models that are drawn answer, and the vote is cast before the names are shown."""

    models: tuple[ArenaModel, ...] = Field(min_length=2, max_length=26)
    """The models that may be drawn."""
    deadline_s: PositiveFloat = 60.0
    """Time that both models have together to answer; without both answers there is no vote."""
    max_tokens: PositiveInt = 512
    """Of each answer."""
    temperature: NonNegativeFloat | None = None
    """Of both models; `null` = as each endpoint has it."""
    at_once: PositiveInt = 8
    """Questions that are asked at one time; more are refused until one is answered."""
    max_media: PositiveInt = 4
    """Images, sounds and clips that a question may show."""
    keep_hours: PositiveFloat = 24.0
    """After that, answers without a vote are deleted."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"models must have different names, got {names}")
        return self
