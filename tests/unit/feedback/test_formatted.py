"""Markdown and formulas of models and data: shown as they were meant, and never more than that."""

from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from mmrlhf_ray.feedback.app.formatted import formatted
from mmrlhf_ray.feedback.app.formulas import MOST_CHARACTERS, _safe, to_mathml


@pytest.mark.parametrize(
    "text",
    [
        "A red square.",
        "Two\nlines,  and    blanks.",
        "It costs $5 and $6.",
        'a < b & c > d, "quoted", <script>alert(1)</script>',
        "see [here](https://example.org) ![x](https://example.org/x.png) https://example.org <https://example.org>",
        "&lt;b&gt; {{ 7 * 7 }} ${7*7}",
        "\\[ open",
        "",
        "字" * 50_001 + "**b**",
    ],
)
def test_text_without_form_stays_as_it_is(text: str) -> None:
    assert formatted(text) is None


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b**", "<strong>b</strong>"),
        ("# Head", '<p class="heading">Head</p>'),
        ("- a\n- b", "<li>a</li>\n<li>b</li>"),
        ("```py\nx < 1\n```", '<pre><code class="language-py">x &lt; 1\n</code></pre>'),
        ("| a | b |\n|---|--:|\n| 1 | 2 |", '<td class="right">2</td>'),
        ("so $x_1$.", "<msub><mi>x</mi><mn>1</mn></msub>"),
        ("so \\(x^2\\).", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("so:\n\\[\\frac{a}{b}\\]\nthen", '<span class="formula scroll" tabindex="0"'),
        ("$$\n\\frac{a}{b}\n$$", "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>"),
        ("\\begin{align}a&=b\\end{align}", "<mtable"),
        ("one\ntwo **b**", "one<br />"),
    ],
)
def test_what_is_meant_is_shown(text: str, html: str) -> None:
    shown = formatted(text)
    assert shown is not None
    assert html in shown


ALLOWED = """p br strong em s code pre ul ol li blockquote hr table thead tbody tr th td span math mrow mi mn mo mtext
mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd menclose mphantom mstyle"""
HARMLESS = """class start
display xmlns tabindex role aria-label mathvariant stretchy columnalign displaystyle rowspacing
columnspacing notation scriptlevel width"""


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


HOSTILE = [
    "**x** <script>alert(1)</script> <img src=x onerror=alert(1)>",
    "**x** [a](javascript:alert(1)) [b](data:text/html,<script>) ![c](https://example.org/t.png)",
    "**x** <javascript:alert(1)> <https://example.org>\n\n[r]: https://example.org\n\n[r]",
    "```html onmouseover=alert(1)\n</code></pre><script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "| <img src=x> | b |\n|:-:|--:|\n| <svg onload=alert(1)> | `</td><script>` |",
    "# <svg onload=alert(1)>",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{</mtext></math><img src=x onerror=alert(1)>}$",
    r"$\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    r"$\href{javascript:alert(1)}{x}$ $\style{position:fixed;top:0}{x}$ $\class{top}{x}$ $\id{main}{x}$",
    r'$$"onmouseover="alert(1)$$',
    r"\[ \mathrm{</span><script>alert(1)</script>} \]",
    r"\begin{align}<script>alert(1)</script>&=b\end{align}",
    r"$\color{red;background:url(https://example.org)}{x}$ $\unicode{60}script\unicode{62}$",
    r"$\hspace{-99em}x \hspace{9999em} \raisebox{50em}{x} \rule{99em}{99em}$",
    r"$\begin{script}$ $\frac{$ $x^$ $\left($ $}$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_acts_and_nothing_is_loaded(text: str) -> None:
    shown = formatted(text)
    assert shown is not None
    seen = _Seen()
    seen.feed(shown)
    assert seen.tags <= set(ALLOWED.split())
    assert seen.attributes <= set(HARMLESS.split())


@pytest.mark.parametrize("latex", [r"\frac{", "x^", "^" * 1500, "{" * 900 + "}" * 900, "x" * (MOST_CHARACTERS + 1)])
def test_what_is_no_formula_is_shown_as_it_was_typed(latex: str) -> None:
    assert to_mathml(latex, display=False) is None
    shown = formatted(f"so ${latex}$ **b**")
    assert shown is not None
    assert f"<code>{latex}</code>" in shown


def test_formulas_are_counted() -> None:
    shown = formatted("$a$ " * 300)
    assert shown is not None
    assert shown.count("<math") == 200


@pytest.mark.parametrize("part", ["$", "\\[", "\\(", "*a_", "> ", "|a", "`", "[[", "\\begin{a}"])
def test_endless_openings_end(part: str) -> None:
    formatted((part * 20_000)[:20_000])  # would hang if anything here took the square of its length in earnest


def test_blanks_are_short() -> None:
    assert 'width="1em"' in (to_mathml(r"a\quad b", display=False) or "")
    for latex in (r"a\hspace{99em}b", r"a\hspace{-9em}b", r"a\hspace{9999px}b"):
        assert "width" not in (to_mathml(latex, display=False) or "")


def test_an_element_that_another_converter_might_make_is_none() -> None:
    made = ET.fromstring("<math><script onload='x'>a</script><annotation-xml><svg/></annotation-xml></math>")
    assert ET.tostring(_safe(made, 9), encoding="unicode") == "<math><mrow>a</mrow><mrow><mrow /></mrow></math>"
