"""Templates to pages. What people and models wrote is escaped: autoescape is on for every template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates

from mmrlhf_ray.config import FeedbackConfig

_TEMPLATES = Jinja2Templates(Path(__file__).with_name("templates"))


def render(
    request: Request, config: FeedbackConfig, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page; every template has `title` beside what `context` holds."""
    return _TEMPLATES.TemplateResponse(request, template, {"title": config.title, **context}, status_code=status)
