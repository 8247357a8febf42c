"""State that every request needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from markupsafe import Markup

from mmrlhf_ray.config import FeedbackConfig, Language
from mmrlhf_ray.feedback.arena.asking import Arena
from mmrlhf_ray.feedback.collect.database import Database


@dataclass(frozen=True)
class AppState:
    """Held by the app as `app.state.feedback`."""

    config: FeedbackConfig
    database: Database
    guidelines: Mapping[Language, Markup] = field(default_factory=dict)
    """The project's own, as HTML."""
    arena: Arena | None = None
    """None where the configuration has none."""

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def guidelines_in(self, language: Language) -> tuple[Language, Markup] | None:
        """(language, HTML) of the guidelines in this language, else in the first that there is; None without any."""
        if language in self.guidelines:
            return language, self.guidelines[language]
        return next(iter(self.guidelines.items()), None)


def app_state(request: Request) -> AppState:
    """For Depends."""
    state: AppState = request.app.state.feedback
    return state


State = Annotated[AppState, Depends(app_state)]
