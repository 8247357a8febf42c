"""Markdown to HTML that is safe to show: no markup of its own, no pictures, no links but to the web."""

from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from mmrlhf_ray.config import FeedbackConfig, Language
from mmrlhf_ray.errors import ConfigError

_RENDERER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def to_html(text: str) -> Markup:
    """The HTML of a text in CommonMark with tables; HTML in it is shown as it was typed, and its headings stand below
    the page's own, which is of level 1."""
    tokens = _RENDERER.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
    return Markup(_RENDERER.renderer.render(tokens, _RENDERER.options, {}))


def in_language(texts: Mapping[Language, str], language: Language) -> tuple[Language, Markup] | None:
    """(language, HTML) of the text in this language, else of the first that there is; None without any."""
    found = {language: texts[language]} if language in texts else texts
    return next(((own, to_html(text)) for own, text in found.items() if text), None)


def read_guidelines(config: FeedbackConfig) -> Mapping[Language, Markup]:
    """The project's guidelines by language, as HTML. Raises ConfigError for a file that cannot be read."""
    found = {}
    for language, path in config.guidelines.items():
        try:
            found[language] = to_html(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"guidelines.{language}: {path} cannot be read as UTF-8 text: {error}") from error
    return found
