"""An executed notebook as the body of a page: sanitized, with anchors, formulas, figures with words, links that resolve."""

from __future__ import annotations

import base64
import re
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag

from rlhf_kit.running import notebooks
from rlhf_kit.site.formulas import markdown_html, mathml

# What text may hold after sanitizing: prose, tables and plain marks; no script, frame, form or event attribute.
TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul"
).split()
ATTRIBUTES = {
    "*": ["class", "title", "style", "align", "colspan", "rowspan", "scope", "open"],
    "a": ["href"],
    "img": ["src", "alt", "width", "height"],
}
STYLES = (
    "background background-color border border-bottom border-left border-radius border-right border-top color display "
    "font-family font-size font-style font-weight height margin margin-left margin-top max-width padding text-align "
    "vertical-align white-space width"
).split()
NO_ALT = "No description has been provided for this image"  # nbconvert's words
FOUND = re.compile(r"(?:^[\w-]+: found \(made earlier\)\n){2,}", re.M)  # what stages say of themselves
WIDE = 700  # pixels; a wider figure keeps a readable size on a phone and scrolls in its own box


@dataclass(frozen=True)
class Heading:
    level: int
    anchor: str
    text: str


@dataclass(frozen=True)
class Figure:
    anchor: str
    alt: str
    png: bytes

    @property
    def caption(self) -> str:
        """The title in the words: what stands before the axes and values, or else the titles of the panels."""
        # up to the axes, the panels or a sentence's end, which is not a numbered heading's dot
        title = re.split(r"; |\. (?=Panel 1: )|(?<=[^\d\s])\. ", self.alt)[0].rstrip(".")
        if title.startswith("Panel 1: "):
            title = " · ".join(re.findall(r"Panel \d+: (.+?)(?=; |\. Panel \d+: |(?: \.\.\.|\.)?$)", self.alt))
        return _short(title, 90)


@dataclass(frozen=True)
class Lesson:
    """A page's parts. `question` is the opening card's; `cells` maps the id of each cell to its source."""

    name: str
    title: str
    description: str
    question: str
    body: str
    headings: list[Heading] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)


def slug(text: str) -> str:
    """The anchor of a heading: its words in lower case, joined by hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "section"


def clean(page: str) -> str:
    """HTML with the tags, attributes and styles above; everything else is escaped and so shown as text."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer

    styles = CSSSanitizer(allowed_css_properties=STYLES)
    protocols = {*bleach.ALLOWED_PROTOCOLS, "data"}
    return bleach.clean(str(page), tags=set(TAGS), attributes=ATTRIBUTES, css_sanitizer=styles, protocols=protocols)


def render(path: Path, pages: Mapping[str, str]) -> Lesson:
    """The lesson of an executed notebook. pages: notebook name -> file name of its page, for links between lessons."""
    book = notebooks.read(path)
    book.cells = [c for c in book.cells if not {"injected-parameters", "colab"} & set(c.metadata.get("tags", []))]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    soup = BeautifulSoup(_converted(book), "html.parser")
    for place in soup.select("[id^='cell-id=']"):
        place["id"] = place["id"].removeprefix("cell-id=")
    cells = {cell.get("id", ""): cell.source for cell in book.cells}
    _formulas(soup)
    headings = _headings(soup, set(cells))
    figures = _figures(soup, cells)
    _boxes(soup)
    _links(soup, pages)
    first = next((h.text for h in headings if h.level == 1), path.stem)
    said = next((_words(p) for p in soup.select(".text_cell p")), first)
    return Lesson(path.stem, first, _short(said), _question(soup), str(soup), headings, figures, cells)


def _converted(book) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        # nbconvert's own list of tags has no headings and no table heads, and its formulas wait for MathJax
        filters={"clean_html": clean, "markdown2html": markdown_html},
        template_name="basic",
        sanitize_html=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.log.setLevel("ERROR")  # it warns of every picture without words; they get theirs below
    return exporter.from_notebook_node(book)[0]


def _joined(outputs: list) -> list:
    """Outputs with neighbouring lines of standard output as one block, and the stages that were only found in one line."""
    made: list = []
    for output in outputs:
        if made and output.output_type == made[-1].output_type == "stream" and output.name == made[-1].name == "stdout":
            made[-1].text += output.text
        else:
            made.append(output)
    for output in made:
        if output.output_type == "stream":
            output.text = FOUND.sub(_named_once, output.text)
    return made


def _named_once(match: re.Match) -> str:
    names = [line.partition(":")[0] for line in match[0].splitlines()]
    told = (name if names.count(name) == 1 else f"{name} ({names.count(name)} times)" for name in dict.fromkeys(names))
    return f"found, made earlier: {', '.join(told)}\n"


def _formulas(soup: BeautifulSoup) -> None:
    for place in soup.select("span.tex"):
        tex, block = place.get_text().strip(), "block" in place["class"]
        drawn = mathml(tex, block)
        if drawn is None:
            place.name, place["class"] = "code", ["tex"]
            continue
        formula = BeautifulSoup(drawn, "html.parser")
        if not block:
            place.replace_with(formula)
            continue
        place["class"] = ["formula"]
        place.clear()
        place.append(formula)


def _headings(soup: BeautifulSoup, taken: set[str]) -> list[Heading]:
    """Gives every heading an anchor and a link to itself, and only the first one level 1."""
    found, used = [], set(taken)
    for place in soup.find_all(re.compile("^h[1-4]$")):
        if place.find_parent(class_="output_area"):
            continue
        text = _words(place)
        level = int(place.name[1])
        if level == 1 and any(h.level == 1 for h in found):
            level, place.name = 2, "h2"
        anchor = base = slug(text)
        number = 1
        while anchor in used:
            number += 1
            anchor = f"{base}-{number}"
        used.add(anchor)
        place["id"] = anchor
        link = soup.new_tag("a", attrs={"class": "anchor", "href": f"#{anchor}", "aria-label": f"link to: {text}"})
        link.string = "#"
        place.append(link)
        found.append(Heading(level, anchor, text))
    return found


def _size(png: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header; (0, 0) of another file."""
    return struct.unpack(">II", png[16:24]) if png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 24 else (0, 0)


def _figures(soup: BeautifulSoup, cells: Mapping[str, str]) -> list[Figure]:
    """Makes every picture a figure with an anchor, its size, and words for who cannot see it."""
    found = []
    for image in soup.find_all("img"):
        source = str(image.get("src", ""))
        if not source.startswith("data:image/"):
            image.replace_with(image.get("alt", ""))  # a page fetches nothing
            continue
        if not image.get("alt") or image["alt"] == NO_ALT:
            image["alt"] = _alt(image, cells)
        frame = image.find_parent(class_=re.compile("output_(png|jpeg|svg)"))
        if frame is None:
            continue
        frame.name, frame["id"], frame["tabindex"] = "figure", f"figure-{len(found) + 1}", "0"
        png = base64.b64decode(source.partition(",")[2])
        width, height = _size(png)
        if width:
            image["width"], image["height"] = width, height
        if width > WIDE:
            image["class"] = "wide"
        found.append(Figure(frame["id"], image["alt"], png))
    return found


def _alt(image: Tag, cells: Mapping[str, str]) -> str:
    """Words for a picture that came without: what draws it, and the section in which it stands."""
    cell = image.find_parent(class_="cell")
    drawn = re.search(r"\bdraw_(\w+)", cells.get(cell.get("id", ""), "") if cell else "")
    heading = image.find_previous(re.compile("^h[1-3]$"))
    about = drawn.group(1).replace("_", " ").capitalize() if drawn else "Figure"
    section = _words(heading).removesuffix("#").strip() if heading else ""
    return f"{about} (in the section: {section})" if section else about


def _boxes(soup: BeautifulSoup) -> None:
    """Tables scroll in a box of their own, with the keyboard too; a head without words goes, and marks a card."""
    for table in soup.find_all("table"):
        if table.thead and not table.thead.get_text(strip=True):
            table.thead.decompose()
            table["class"] = [*table.get("class", []), "card"]
        box = soup.new_tag("div", attrs={"class": "box", "tabindex": "0", "role": "region", "aria-label": "table"})
        table.wrap(box)


def _links(soup: BeautifulSoup, pages: Mapping[str, str]) -> None:
    """Links between notebooks become links between pages; a link to a file that the site does not hold becomes text."""
    for link in soup.find_all("a", href=True):
        target, _, fragment = link["href"].partition("#")
        if re.match(r"[a-z]+:", target, re.I):
            continue
        name = re.search(r"([^/]+)\.ipynb$", target)
        page = pages.get(name.group(1)) if name else None
        if target and page is None:
            link.unwrap()
        elif "anchor" not in link.get("class", []):
            link["href"] = (page or "") + (f"#{slug(unquote(fragment))}" if fragment else "")


def _question(soup: BeautifulSoup) -> str:
    """The question on the opening card."""
    for row in soup.select("table tr"):
        cells = row.find_all(["td", "th"])
        if len(cells) == 2 and cells[0].get_text(strip=True) == "The question":
            return _words(cells[1])
    return ""


def _words(place: Tag) -> str:
    """The text of an element in one line."""
    return " ".join(place.get_text().split())


def _short(text: str, characters: int = 155) -> str:
    """Text for a search engine's two lines, cut at a word."""
    text = " ".join(text.split())
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " ..."
