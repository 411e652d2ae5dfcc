"""The glossary and the map from the paper: every cell, function and claim that they name exists, and nothing is missing."""

from __future__ import annotations

import importlib
import re

import nbformat
import pytest
import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.runs import PROJECT
from rlhf_kit.views import course_pages as pages

# What a reader of this course must find explained.
WORDS = (
    "ZeRO|FSDP|BOS|EOS|GGUF|head|logit|LoRA|QLoRA|KL|margin|reference|policy|proxy|gold|best-of-n|on-policy|warm start|calibration|"
    "cluster bootstrap|win rate|length control|flip rate|position bias|over-optimisation|packing|truncation|greedy|temperature|ledger|stage|"
    "claim|band|profile|DPO|SFT|pad|token|tie|beta|log-ratio|reward model|Bradley-Terry model|Bayes ceiling|sharpening"
).split("|")
# The equations, tables, figures and algorithms of the paper that the course treats.
TREATED = {*(f"equation {n}" for n in (1, 2, 3, 4, 5, 9)), *(f"Table {n}" for n in (1, 2, 3, 4, 5, 7)), "Figure 3", "Figure 7",
           "Figure 8", "Algorithm 1", "Algorithm 2"}  # fmt: skip
BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


def text_of(lesson: str, cell: str) -> str:
    return next(c.source for c in BOOKS[lesson].cells if c.id == cell)


@pytest.mark.parametrize("one", [*pages.glossary(), *pages.metrics(), *pages.paper_map()], ids=lambda one: next(iter(vars(one).values())))
def test_the_cell_exists(one):
    assert one.cell in {cell.id for cell in BOOKS[one.lesson].cells}
    assert pages.place(one.lesson, one.cell).startswith(one.lesson[:2])


@pytest.mark.parametrize("one", pages.glossary(), ids=lambda one: one.term)
def test_the_cell_speaks_of_the_term(one):
    names = [*re.split(" and ", one.term), *(text.strip() for text in one.also.split(",")), one.word]
    text = " ".join(text_of(one.lesson, one.cell).split()).lower()
    assert any(name and name.lower() in text for name in names), f"{one.lesson} {one.cell} does not name {one.term!r}"
    assert one.means.endswith(".") and len(re.findall(r"[.!?](?: |$)", one.means)) <= 3  # one to three plain sentences


def test_every_number_says_what_it_does_not_mean():
    found = pages.metrics()
    assert len({one.metric for one in found}) == len(found) >= 12
    assert all(one.means and one.better and one.misread and one.unit for one in found)
    assert pages.metrics_html().count("<tr>") == len(found) + 1


def test_the_words_of_the_course_are_all_there():
    terms = {part.lower() for one in pages.glossary() for part in (one.term, *one.term.split(" and "))}
    assert {word.lower() for word in WORDS} <= terms


@pytest.mark.parametrize("one", pages.paper_map(), ids=lambda one: one.part)
def test_functions_and_claims_exist(one):
    assert one.functions
    for name in one.functions:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    claims = {c["id"] for c in yaml.safe_load((PROJECT / "data/expected/claims.yaml").read_text(encoding="utf-8"))}
    assert one.claim is None or one.claim in claims


def test_every_claim_and_everything_treated_is_in_the_map():
    claims = {c["id"] for c in yaml.safe_load((PROJECT / "data/expected/claims.yaml").read_text(encoding="utf-8"))}
    assert claims <= {one.claim for one in pages.paper_map()}
    assert {one.part for one in pages.paper_map()} >= TREATED


def test_what_the_lessons_cite_is_in_the_map():
    """An equation, table, figure or algorithm of the paper that stands in a lesson's text has its row."""
    parts = {one.part for one in pages.paper_map()}
    cited = re.compile(r"\b(equations?|eq\.|Tables?|Fig(?:ure|\.)|Algorithm) (\d)(?:(?:, (\d))?(?:,? and (\d)))?")
    names = {"equ": "equation", "eq.": "equation", "tab": "Table", "fig": "Figure", "alg": "Algorithm"}
    for lesson, book in BOOKS.items():
        for cell in book.cells:
            if cell.cell_type == "markdown":
                for kind, *numbers in cited.findall(cell.source):
                    for number in filter(None, numbers):
                        assert f"{names[kind[:3].lower()]} {number}" in parts, (lesson, cell.id)


def test_each_claim_of_the_map_is_asserted_in_its_lesson_or_named_there():
    for one in pages.paper_map():
        if one.claim:
            everywhere = " ".join(cell.source for cell in BOOKS[one.lesson].cells)
            asserted = one.claim in everywhere or one.claim.rpartition("-")[0] + "-{" in everywhere
            assert asserted or any(one.claim in " ".join(c.source for c in book.cells) for book in BOOKS.values()), one.part


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_pages_are_current(name):
    stored = (PROJECT / "notebooks" / name).read_text(encoding="utf-8")
    assert stored == pages.PAGES[name](), "run: python -m rlhf_kit.views.course_pages"


def test_html_is_escaped_and_linked():
    for made in (pages.glossary_html(), pages.paper_map_html()):
        assert made.count("<tr>") > 20 and "<script" not in made
        targets = re.findall(r'href="([^"]+)"', made)
        assert targets and all(re.fullmatch(r"\d\d_\w+\.html#[\w-]+", target) for target in targets)
    assert "href" not in pages.glossary_html(link=None)
    assert pages.paper_map_html(lesson="07_dpo").count("<tr>") < pages.paper_map_html().count("<tr>")


def test_ids_of_terms_are_unique():
    ids = re.findall(r'id="([^"]+)"', pages.glossary_html())
    assert len(ids) == len(set(ids)) == len(pages.glossary())


@pytest.mark.parametrize(("rows", "said"), [
    ([{"term": "x", "means": "y.", "lesson": "00_start_here"}], "'cell'"),
    ([{"term": "x", "means": "y.", "lesson": "00_start_here", "cell": "a", "colour": "red"}], "'colour'"),
    ([{"term": "x", "means": "y.", "lesson": "00_start_here", "cell": 12}], "'cell' must be text"),
    (["x"], "entry 1"),
    ([{"term": t, "means": "y.", "lesson": "00_start_here", "cell": "a"} for t in ("KL", "kl")], "twice"),
])  # fmt: skip
def test_a_faulty_file_is_named(tmp_path, rows, said):
    path = tmp_path / "glossary.yaml"
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(KitError, match=said):
        pages.glossary(path)


def test_a_place_is_the_heading_above_the_word():
    """A cell that ends one section and begins the next belongs to the one in which the word stands."""
    assert pages.place("02_sft", "38dbd131", ["temperature"]) == "02, What it says"
    assert pages.place("02_sft", "38dbd131") == "02, Did it learn, or memorise?"
    assert pages.place("09_evaluation", "4be7ba2a") == "09, Beside the paper's tables"


def test_a_cell_that_is_gone_is_named():
    with pytest.raises(KitError, match="no cell 'gone'"):
        pages.place("02_sft", "gone")
