"""The languages of the pages: which one a request wants, and its words.

English is what the source says. The other languages are gettext catalogues in locale/, which Babel compiles when the
app is loaded, so that there is no step to forget.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from gettext import GNUTranslations, NullTranslations
from pathlib import Path
from typing import get_args

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from fastapi import Request

from mmrlhf_ray.config import Language
from mmrlhf_ray.errors import FeedbackError

LANGUAGE_COOKIE = "mmrlhf_language"
LANGUAGES: Mapping[Language, str] = {"en": "English", "zh_CN": "中文"}
"""As their readers call them."""
CATALOGUES = Path(__file__).with_name("locale")
_ENGLISH: Language = "en"


@dataclass(frozen=True)
class Words:
    """One language."""

    language: Language
    catalogue: NullTranslations
    scripts: Mapping[str, str]
    """Messages of the scripts; {} = as the scripts have them."""

    @property
    def tag(self) -> str:
        """As HTML names the language."""
        return self.language.replace("_", "-")

    def say(self, message: str, **values: object) -> str:
        """A message of the catalogue, with `values` in its placeholders."""
        found = self.catalogue.gettext(message)
        return found % values if values else found

    def error(self, error: FeedbackError) -> str:
        """The problem in this language; in English where the catalogue does not have it, as only programs cause it."""
        return self.say(error.message, **error.values)


def catalogue_file(language: Language) -> Path:
    """The language's .po file."""
    return CATALOGUES / language / "LC_MESSAGES" / "feedback.po"


def words_of(request: Request) -> Words:
    """The words for a request: as chosen in the page, else as the browser asks, else English."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    for language in LANGUAGES:
        if language == chosen:
            return WORDS[language]
    return WORDS[preferred(request.headers.get("accept-language", ""))]


def preferred(accepted: str) -> Language:
    """The language that an Accept-Language header likes best; every kind of Chinese is closer to zh_CN than English."""
    ranges = []
    for place, entry in enumerate(accepted.split(",")):
        tag, _, quality = entry.strip().partition(";q=")
        try:
            weight = float(quality or 1)
        except ValueError:
            continue
        if weight > 0:
            ranges.append((-weight, place, tag.partition("-")[0].lower()))
    for _, _, primary in sorted(ranges):
        for language in LANGUAGES:
            if language.partition("_")[0] == primary:
                return language
    return _ENGLISH


def _read(language: Language) -> Words:
    if language == _ENGLISH:
        return Words(language, NullTranslations(), {})
    with catalogue_file(language).open("rb") as file:
        catalogue = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    scripts = {
        str(message.id): str(message.string)
        for message in catalogue
        if message.id and any(name.endswith(".js") for name, _ in message.locations)
    }
    return Words(language, GNUTranslations(compiled), scripts)


WORDS: Mapping[Language, Words] = {language: _read(language) for language in get_args(Language)}
