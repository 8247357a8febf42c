"""The templates, once for each language, with its catalogue, its dates and its numbers."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_percent
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader

from mmrlhf_ray.config import Language
from mmrlhf_ray.feedback.app.formatted import formatted
from mmrlhf_ray.feedback.app.language import WORDS, Words

TEMPLATE_DIR = Path(__file__).with_name("templates")


def environment() -> Environment:
    """Templates without a language. Whatever people and models wrote is escaped."""
    made = Environment(loader=FileSystemLoader(TEMPLATE_DIR), autoescape=True, extensions=["jinja2.ext.i18n"])
    made.policies["ext.i18n.trimmed"] = True
    return made


def _templates(words: Words) -> Jinja2Templates:
    made, language = environment(), words.language

    def number(value: float, digits: int = 0) -> str:
        """With so many digits after the point."""
        return format_decimal(value, format="#,##0" + ("." + "0" * digits if digits else ""), locale=language)

    def percent(share: float) -> str:
        return format_percent(share, locale=language)

    def date(moment: datetime) -> str:
        return format_date(moment, "medium", locale=language)

    def time(moment: datetime) -> str:
        """Date and time, UTC."""
        return format_datetime(moment, "medium", locale=language)

    made.filters |= {"formatted": formatted, "number": number, "percent": percent, "date": date, "time": time}
    made.install_gettext_translations(words.catalogue, newstyle=True)  # type: ignore[attr-defined]
    return Jinja2Templates(env=made)


TEMPLATES: Mapping[Language, Jinja2Templates] = {language: _templates(words) for language, words in WORDS.items()}
