"""LaTeX to MathML that is safe to show: models write it, and the converter passes markup and addresses on."""

import html
import re
from xml.etree import ElementTree as ET

from latex2mathml.converter import convert_to_element

MOST_CHARACTERS = 2000
"""Of one formula; a longer one is shown as it was typed."""
_MOST_LEVELS = 60
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_ELEMENTS = """math mrow mi mn mo mtext ms mspace mfrac msqrt mroot msub msup msubsup munder mover munderover
mmultiscripts mprescripts none mtable mtr mtd mlabeledtr menclose mphantom mstyle"""
_ATTRIBUTES = """accent accentunder columnalign columnlines columnspacing columnspan display displaystyle fence form
largeop linethickness mathvariant maxsize minsize movablelimits notation rowlines rowspacing rowspan scriptlevel
separator stretchy symmetric"""
_SHORT = re.compile(r"[0-9]?(\.[0-9]+)?em")
"""Of a blank: wider ones, and negative ones, could cover the page."""


def to_mathml(latex: str, display: bool) -> str | None:
    """The MathML of a formula, on a line of its own if `display`; None for what is no LaTeX, or too much of it."""
    if len(latex) > MOST_CHARACTERS:
        return None
    try:
        element = convert_to_element(latex, display="block" if display else "inline")
        safe = _safe(element, _MOST_LEVELS)
    except Exception:  # noqa: BLE001 -- the converter has a dozen unrelated errors, and others for text that makes it stumble
        return None
    safe.set("xmlns", _NAMESPACE)
    return ET.tostring(safe, encoding="unicode", short_empty_elements=False)


def _safe(element: ET.Element, levels: int) -> ET.Element:
    """A copy with known elements and attributes only; text that the converter would read as markup stays text."""
    if levels == 0:
        raise ValueError("too deep")
    name = element.tag.rpartition("}")[2]
    made = ET.Element(name if name in _ELEMENTS.split() else "mrow")
    for key, value in element.attrib.items():
        if key in _ATTRIBUTES.split() or (key == "width" and _SHORT.fullmatch(value)):
            made.set(key, value)
    made.text = None if element.text is None else html.unescape(element.text)
    for child in element:
        made.append(_safe(child, levels - 1))
        made[-1].tail = None if child.tail is None else html.unescape(child.tail)
    return made
