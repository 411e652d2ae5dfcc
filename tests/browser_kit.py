"""What the browser tests share: Chromium, a JupyterLab started as `make lab` starts it, notebooks run in it (`browser_views` moves
the controls that they show).

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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()  # fmt: skip
TOKEN = "views"


def chromium() -> str | None:
    named = os.environ.get("RLHF_KIT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium_opened() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def browser():
    missing = None
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        missing = "the playwright package is not installed (pip install -r requirements-test.txt)"
    if missing is None and chromium() is None:
        missing = "there is no Chromium (apt-get install chromium, or set RLHF_KIT_CHROMIUM)"
    if missing:
        if os.environ.get("RLHF_KIT_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with chromium_opened() as opened:
        yield opened


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
    with lab_opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@contextmanager
def lab_opened(home: Path) -> Iterator[SimpleNamespace]:
    """A JupyterLab of its own in an empty folder, with no settings of this machine: its address, its folder and the root of its runs."""
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
            raise AssertionError("JupyterLab did not answer: " + (home / "lab.log").read_text()[-2000:])
        assert server.poll() is None, "JupyterLab ended: " + (home / "lab.log").read_text()[-2000:]
        yield SimpleNamespace(address=address, work=work, runs=home / "runs")
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, sign)
                server.wait(60)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:  # on a machine that has other things to do; nothing of it is needed any more
                continue


class Talk:
    """How often the page has told the kernel of a changed control (`asked`), and what the kernel is still at (`open`).

    So a test need not guess how long an answer takes: it has come when nothing is open, and it never will when nothing was asked.
    """

    def __init__(self, page):
        self.asked, self.open = 0, set()
        page.on("websocket", lambda socket: self._follow(socket) if "/channels" in socket.url else None)

    def _follow(self, socket) -> None:
        socket.on("framesent", lambda frame: self._sent(*_message(frame)))
        socket.on("framereceived", lambda frame: self._received(*_message(frame)))

    def _sent(self, header: Mapping, parent: Mapping, content: Mapping) -> None:
        if header["msg_type"] == "comm_msg":
            self.asked += 1
            self.open.add(header["msg_id"])

    def _received(self, header: Mapping, parent: Mapping, content: Mapping) -> None:
        if header["msg_type"] == "status" and content["execution_state"] == "idle":
            self.open.discard(parent.get("msg_id"))


def _message(frame: str | bytes) -> tuple[dict, dict, dict]:
    """(header, parent, content) of a message in Jupyter's protocol: JSON, or its parts after a table of where each begins."""
    if isinstance(frame, str):
        whole = json.loads(frame)
        return whole["header"], whole["parent_header"], whole["content"]
    places = [int.from_bytes(frame[8 * k : 8 * k + 8], "little") for k in range(1, 7)]
    _, header, parent, _, content = (frame[start:end] for start, end in pairwise(places))
    return json.loads(header), json.loads(parent), json.loads(content)


def open_notebook(browser, lab, place: str, known: Iterable[str] = ()):
    """A page with the notebook `place` (below the lab's folder) and its kernel; `page.errors` fills with the console's
    errors and with requests to elsewhere, `page.talk` follows what it says to its kernel. known: messages that are no error of ours, word for word."""
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.errors, page.talk = [], Talk(page)
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


def with_dial(lesson: Path, to: Path, run: str, before: str = "") -> None:
    """A copy of a lesson without outputs, its dial set to the profile `run`, its run of that name, and live. before: code of a first cell."""
    values = {"PROFILE": f'"{run}"', "RUN": f'"{run}"', "INTERACTIVE": "True"}
    book = json.loads(lesson.read_text(encoding="utf-8"))
    (cell,) = (c for c in book["cells"] if "parameters" in c["metadata"].get("tags", []))
    lines = "".join(cell["source"]).splitlines()
    names = [line.split("=")[0].split(":")[0].strip() for line in lines]
    assert set(values) <= set(names)
    cell["source"] = "\n".join(f"{n} = {values[n]}" if n in values else line for n, line in zip(names, lines, strict=True))
    if before:
        book["cells"].insert(0, {"cell_type": "code", "id": "before", "metadata": {}, "source": before})
    for one in book["cells"]:
        if one["cell_type"] == "code":
            one["outputs"], one["execution_count"] = [], None  # what is seen is of this run
    to.write_text(json.dumps(book), encoding="utf-8")


def end_kernels(lab) -> None:
    """Ends all kernels, so that one notebook's memory is free before the next one starts."""
    ask = lambda path, method="GET": urllib.request.urlopen(  # noqa: E731
        urllib.request.Request(f"{lab.address}/api/{path}?token={TOKEN}", method=method), timeout=120
    ).read()
    for session in json.loads(ask("sessions")):
        ask(f"sessions/{session['id']}", "DELETE")
