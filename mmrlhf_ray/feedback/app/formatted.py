"""Prompts and responses as their writers meant them: Markdown, code, tables and formulas, and nothing that acts.

Markup stays text, links and pictures are shown as they were typed, and headings do not take part in the page's own.
"""

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

from mmrlhf_ray.feedback.app.formulas import to_mathml

_MOST_FORMULAS = 200
"""Of one text; later ones are shown as they were typed."""
_LONGEST = 50_000
"""Characters of a text that is looked at; a longer one is shown as it is."""
_PLAIN = frozenset({"paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak"})
_INLINE = ("math_inline", "math_single")
_DISPLAYED = ("math_inline_double", "math_block", "math_block_eqno", "amsmath")


def _formula(
    renderer: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    token = tokens[idx]
    display = token.type in _DISPLAYED
    env["formulas"] = env.get("formulas", 0) + 1
    made = to_mathml(token.content, display) if env["formulas"] <= _MOST_FORMULAS else None
    source = escape(token.content.strip())
    if made is None:
        return f"<code>{source}</code>"
    if not display:
        return made
    # Wide ones are moved within their own box, by keys as well.
    return f'<span class="formula scroll" tabindex="0" role="group" aria-label="{source}">{made}</span>'


def _heading(
    renderer: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return '<p class="heading">' if tokens[idx].nesting > 0 else "</p>\n"


def _display_brackets(state: StateInline, silent: bool) -> bool:
    """\\[ … \\] within a paragraph, where models often write it; texmath reads it at the start of one only."""
    start = state.pos
    end = state.src.find("\\]", start + 2)
    if not state.src.startswith("\\[", start) or not start + 2 < end < state.posMax:
        return False
    if not silent:
        state.push("math_inline_double", "math", 0).content = state.src[start + 2 : end]
    state.pos = end + 2
    return True


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    made.disable(["image", "link", "autolink", "reference", "entity"])
    dollarmath_plugin(made, allow_labels=False, allow_space=False, double_inline=True)
    texmath_plugin(made, "brackets")
    amsmath_plugin(made)
    made.inline.ruler.before("escape", "display_brackets", _display_brackets)
    for name in (*_INLINE, *_DISPLAYED):
        made.add_render_rule(name, _formula)
    for name in ("heading_open", "heading_close"):
        made.add_render_rule(name, _heading)
    return made


_MARKDOWN = _markdown()


@lru_cache(maxsize=1024)
def formatted(text: str) -> Markup | None:
    """The HTML of a text, safe to show; None for text without any form, which is better shown as it is."""
    if len(text) > _LONGEST:
        return None
    tokens = _MARKDOWN.parse(text)
    inner = [child for token in tokens for child in token.children or ()]
    if all(token.type in _PLAIN for token in (*tokens, *inner)):
        return None
    for token in tokens:
        alignment = token.attrs.pop("style", None)  # of a cell; the pages' security policy refuses styles
        if alignment is not None:
            token.attrs["class"] = str(alignment).removeprefix("text-align:")
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
