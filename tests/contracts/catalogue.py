"""The messages of the feedback pages, as templates, scripts and Python say them.

`python -m tests.contracts.catalogue`, after a change of one, brings every catalogue up to date: new messages come
without a translation, and those that are no longer used go.
"""

import re
from collections import Counter
from typing import get_args

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from mmrlhf_ray.config import Language
from mmrlhf_ray.feedback.app.language import CATALOGUES, catalogue_file

ROOM = CATALOGUES.parents[1]
LANGUAGES = [language for language in get_args(Language) if language != "en"]
_METHODS = [
    ("**.py", "python"),
    ("**/templates/**.html", "jinja2.ext:babel_extract"),
    ("**/static/**.js", "javascript"),
]
_OPTIONS = {"**/templates/**.html": {"newstyle_gettext": "true", "trimmed": "true", "silent": "false"}}


def said() -> Catalog:
    """All messages, with the files that say them."""
    catalogue = Catalog(project="mmrlhf_ray", fuzzy=False)
    for file, line, message, comments, context in extract_from_dir(ROOM, _METHODS, _OPTIONS):
        catalogue.add(message, None, [(file, line)], auto_comments=comments, context=context)
    return catalogue


def translated(language: str) -> Catalog:
    """A language's catalogue as it is."""
    with catalogue_file(language).open("rb") as file:  # type: ignore[arg-type]
        return read_po(file, locale=language)


def placeholders(text: str) -> Counter[str]:
    """%(name)s and the like, and how often."""
    return Counter(re.findall(r"%\(\w+\)\w", text))


def texts(message: Message) -> tuple[str, ...]:
    """The message's translations: one, or one for each plural form."""
    return message.string if isinstance(message.string, tuple) else (message.string,)


def _update(language: str) -> None:
    path = catalogue_file(language)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    old = translated(language) if path.exists() else Catalog(locale=language)
    catalogue = Catalog(locale=language, project="mmrlhf_ray", charset="utf-8", fuzzy=False)
    for message in said():
        if message.id:
            known = old.get(message.id)
            catalogue.add(message.id, known.string if known else None, message.locations)
    with path.open("wb") as file:
        write_po(file, catalogue, width=120, include_lineno=False, sort_by_file=True, omit_header=False)
    lines = path.read_text().splitlines(keepends=True)
    dated = ("POT-Creation-Date", "PO-Revision-Date", "Generated-By", "Last-Translator", "Report-Msgid")
    path.write_text("".join(line for line in lines if not line.startswith(tuple(f'"{name}' for name in dated))))


if __name__ == "__main__":
    for language in LANGUAGES:
        _update(language)
