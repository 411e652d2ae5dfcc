"""TeX in the prose as MathML, which browsers draw themselves: no script, no font and no picture is fetched.

A formula is found by the Markdown parser, so that code, attributes and escaped text are never taken for one. It
passes the sanitizer as a plain `<span class="tex">` and becomes MathML afterwards, from a fixed list of elements.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import lru_cache

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, MathInlineParser

ELEMENTS = set(
    "math mrow mi mo mn mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd mstyle mpadded".split()
)
ATTRIBUTES = set(
    "display mathvariant stretchy fence minsize maxsize width displaystyle scriptlevel accent linethickness separator".split()
)
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"


class _Inline(MathInlineParser):
    """A dollar opens a formula only before, and closes it only behind, something that is no space: "$5 or $6" is money."""

    INLINE_MATH_TEX = r"(?<![\\\w$])\$(?!\s)(?P<math_inline_tex>[^$\n]+?)(?<![\s\\])\$(?!\w)"
    SPECIFICATION = {**MathInlineParser.SPECIFICATION, "inline_math_tex": INLINE_MATH_TEX}


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return f'<span class="tex">{self.escape_html(body)}</span>'

    def block_math(self, body: str) -> str:
        return f'<span class="tex block">{self.escape_html(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def markdown_html(source: str) -> str:
    """Markdown as HTML, not yet sanitized, with each formula as `<span class="tex">TeX</span>`."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer, inline=_Inline()).render(source)


@lru_cache(maxsize=4096)
def mathml(tex: str, block: bool = False) -> str | None:
    """The MathML of a formula; None where a command in it is not known, and the TeX is better shown as it is."""
    from latex2mathml.converter import convert

    try:
        root = ET.fromstring(convert(" ".join(tex.split()), display="block" if block else "inline"))
    except Exception:  # the converter raises many kinds for faulty TeX
        return None
    for element in root.iter():
        element.tag = element.tag.removeprefix(NAMESPACE)
        if element.tag not in ELEMENTS or "\\" in (element.text or ""):
            return None
        for name in set(element.attrib) - ATTRIBUTES:  # \href would bring a link
            del element.attrib[name]
    _spaces(root)
    root.set("alttext", tex)
    return ET.tostring(root, encoding="unicode")


def _spaces(element: ET.Element) -> None:
    """A thin space on either side of a function's name (log, ln), which MathML sets like any other letters."""
    children = list(element)
    for child in children:
        _spaces(child)
    if element.tag not in ("mrow", "math", "mstyle"):
        return
    for place in reversed(range(len(children))):
        child = children[place]
        if child.tag != "mi" or not re.fullmatch("[a-z]{2,}", child.text or ""):
            continue
        if place + 1 < len(children) and children[place + 1].tag not in ("mo", "mspace"):
            element.insert(place + 1, ET.Element("mspace", width="0.167em"))
        if place and children[place - 1].tag not in ("mo", "mspace"):
            element.insert(place, ET.Element("mspace", width="0.167em"))
