"""The app, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.app import (
    admin,
    admin_pages,
    api,
    arena,
    arena_pages,
    deployed,
    documentation,
    item_pages,
    items,
    language_pages,
    login,
    oidc,
    pages,
    progress_pages,
    project_pages,
    projects,
    review_pages,
    sheet_pages,
    vote_pages,
    watched,
)
from mmrlhf_ray.feedback.app.markdown import read_guidelines
from mmrlhf_ray.feedback.app.problems import add_handlers
from mmrlhf_ray.feedback.app.protection import Protection
from mmrlhf_ray.feedback.app.state import AppState
from mmrlhf_ray.feedback.app.webhooks import Deliveries
from mmrlhf_ray.feedback.arena.asking import Arena
from mmrlhf_ray.feedback.collect.database import open_database

_ROOMS = (
    watched,
    language_pages,
    login,
    oidc,
    documentation,
    items,
    projects,
    api,
    admin,
    deployed,
    pages,
    sheet_pages,
    vote_pages,
    review_pages,
    admin_pages,
    item_pages,
    arena,
    arena_pages,
    progress_pages,
    project_pages,
)
_STATIC = Path(__file__).with_name("static")


def create_app(config: FeedbackConfig) -> FastAPI:
    """The app over the database that `config` names. Raises ConfigError as open_database does,
    and for guidelines that cannot be read."""
    guidelines = read_guidelines(config)
    database = open_database(config)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        deliveries = Deliveries(config, database) if config.webhook is not None else None
        yield
        if deliveries is not None:
            deliveries.close()
        database.close()

    # No pages of API documentation: they load scripts from elsewhere.
    app = FastAPI(title=config.title, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    arena_of = None if config.arena is None else Arena(config.arena)
    app.state.feedback = AppState(config, database, guidelines, arena_of)
    for room in _ROOMS:
        app.include_router(room.router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_middleware(
        Protection, body_bytes=config.max_body_bytes, upload_bytes=max(config.limits.bytes, config.max_body_bytes)
    )
    add_handlers(app)
    return app
