"""The base of every part of a configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, closed part of a configuration: unknown keys are errors.

    Validators are built at the first use: an actor is handed its parts made, and would build those of all jobs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
