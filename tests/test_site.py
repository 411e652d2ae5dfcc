"""The site: pages that are safe, sound, complete and need nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import io
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from site_checks import faults

from rlhf_kit import cli, runs, site
from rlhf_kit.errors import KitError
from rlhf_kit.site import formulas, lesson, page
from rlhf_kit.views import course_pages

HOSTILE = (
    "<p onclick='x()'>fine</p><script>evil()</script><iframe src='http://a'></iframe><svg onload='e()'></svg>"
    "<img src='http://tracker.example/x.png' alt='seen'><a href='javascript:evil()'>press</a>"
)


def png(width=4, height=3):
    out = io.BytesIO()
    Image.new("RGB", (width, height), (0, 90, 160)).save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


def output(kind, content, **metadata):
    return nbformat.v4.new_output("display_data", {kind: content}, metadata=metadata)


def code(source, *outputs, id="", tags=()):
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)} if tags else {})
    cell.id = id or cell.id
    return cell


def say(text):
    return nbformat.v4.new_markdown_cell(text)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of two lessons with whatever a lesson may hold."""
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    opened = runs.open_run("trial", quiet=True)
    (opened.path / "notebooks").mkdir()
    books = {
        "00_start": [
            say("# 00 · Start & go\n\nThe *first* lesson.\n\n| | |\n|---|---|\n| **The question** | What is $x_0$? |\n| **Time** | short |"),
            code("# colab", tags=["colab"]),
            code("PROFILE = 'smoke'", tags=["injected-parameters"]),
            say(
                "## 1. Money\n\ncosts $5 or $6, loss $-\\log\\sigma(x)$, and\n\n$$r = \\beta\\log\\tfrac{p}{q}$$\n\n"
                "See [the next](01_next.ipynb#1.-Money), [below](#2.-More), [a file](../data/x.yaml)."
            ),
            code("fig = draw.draw_label_noise(gap)", output("image/png", png(900, 300)), id="noise"),
            code("show(rows)", output("text/markdown", "| a | b |\n|---|--:|\n| &#36;x&#36; | 2 |"), output("text/html", HOSTILE)),
            code("print(text)  # <b>", nbformat.v4.new_output("stream", text="<img src=x onerror=e()> \x1b[31mred\x1b[0m")),
            say("## 2. More\n\n### Deep\n\n## 2. More"),
            code('course.claim("kl-grows", 1.0)', output("image/png", png(), **{"image/png": {"alt": "The title. Left: y against x."}}), id="the-claim"),
        ],
        "01_next": [say("# 01 · Next\n\nMore.\n\n## 1. Money\n\nText."), code("x", output("image/png", png()), tags=["course-figure"])],
    }
    for name, cells in books.items():
        nbformat.write(nbformat.v4.new_notebook(cells=cells), opened.path / "notebooks" / f"{name}.ipynb")
        runs.record(opened, "executed", name, {"seconds": 61.0, "peak_memory_mb": 100})
    claim = {"id": "kl-grows", "status": "holds", "value": 1.0, "band": [0, None], "statement": "<b>It</b> grows.", "notebook": "00_start"}
    runs.write_json(opened.path / "claims.json", [claim])
    runs.write_json(opened.path / "metrics.json", {"beta": 0.25})
    timings = {"notebooks": dict.fromkeys(books, 61.0), "total_seconds": 122.0, "stages": {"rows-1": 3.0}, "peak_memory_mb": dict.fromkeys(books, 100)}
    runs.write_json(opened.path / "timings.json", timings)
    return opened


def soup_of(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_a_site_is_sound_and_complete(run):
    index = site.build(run)
    assert not faults(index.parent)
    assert {p.name for p in index.parent.iterdir()} == {
        "index.html", "figures.html", "glossary.html", "metrics.html", "paper-map.html", "00_start.html", "01_next.html", ".nojekyll"}  # fmt: skip
    home = soup_of(index)
    assert "2 notebooks, executed in 2:02" in home.main.get_text() and "What is x0?" in home.main.get_text()
    assert home.find("a", string="kl-grows")["href"] == "00_start.html#the-claim"
    assert "&lt;b&gt;It&lt;/b&gt; grows." in index.read_text() and "at least 0" in home.main.get_text()
    assert "1:01" in home.main.get_text() and "0.25" in home.main.get_text()
    assert home.select_one("#claim-kl-grows .verdict.holds").get_text() == "holds" and not home.select(".findings")  # no claim of the story
    assert [a["href"] for a in home.select(".steps a")] == ["01_next.html"]
    first = soup_of(index.parent / "00_start.html")
    assert first.title.string.startswith("00 · Start & go | ") and first.find("meta", attrs={"name": "description"})["content"] == "The first lesson."
    assert [(a["rel"], a["href"]) for a in first.select("nav.turn a")] == [(["prev"], "index.html"), (["next"], "01_next.html")]
    inner = [a.get_text() for a in first.select("nav.side ul ul a")]
    assert inner == ["1. Money", "2. More", "Deep", "2. More"]
    assert "colab" not in first.main.get_text() and "PROFILE" not in first.main.get_text()
    gallery = soup_of(index.parent / "figures.html")
    assert [a["href"] for a in gallery.select(".thumbs a")] == ["00_start.html#figure-1", "00_start.html#figure-2", "01_next.html#figure-1"]


def test_glossary_and_map_lead_to_the_cells_of_the_run(run, monkeypatch):
    from rlhf_kit.views import course_pages as course

    told = [("noise", "A <b>word</b>.", "00_start", "noise"), ("more", "Another.", "00_start", "gone"), ("far", "x", "09", "y")]
    rows = [course.Term(*one) for one in told]
    monkeypatch.setattr(course, "glossary", lambda: rows)
    monkeypatch.setattr(course, "place", lambda lesson, cell: f"{lesson}, {cell}")
    index = site.build(run)
    page = soup_of(index.parent / "glossary.html").main
    assert [a["href"] for a in page.select("td a")] == ["00_start.html#noise", "00_start.html", "index.html#lessons"]
    assert "A <b>word</b>." in page.get_text() and page.select_one(".box dfn")["id"] == "term-noise"
    assert soup_of(index).find("a", string="From the paper to the code")["href"] == "paper-map.html"


def test_the_map_leads_to_claims_of_the_run_and_the_numbers_have_their_page(run):
    index = site.build(run)
    rows = soup_of(index.parent / "paper-map.html").select("td a[href^='index.html#claim']")
    assert rows and {a["href"] for a in rows} == {"index.html#claim-kl-grows"}  # the only claim that this run made
    numbers = soup_of(index.parent / "metrics.html").main.get_text()
    assert all(one.misread in numbers for one in course_pages.metrics() if "`" not in one.misread)


def test_the_story_is_told_by_the_run_s_own_numbers(run):
    made = {"id": "bon-gold-rises", "status": "inconclusive", "value": 0.5, "interval": [-0.25, 1.0], "band": None, "statement": "x", "notebook": "01_next"}
    runs.write_json(run.path / "claims.json", [made])
    told = soup_of(site.build(run)).select(".findings li")
    assert len(told) == 1 and "+0.50" in told[0].get_text() and "-0.25 to 1.00" in told[0].get_text()
    assert told[0].select_one(".verdict.inconclusive") and told[0].a["href"] == "01_next.html"


def test_found_stages_are_one_line_and_other_lines_stay():
    stream = lambda text, name="stdout": nbformat.v4.new_output("stream", text=text, name=name)  # noqa: E731
    one = "{}: found (made earlier)\n".format
    outputs = [stream(one("sft")), stream(one("answers-1") + one("sft") + "loss 0.5\n"), stream("beware\n", "stderr"), stream(one("pairs"))]
    assert [o.text for o in lesson._joined(outputs)] == ["found, made earlier: sft (2 times), answers-1\nloss 0.5\n", "beware\n", one("pairs")]


def test_a_caption_is_the_title_and_not_the_values():
    said = lambda alt: lesson.Figure("f", alt, b"").caption  # noqa: E731
    assert said("Label noise; share against gap: from 0.5 to 0.1") == "Label noise"
    assert said("Panel 1: Loss; nats against step: 1 to 2. Panel 2: Accuracy; share: 0.5") == "Loss · Accuracy"
    assert said("Gold (bars: 95 % intervals). Panel 1: Loss; x") == "Gold (bars: 95 % intervals)"
    assert said("All 8. Panel 1: Loss; x") == "All 8" and said("It rose (by 0.9). Gold did not, 1.5 less.") == "It rose (by 0.9)"
    assert said('Panel 1: The 0.5B model; x: 1. Panel 2: Saying: "I hope so."; y. Panel 3: Left. Panel 4: Cut ...') == \
        'The 0.5B model · Saying: "I hope so." · Left · Cut'
    assert said("What happened. Panel 1: Loss; x") == "What happened" and said("Noise (in the section: 1. Money)") == "Noise (in the section: 1. Money)"


def test_headings_have_anchors_and_links_lead_to_pages(run):
    first = soup_of(site.build(run).parent / "00_start.html")
    assert [h["id"] for h in first.main.find_all(["h1", "h2", "h3"])] == ["00-start-go", "1-money", "2-more", "deep", "2-more-2"]
    assert [first.find("a", string=t)["href"] for t in ("the next", "below")] == ["01_next.html#1-money", "#2-more"]
    assert first.find("a", string="a file") is None and "a file" in first.main.get_text()


def test_pictures_have_words_and_a_size(run):
    images = soup_of(site.build(run).parent / "00_start.html").select("figure img")
    assert [i["alt"] for i in images] == ["Label noise (in the section: 1. Money)", "The title. Left: y against x."]
    assert (images[0]["width"], images[0]["height"], images[0]["class"]) == ("900", "300", ["wide"]) and images[1].get("class") is None


def test_what_acts_is_dropped_or_shown_as_text(run):
    """Model text stands there as text; script, event attributes, frames and pictures from elsewhere do not act."""
    text = (site.build(run).parent / "00_start.html").read_text()
    main = text[text.index("<main") :]
    assert "<p>fine</p>" in main and "&lt;img src=x" in main and "seen" in main
    assert not re.findall(r"<(?:script|iframe|svg|[^>]*\son\w+=)", main) and "tracker.example" not in main and 'href="javascript' not in main
    content = soup_of(run.path / "site" / "00_start.html").find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    script = re.search(r"<script>(.*?)</script>", text, re.S).group(1)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in content
    assert content.startswith("default-src 'none'; img-src data:;") and "unsafe-inline'; script" in content


def test_formulas_are_drawn_by_the_browser_and_money_is_not_one(run):
    main = soup_of(site.build(run).parent / "00_start.html").main
    drawn = main.find_all("math")
    assert [m["alttext"] for m in drawn] == ["x_0", "-\\log\\sigma(x)", "r = \\beta\\log\\tfrac{p}{q}"]
    assert drawn[2]["display"] == "block" and drawn[2].find("mfrac") and drawn[1].find("mspace") is not None
    assert "costs $5 or $6" in main.get_text() and "$x$" in main.get_text()


def test_a_formula_brings_no_link_and_a_faulty_one_stays_tex():
    assert "href" not in formulas.mathml("\\href{javascript:alert(1)}{x}").replace('alttext="\\href', "")
    assert "<script" not in formulas.mathml("a <script>")
    assert formulas.mathml("\\frac{") is None and formulas.mathml("\\nosuchcommand{x}") is None
    assert '<span class="tex">\\frac{</span>' in formulas.markdown_html("so $\\frac{$ it is")


def test_publishing_needs_a_run_and_a_folder_of_its_own(run, tmp_path, capsys):
    out = tmp_path / "public"
    assert cli.main(["site", "--run", "trial", "--out", str(out)]) == 0
    assert str(out / "index.html") in capsys.readouterr().out and not faults(out)
    (out / "09_gone.html").write_text("an earlier page")
    assert cli.main(["site", "--run", "trial", "--out", str(out)]) == 0 and not (out / "09_gone.html").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("somebody else's page")
    for name, folder, said in (("trial", other, "holds other files"), ("trial", other / "index.html", "is a file"), ("none", out, "no run 'none'")):
        with pytest.raises(KitError, match=said):
            site.publish(name, folder)
    assert (other / "index.html").read_text() == "somebody else's page" and not (runs.open_run("x").path.parent / "none").exists()
    with pytest.raises(KitError, match="no executed notebooks"):
        site.publish("x", out)


def test_the_style_has_a_dark_side_and_the_style_fetches_nothing():
    assert "prefers-color-scheme:dark" in page.style() and ":root[data-theme=dark] .highlight ." in page.style()
    assert "url(" not in page.style() and "@import" not in page.style() and "http" not in page.script()


def test_what_is_recorded_is_not_told_as_found_by_this_run(run):
    made = {"id": "online-beats-offline", "status": "holds", "value": 0.8, "interval": [0.5, 1.0], "band": [0, None], "statement": "x", "notebook": "01_next"}
    runs.write_json(run.path / "claims.json", [made])
    assert "recorded seeds, not this run" in soup_of(site.build(run)).select_one(".findings li").get_text()


def test_a_slug_is_plain():
    assert lesson.slug("4. Where did the mass go? (É)") == "4-where-did-the-mass-go-e" and lesson.slug("…") == "section"
