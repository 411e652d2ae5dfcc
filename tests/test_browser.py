"""A real browser: JupyterLab in headless Chromium, the views to touch moved by keyboard, the picture must follow.

Skipped, with the reason, without Chromium or without the playwright package; RLHF_KIT_REQUIRE_BROWSER=1 makes that a
failure. RLHF_KIT_CHROMIUM names another executable; RLHF_KIT_ARTEFACTS a folder in which the screenshots stay.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

TESTS = Path(__file__).resolve().parent
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()  # fmt: skip
# Two tabs stops of the chat speak of the next answer only, so the picture does not follow them.
SILENT = {("chat", "your prompt"), ("chat", "temperature (0: greedy)"), ("chat", "which draw")}
NAMES = ("judge", "bench", "microscope", "force-field", "mass", "pairs", "goodhart", "verdict", "chat")


def _chromium() -> str | None:
    named = os.environ.get("RLHF_KIT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "the playwright package is not installed (pip install playwright)"
    if missing is None and _chromium() is None:
        missing = "there is no Chromium (apt-get install chromium, or set RLHF_KIT_CHROMIUM)"
    if missing:
        if os.environ.get("RLHF_KIT_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory) -> Path:
    """Where screenshots go."""
    named = os.environ.get("RLHF_KIT_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("browser")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def notebook(path: Path) -> Path:
    """A throw-away notebook with all views on tiny data."""
    places = [str(TESTS.parent), str(TESTS)]
    first = f"import sys\nfrom pathlib import Path\nsys.path[:0] = {places}\nfrom views_data import views\nmade = views(Path('.'))"
    cells = [nbformat.v4.new_code_cell(first)]
    cells += [nbformat.v4.new_code_cell(f"made[{name.replace('-', ' ')!r}](True)") for name in NAMES]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own, with no settings of this machine: its address and its folder."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    # All cells stay in the page, also those that are scrolled away; nobody is asked about news.
    for plugin, values in (("notebook-extension/tracker", {"windowingMode": "none"}), ("apputils-extension/notification", {"fetchNews": "false"})):
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_CONFIG_DIR": "config",
           "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}  # fmt: skip
    env = {**os.environ, **{name: str(home / folder) for name, folder in own.items()}}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={work}", "--IdentityProvider.token=views", "--LabApp.extension_manager=readonly",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    with open(home / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{address}/api?token=views", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not answer: " + (home / "lab.log").read_text()[-2000:])
        if server.poll() is not None:
            pytest.fail("JupyterLab ended: " + (home / "lab.log").read_text()[-2000:])
        yield address, work
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def page(browser, lab, artefacts):
    """The notebook, opened and run to its end; the console's errors are in `page.errors`."""
    address, work = lab
    notebook(work / "views.ipynb")
    shown = browser.new_page(viewport={"width": 1500, "height": 1100})
    shown.errors = []
    shown.on("console", lambda message: shown.errors.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: shown.errors.append(str(error)))
    shown.goto(f"{address}/lab/tree/views.ipynb?token=views", timeout=120_000)
    shown.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    shown.wait_for_function("document.body.innerText.includes('| Idle')", timeout=120_000)  # the kernel is there
    shown.click(".jp-Notebook .jp-CodeCell >> nth=0")
    for _ in range(1 + len(NAMES)):
        shown.keyboard.press("Shift+Enter")
    try:
        for name in NAMES:
            shown.wait_for_selector(f".view-{name}", timeout=180_000)
    finally:
        shown.screenshot(path=artefacts / "notebook.png")
    yield shown
    shown.close()


PIXELS = """img => fetch(img.src).then(r => r.arrayBuffer()).then(b => crypto.subtle.digest('SHA-256', b))
    .then(d => new Uint8Array(d).join())"""


def state(view) -> tuple[str, str]:
    """(the picture, the words and the table) of a view, as the page has them."""
    image = view.locator("img").first
    return image.evaluate(PIXELS), "\n".join(view.locator(".widget-html-content").all_inner_texts())


def follows(view, before, seconds: float = 2.5) -> bool:
    """Whether the picture changes within some seconds, or gives way to a sentence that says why there is none."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = state(view)
        if now[0] != before[0] or ("Not shown" in now[1]) != ("Not shown" in before[1]):
            return True
        time.sleep(0.1)
    return False


def moved(view, focusable, keys) -> bool:
    """Presses the keys one after the other until the view follows."""
    for key in keys:
        before = state(view)
        focusable.focus()
        view.page.keyboard.press(key)
        if follows(view, before):
            return True
    return False


@pytest.mark.parametrize("name", [n for n in NAMES if n != "judge"])
def test_every_control_moves_by_keyboard_and_the_picture_follows(page, artefacts, name):
    view = page.locator(f".view-{name}")
    view.scroll_into_view_if_needed()
    view.screenshot(path=artefacts / f"{name}-first.png")
    dead, tried = [], 0
    for row in view.locator(".widget-hbox").first.locator(":scope > *").all():
        if not row.locator("label").count():
            continue  # a button, or words
        text = row.locator("label").first.inner_text().strip()
        if (name, text) in SILENT:
            continue
        for handle in row.locator(".noUi-handle").all():
            tried += 1
            ends = row.locator(".noUi-handle").count() == 2  # of a range: from its end inwards, and not past the other
            inwards = ("PageUp" if "noUi-handle-lower" in handle.get_attribute("class") else "PageDown",) * 8
            if not moved(view, handle, inwards if ends else ("ArrowLeft", "ArrowRight", "Home", "End")):
                dead.append(f"slider {text}")
        assert not row.locator("select").count(), f"{text}: JupyterLab takes the arrow keys of a drop-down list"
        one_of = row.locator("button")
        if one_of.count():
            tried += 1
            chosen = next(k for k in range(one_of.count()) if "mod-active" in one_of.nth(k).get_attribute("class"))
            if not moved(view, one_of.nth(1 if chosen == 0 else 0), ("Enter",)):
                dead.append(f"buttons {text}")
            moved(view, one_of.nth(chosen), ("Enter",))  # back, so that the next control finds what it needs
        for area in row.locator("textarea").all():
            tried += 1
            if not moved(view, area, ("x", "End")):
                dead.append(f"text {text}")
        for check in row.locator("input[type=checkbox]").all():
            tried += 1
            if not moved(view, check, ("Space",)):
                dead.append(f"tick {text}")
    view.screenshot(path=artefacts / f"{name}-moved.png")
    assert tried and not dead, f"{name}: of {tried} controls these move nothing: {dead}"
    image = view.locator("img").first
    assert image.get_attribute("alt") == view.locator("[role=status]").last.inner_text()  # the picture's text alternative


def test_judging_by_keyboard(page, lab, artefacts):
    view = page.locator(".view-judge")
    view.scroll_into_view_if_needed()
    view.screenshot(path=artefacts / "judge-first.png")
    assert not view.locator("img").first.is_visible()  # blind
    for k in range(8):
        press = view.locator("button", has_text="A is better" if k % 2 else "B is better")
        press.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("([n]) => document.querySelector('.view-judge').innerText.match(new RegExp(n))",
                               arg=[f"Pair {k + 2} of 8" if k < 7 else "8 labels"], timeout=10_000)  # fmt: skip
        assert len((lab[1] / "my_labels.jsonl").read_text().splitlines()) == k + 1
    view.locator("img").first.wait_for(state="visible", timeout=10_000)
    view.scroll_into_view_if_needed()
    view.screenshot(path=artefacts / "judge-result.png")
    assert "You labelled 8 pairs" in view.inner_text()


def test_hostile_text_is_text_and_the_console_is_clean(page):
    assert page.locator(".rlhf-kit-view script").count() == 0
    assert page.locator(".rlhf-kit-view img").count() == len(NAMES)  # the pictures alone
    assert "<script>" in page.locator(".view-pairs").inner_text()
    assert not page.errors, page.errors[:5]
