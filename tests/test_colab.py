"""The first cell on Colab, executed with a stand-in for Colab and for pip."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rlhf_kit.running import notebooks
from rlhf_kit.runs import PROJECT

SCRIPT = PROJECT / "scripts" / "colab.py"
PATHS = sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def colab():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_lesson_begins_with_the_same_cell(colab, path):
    cells = json.loads(path.read_text())["cells"]
    found = [i for i, cell in enumerate(cells) if "colab" in cell["metadata"].get("tags", [])]
    assert found == [1]
    address = re.search(r'REPOSITORY = "(.*?)"', "".join(cells[1]["source"])).group(1)
    assert "".join(cells[1]["source"]) == colab["CELL"].format(address=address)


def test_the_cell_does_nothing_elsewhere(colab, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a command was run outside Colab"))
    exec(colab["CELL"].format(address=""), {})


@pytest.fixture
def on_colab(monkeypatch, tmp_path):
    """Colab's module, and /content moved to a folder of the test; returns (run the cell, restarts seen)."""
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    restarts = []
    kernel = types.SimpleNamespace(do_shutdown=restarts.append)

    def run(source):
        exec(source.replace("/content", str(tmp_path)), {"get_ipython": lambda: types.SimpleNamespace(kernel=kernel)})

    return run, restarts


def test_on_colab_it_clones_looks_and_restarts_only_after_a_change(colab, on_colab, tmp_path, capsys, monkeypatch):
    run, restarts = on_colab
    origin = tmp_path / "origin"  # a repository with the script and one requirement, which this Python has
    (origin / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, origin / "scripts" / "colab.py")
    (origin / "requirements.txt").write_text(f"pytest=={pytest.__version__}\n")
    (origin / "requirements-gpu.txt").write_text("")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(origin)]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    run(colab["CELL"].format(address=origin.as_uri()))
    assert "are installed" in capsys.readouterr().out and not restarts
    assert sys.path[0] == str(tmp_path / "kit")

    # another version is pinned: pip is called with it; a pip that fails is told, a pip that works restarts the session
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "kit" / "requirements.txt").write_text("pytest==0.0.0\n")
    with pytest.raises(AssertionError, match="could not be installed"):
        run(colab["CELL"].format(address=origin.as_uri()))
    assert "No matching distribution" in capsys.readouterr().out and not restarts
    fake = tmp_path / "kit" / "scripts" / "pip"  # the script's own folder comes first on its path
    fake.mkdir()
    (fake / "__main__.py").write_text("")
    script = tmp_path / "kit" / "scripts" / "colab.py"
    script.write_text(script.read_text().replace('"-m", "pip"', f'"{fake}"'))
    run(colab["CELL"].format(address=origin.as_uri()))
    assert "1 packages were changed" in capsys.readouterr().out and restarts == [True]


@pytest.fixture
def fresh_widgets():
    """The switch as in a new kernel, before and after."""
    from rlhf_kit.views.interactive.colab import enable_widgets

    enable_widgets.cache_clear()
    yield enable_widgets
    enable_widgets.cache_clear()


def test_a_live_view_turns_colabs_widgets_on_once(on_colab, fresh_widgets, monkeypatch):
    from views_data import views

    asked = []
    sys.modules["google.colab"].output = types.SimpleNamespace(enable_custom_widget_manager=lambda: asked.append(1))
    monkeypatch.setattr("rlhf_kit.views.interactive.panel._display", lambda *a, **k: None)
    made = views(Path.cwd())
    made["bench"](False)
    assert not asked  # a still picture needs no widgets
    panel = made["bench"](True)
    made["goodhart"](True)
    assert asked == [1] and panel.controls


def test_elsewhere_and_on_a_colab_without_the_switch_nothing_is_asked(on_colab, fresh_widgets, monkeypatch):
    assert fresh_widgets() is False  # the stand-in has no `output`
    fresh_widgets.cache_clear()
    monkeypatch.delitem(sys.modules, "google.colab")
    assert fresh_widgets() is False


def test_without_an_address_it_says_what_to_set(colab, on_colab):
    with pytest.raises(AssertionError, match="set REPOSITORY"):
        on_colab[0](colab["CELL"].format(address=""))


def test_publishing_writes_address_and_badges_and_can_be_repeated(colab, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in PATHS[:2]:
        shutil.copy(path, tmp_path / "notebooks")
    (tmp_path / "README.md").write_text("# Title\n\n<!-- badges -->\n<!-- /badges -->\n\nText.\n")
    for name in ("someone/rlhf", "other/kit.2"):
        colab["publish"](name, tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert text.count(f"github/{name}/blob/main/notebooks/") == 2 and text.endswith("Text.\n")
        for path in (tmp_path / "notebooks").iterdir():
            book = json.loads(path.read_text())
            assert f'REPOSITORY = "https://github.com/{name}"' in "".join(book["cells"][1]["source"])
            assert notebooks.load(path).parameters["PROFILE"] == "laptop"
    assert "someone" not in text
    with pytest.raises(SystemExit, match="not OWNER/NAME"):
        colab["publish"]("https://github.com/x/y", tmp_path)


def test_a_local_build_tag_is_no_difference(colab, monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda package: {"torch": "2.13.0+cpu", "numpy": "1.0"}[package])
    assert colab["differing"]({"torch": "2.13.0", "numpy": "2.3.5"}) == ["numpy==2.3.5"]
