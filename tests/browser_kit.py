"""What the browser tests share: Chromium, a JupyterLab started as `make lab` starts it, notebooks run in it, controls moved.

Skipped, with the reason, without Chromium or without the playwright package; RLHF_KIT_REQUIRE_BROWSER=1 makes that a
failure. RLHF_KIT_CHROMIUM names another executable; RLHF_KIT_ARTEFACTS a folder in which the screenshots stay.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()  # fmt: skip
# Tab stops of the chat that speak of the next answer only, so the picture does not follow them.
SILENT = {("chat", "your prompt"), ("chat", "temperature (0: greedy)"), ("chat", "which draw")}
TOKEN = "views"


def chromium() -> str | None:
    named = os.environ.get("RLHF_KIT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "the playwright package is not installed (pip install -r requirements-test.txt)"
    if missing is None and chromium() is None:
        missing = "there is no Chromium (apt-get install chromium, or set RLHF_KIT_CHROMIUM)"
    if missing:
        if os.environ.get("RLHF_KIT_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory) -> Path:
    """Where screenshots go; the folder is told at the end of the session."""
    named = os.environ.get("RLHF_KIT_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("browser")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if any(folder.iterdir()):
        print(f"\nscreenshots: {folder}", file=sys.__stderr__)


# ---------------------------------------------------------------- JupyterLab


def lab_command(port: int) -> list[str]:
    """The command of `make lab`, with what a test adds: no window of its own, a port and a token."""
    more = ["--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
            "--ServerApp.shutdown_no_activity_timeout=1800",  # where the tests are killed it ends by itself
            "--LabApp.extension_manager=readonly"]  # fmt: skip
    told = subprocess.run(["make", "-n", "lab", f"ARGS={shlex.join(more)}"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if "jupyterlab" in line)
    python, *rest = shlex.split(line)
    assert python == ".venv/bin/python", line
    return [sys.executable, *rest]


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """A JupyterLab of its own, with no settings of this machine: its address, its folder and the root of its runs."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "notebooks"  # below the folder that is served, as in the project
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
           "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython", "RLHF_KIT_RUNS": "runs"}  # fmt: skip
    env = {**os.environ, **{name: str(home / folder) for name, folder in own.items()}}
    env["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(home / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(lab_command(port), env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not answer: " + (home / "lab.log").read_text()[-2000:])
        if server.poll() is not None:
            pytest.fail("JupyterLab ended: " + (home / "lab.log").read_text()[-2000:])
        yield SimpleNamespace(address=address, work=work, runs=home / "runs")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def open_notebook(browser, lab, place: str, known: Iterable[str] = ()):
    """A page with the notebook `place` (below the lab's folder) and its kernel; `page.errors` fills with the console's
    errors and with requests to elsewhere. known: messages that are no error of ours, word for word."""
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.errors = []
    told = lambda text: None if text in known else page.errors.append(text)  # noqa: E731
    page.on("console", lambda message: told(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told(str(error)))
    page.on("request", lambda request: None if request.url.startswith((lab.address, "data:", "blob:", "ws://127.0.0.1")) else told(f"asks for {request.url}"))
    # a workspace of its own, so that no notebook of before is opened again, with another kernel
    page.goto(f"{lab.address}/lab/workspaces/{Path(place).stem}/tree/notebooks/{place}?token={TOKEN}", timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_function("document.body.innerText.includes('| Idle')", timeout=120_000)  # the kernel is there
    return page


def run_all(page, seconds: float) -> None:
    """Runs all cells from the menu and waits until the last one has run or one has failed; fails with its message."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => { const cells = document.querySelectorAll('.jp-Notebook .jp-CodeCell');
        const last = cells[cells.length - 1].querySelector('.jp-InputPrompt').innerText;
        return /\\[\\d+\\]/.test(last) || document.querySelector('[data-mime-type="application/vnd.jupyter.error"]') }""",
        timeout=1000 * seconds,
    )
    wrong = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert not wrong.count(), wrong.first.inner_text()[-1500:]


def end_kernels(lab) -> None:
    """Ends all kernels, so that one notebook's memory is free before the next one starts."""
    ask = lambda path, method="GET": urllib.request.urlopen(  # noqa: E731
        urllib.request.Request(f"{lab.address}/api/{path}?token={TOKEN}", method=method), timeout=30
    ).read()
    for session in json.loads(ask("sessions")):
        ask(f"sessions/{session['id']}", "DELETE")


# ---------------------------------------------------------------- views

PIXELS = """img => fetch(img.src).then(r => r.arrayBuffer()).then(b => crypto.subtle.digest('SHA-256', b))
    .then(d => new Uint8Array(d).join())"""


def state(view) -> tuple[str, str]:
    """(the picture, the words and the table) of a view, as the page has them."""
    image = view.locator("img").first
    return image.evaluate(PIXELS), "\n".join(view.locator(".widget-html-content").all_inner_texts())


def follows(view, before, words: bool = False, seconds: float = 2.5, most: float = 30) -> bool:
    """Whether the picture (with `words`, the picture or its words) changes, or gives way to a sentence that says why there is none. It waits some seconds, and
    longer where the kernel is still at work (on a machine that has other things to do)."""
    start = time.monotonic()
    while True:
        now = state(view)
        if now[0] != before[0] or (words and now != before) or ("Not shown" in now[1]) != ("Not shown" in before[1]):
            return True
        waited = time.monotonic() - start
        if waited > most or (waited > seconds and "| Busy" not in view.page.locator("#jp-main-statusbar").inner_text()):
            return False
        time.sleep(0.05)


def moved(view, focusable, keys, words: bool = False) -> bool:
    """Presses the keys one after the other until the view follows."""
    for key in keys:
        before = state(view)
        focusable.focus()
        view.page.keyboard.press(key)
        if follows(view, before, words):
            return True
    return False


def ways(handle) -> tuple[str, ...]:
    """The keys that move a slider, those first that lead away from the end at which it stands: waiting for the others takes seconds."""
    first = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemin")
    return ("ArrowRight", "ArrowLeft", "End", "Home") if first else ("ArrowLeft", "ArrowRight", "Home", "End")


def name_of(view) -> str:
    """`chat` of a view with the class `view-chat`."""
    return next(c for c in view.get_attribute("class").split() if c.startswith("view-")).removeprefix("view-")


def move_all(view, in_words: Collection[tuple[str, str]] = ()) -> tuple[int, list[str]]:
    """Moves every control of a view once, by keyboard: (how many there are, those that the picture did not follow).

    in_words: (view, control) of which it is enough that the words follow.
    """
    name, dead, tried = name_of(view), [], 0
    for row in view.locator(".widget-hbox").first.locator(":scope > :not(.widget-hbox)").all():  # but for the buttons, which stand together
        if not row.locator("label").count():
            continue  # words
        text = row.locator("label").first.inner_text().strip()
        if (name, text) in SILENT:
            continue
        for handle in row.locator(".noUi-handle").all():
            tried += 1
            ends = row.locator(".noUi-handle").count() == 2  # of a range: from its end inwards, and not past the other
            inwards = ("PageUp" if "noUi-handle-lower" in handle.get_attribute("class") else "PageDown",) * 8
            if not moved(view, handle, inwards if ends else ways(handle), (name, text) in in_words):
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
    return tried, dead


def judge(page, view, n: int, saved: Path) -> None:
    """Labels the n pairs of the judge by keyboard; each label is in the file before the next pair is shown."""
    assert not view.locator("img").first.is_visible()  # blind
    for k in range(n):
        press = view.locator("button", has_text="A is better" if k % 2 else "B is better")
        press.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("([n]) => document.querySelector('.view-judge').innerText.match(new RegExp(n))",
                               arg=[f"Pair {k + 2} of {n}" if k < n - 1 else f"{n} labels"], timeout=30_000)  # fmt: skip
        assert len(saved.read_text().splitlines()) == k + 1
    view.locator("img").first.wait_for(state="visible", timeout=30_000)
    assert f"You labelled {n} pairs" in view.inner_text()
