"""State that every request needs."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.database import Database


@dataclass(frozen=True)
class AppState:
    """Held by the app as `app.state.feedback`."""

    config: FeedbackConfig
    database: Database

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)


def app_state(request: Request) -> AppState:
    """For Depends."""
    state: AppState = request.app.state.feedback
    return state


State = Annotated[AppState, Depends(app_state)]
