"""How long the live figures take to answer: each control of every lesson moved by keyboard in JupyterLab, in headless Chromium.

    .venv/bin/python scripts/time_controls.py --run laptop
    .venv/bin/python scripts/time_controls.py --run smoke --only 06,07 --times 20

Needs a finished run of that profile and what the browser tests need (requirements-test.txt, Chromium). Prints for each
control the median and the 90th percentile, in milliseconds, of: key press to the changed picture on the page (to the
changed words where the picture stays), the kernel's handling of the message, and the processor time of that. The
chat's own answers, which policies write, are not timed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT)]

from browser_kit import chromium_opened, end_kernels, lab_opened, open_notebook, run_all, with_dial  # noqa: E402
from browser_views import Control, controls, name_of, settle  # noqa: E402

from rlhf_kit.running import notebooks  # noqa: E402
from rlhf_kit.runs import runs_folder  # noqa: E402

# In the kernel: what a message of the page costs, one line each.
CLOCK = """
import json, time
import ipywidgets
def _timed(self, message, _handle=ipywidgets.Widget._handle_msg):
    wall, cpu = time.perf_counter(), time.process_time()
    _handle(self, message)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    with open({path!r}, "a") as lines:
        lines.write(json.dumps([1000 * wall, 1000 * cpu]) + "\\n")
ipywidgets.Widget._handle_msg = _timed
"""
# In the page: the last key, and when the view had changed after it and been painted.
WATCH = """view => {
    const clock = window.clock = {}, look = () => ({picture: (view.querySelector('img') || {}).src,
        words: [...view.querySelectorAll('.widget-html-content')].map(part => part.innerText).join()});
    let shown = look();
    document.addEventListener('keydown', () => { clock.pressed = performance.now(); delete clock.picture; delete clock.words; }, true);
    new MutationObserver(() => {
        const now = look(), changed = Object.keys(now).filter(what => now[what] !== shown[what]);
        shown = now;
        requestAnimationFrame(() => setTimeout(() => changed.forEach(what => clock[what] = clock[what] || performance.now())));
    }).observe(view, {childList: true, subtree: true, characterData: true});
}"""
CLOCKED = "() => [clock.picture, clock.words].map(then => then && then - clock.pressed)"


def keys(control: Control, times: int) -> Iterator:
    """(element, key) `times` times: a slider goes to and fro, buttons are pressed in turn."""
    if control.kind in ("slider", "range"):
        (handle, away), *_ = control.presses
        back = {"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft", "PageUp": "PageDown", "PageDown": "PageUp"}[away]
        return islice(cycle([(handle, away)] * 3 + [(handle, back)] * 3), times)
    if control.back:
        return islice(cycle([*control.presses, control.back]), times)
    return islice(cycle(control.presses[:1]), times)


def buttons(view) -> list[Control]:
    """The buttons that stand together, but for those that ask models to write or begin anew."""
    found = view.locator(".widget-hbox .widget-hbox button").all()
    texts = [(one, one.inner_text().strip()) for one in found]
    return [Control("button", text, [(one, "Enter")]) for one, text in texts if one.is_enabled() and text not in ("answer", "undo", "start again")]


def timed(view, presses: Iterator, told: Path) -> tuple[list, list, list]:
    """Milliseconds of every press that changed something: to the page's change, of the kernel, of its processor."""
    page, shown, wall, cpu = view.page, [], [], []
    for element, key in presses:
        settle(view)
        before = len(told.read_text().splitlines())
        if not element.is_enabled():
            continue
        element.focus()
        page.keyboard.press(key)
        page.wait_for_timeout(30)
        settle(view)
        picture, words = page.evaluate(CLOCKED)
        lines = [json.loads(line) for line in told.read_text().splitlines()[before:]]
        if lines and (picture or words):
            shown.append(picture or words)
            wall.append(sum(line[0] for line in lines))
            cpu.append(sum(line[1] for line in lines))
    return shown, wall, cpu


def row_of(name: str, control: Control, found: Sequence[Sequence[float]]) -> str:
    cells = "".join(f"{np.median(part):9.0f}{np.percentile(part, 90):8.0f}" for part in found) if found[0] else "  nothing changed"
    return f"{name:12} {control.kind + ' ' + control.text:34.34} {len(found[0]):5d}{cells}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="laptop", help="a finished run of the profile of that name (default: laptop)")
    parser.add_argument("--only", default="", help="numbers of lessons, such as 06,07")
    parser.add_argument("--times", type=int, default=12, help="presses a control (default: 12)")
    asked = parser.parse_args()
    lessons = [path for path in sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb")) if "interactive=INTERACTIVE" in path.read_text(encoding="utf-8")]
    lessons = [path for path in lessons if not asked.only or path.name[:2] in asked.only.split(",")]
    worst = 0.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended from outside, it still ends JupyterLab and Chromium
    with tempfile.TemporaryDirectory() as folder, chromium_opened() as browser, lab_opened(Path(folder)) as lab:
        shutil.copytree(runs_folder() / asked.run, lab.runs / asked.run)
        (lab.runs / asked.run / "lesson-01" / "my_labels.jsonl").unlink(missing_ok=True)  # of the copy: the judge begins with the first pair
        told = Path(folder) / "messages.jsonl"
        parts = "".join(f"{part:>17}" for part in ("page", "kernel", "processor"))
        print(f"{'view':12} {'control':34} times{parts}\n{'':52}" + f"{'median':>9}{'90 %':>8}" * 3, flush=True)
        for lesson in lessons:
            told.write_text("")
            with_dial(lesson, lab.work / lesson.name, asked.run, CLOCK.format(path=str(told)))
            page = open_notebook(browser, lab, lesson.name)
            run_all(page, 600)
            for view in page.locator(".rlhf-kit-view").all():
                view.scroll_into_view_if_needed()
                settle(view)
                view.evaluate(WATCH)
                for control in [*controls(view), *buttons(view)]:
                    found = timed(view, keys(control, asked.times), told)
                    worst = max(worst, float(np.median(found[2])) if found[2] else 0.0)
                    print(row_of(name_of(view), control, found), flush=True)
            page.close()
            end_kernels(lab)
    print(f"largest median of processor time: {worst:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
