"""The built site in a real browser: below a sub-path of a server, at the width of a desk and of a phone, light and dark."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading

import nbformat
import pytest

from rlhf_kit.files import locked

WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
SHOWN = ("index.html", "figures.html", "07_dpo.html")  # of these pictures are kept
# What sticks out of the page, but for what scrolls in a box of its own.
OUTSIDE = """() => [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&
    !e.closest('.box, pre, figure, .formula, .skip')).slice(0, 3).map(e => e.outerHTML.slice(0, 150))"""
# What scrolls sideways without a sign of it: a shadow below the text, or for pictures a fade and a word.
UNMARKED = """() => [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.checkVisibility() &&
    ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).filter(e => e.tagName === 'FIGURE'
    ? getComputedStyle(e).maskImage === 'none' || !getComputedStyle(e, '::after').content.includes('wider than the screen')
    : getComputedStyle(e).backgroundImage.split('-gradient').length !== 5).slice(0, 3).map(e => e.outerHTML.slice(0, 150))"""
# Contrast of text against its own background, for every element with text of its own: those below 4.5 to 1.
PALE = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b };
  const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)|transparent/.test(c)) return c }
                      return 'rgb(255,255,255)' };
  const bad = new Set();
  for (const e of document.querySelectorAll('main *, nav *, header *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility({opacityProperty: true}) || e.closest('.anchor, math')) continue;
    const a = light(getComputedStyle(e).color), b = light(back(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.add(`${e.tagName}.${e.className} ${getComputedStyle(e).color} on ${back(e)}: ${ratio.toFixed(2)}`);
  }
  return [...bad].slice(0, 5) }"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(smoke_course, tmp_path_factory):
    """The site of the smoke run as a host of static pages gives it: some levels below the root."""
    done = smoke_course.done
    assert done is None or done.returncode == 0, done.stdout + done.stderr
    root = tmp_path_factory.mktemp("host")
    with locked(smoke_course.lock, "the smoke course of the tests"):
        shutil.copytree(smoke_course.run / "site", root / "some" / "course")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/some/course"
    server.shutdown()


@pytest.fixture
def opened(browser, address):
    """opened(width, **more) -> a page whose console errors and requests to elsewhere are in `page.errors`."""
    contexts = []

    def make(width="desk", **more):
        size = WIDTHS[width]
        contexts.append(browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=width == "phone", **more))
        page = contexts[-1].new_page()
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "file:")) else page.errors.append(f"asks for {r.url}"))
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_reads_well(opened, address, smoke_course, artefacts, width):
    page = opened(width)
    for file in sorted(p.name for p in (smoke_course.run / "site").glob("*.html")):
        page.goto(f"{address}/{file}")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{file} is {over} pixels too wide at {width}: {page.evaluate(OUTSIDE)}"
            assert width == "desk" or not page.evaluate(UNMARKED), f"{file}, {scheme}: no sign that it scrolls: {page.evaluate(UNMARKED)}"
            if file in SHOWN:
                page.screenshot(path=artefacts / f"site-{file.removesuffix('.html')}-{width}-{scheme}.png")
            if width == "desk":
                assert not page.evaluate(PALE), f"{file}, {scheme}: {page.evaluate(PALE)}"
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), f"{file}: a picture does not decode"
        assert page.locator(".side details").evaluate("d => d.open") == (width == "desk")
    assert not page.errors, page.errors[:5]


def test_light_and_dark_are_chosen_and_kept(opened, address):
    page = opened(color_scheme="light")
    page.goto(f"{address}/index.html")
    back = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = back()
    page.click("#theme")
    dark = back()
    assert dark != light
    page.click("nav.turn a[rel=next]")  # to the first lesson
    page.wait_for_url(f"{address}/0*")
    assert back() == dark
    page.click("#theme")
    assert back() == light and not page.errors


def test_paper_is_light_and_has_the_figures(opened, address):
    page = opened(color_scheme="dark")
    page.goto(f"{address}/07_dpo.html")
    look = """(() => { const image = getComputedStyle(document.querySelector('figure img'));
        return [image.filter, image.mixBlendMode, getComputedStyle(document.body).color] })()"""
    for theme in ("light", "dark"):  # as the system has it, and as the reader chose
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(look) == ["none", "normal", "rgb(27, 31, 36)"], theme
        page.emulate_media(media="screen", color_scheme="dark")
        assert (page.evaluate(look)[1] == "screen") == (theme == "dark")


def test_a_field_finds_rows_and_the_contents_follow_the_reader(opened, address):
    page = opened()
    page.goto(f"{address}/glossary.html")
    rows = page.locator(".find tbody tr")
    everything = rows.count()
    page.fill(".look", "bayes")
    found = [row for row in rows.all() if row.is_visible()]
    assert 0 < len(found) < everything and all("bayes" in row.inner_text().lower() for row in found)
    page.goto(f"{address}/07_dpo.html")
    assert page.locator(".side a.here").count() == 0
    last = page.locator("main h2").last
    last.evaluate("h => h.scrollIntoView()")
    page.wait_for_selector(".side a.here", state="attached")  # the page's policy forbids waiting by a script's text
    assert page.locator(".side a.here").bounding_box()["y"] < 900 and not page.errors


def test_contents_lead_to_headings(opened, address):
    page = opened()
    page.goto(f"{address}/07_dpo.html")
    page.click("nav.side ul ul a >> nth=1")
    anchor = page.url.split("#")[1]
    assert page.locator(f"[id='{anchor}']").bounding_box()["y"] < 400
    assert page.locator(".cell math").count() > 3 and page.locator("math mfrac").first.bounding_box()["height"] > 15


def test_copied_code_is_the_cell_as_it_stands(opened, address, smoke_course):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/07_dpo.html")
    book = nbformat.read(smoke_course.run / "notebooks" / "07_dpo.ipynb", 4)
    sources = [c.source for c in book.cells if c.cell_type == "code" and not {"injected-parameters", "colab"} & set(c.metadata.get("tags", []))]
    assert page.locator(".copy").count() == len(sources)
    for place in (0, 1, len(sources) - 1):
        page.locator(".copy").nth(place).click()
        page.locator(".copy").nth(place).get_by_text("copied").wait_for(timeout=5000)
        assert page.evaluate("navigator.clipboard.readText()").rstrip("\n") == sources[place].rstrip("\n")


def test_it_works_from_a_disk(opened, smoke_course):
    page = opened("phone")
    page.goto((smoke_course.run / "site" / "index.html").as_uri())
    page.click(".side summary")
    page.click("nav.side li a >> nth=1")
    page.wait_for_url("**/00_start_here.html")
    assert not page.errors
