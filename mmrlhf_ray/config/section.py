"""The base of every part of a configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, closed part of a configuration: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
