"""The README says what the files say: times, links, commands, and the recorded comparison."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from rlhf_kit.runs import PROJECT

TEXT = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_times_are_those_that_were_measured():
    measured = yaml.safe_load((PROJECT / "data/expected/timings.yaml").read_text(encoding="utf-8"))["laptop"]
    told = {n: int(m) * 60 + int(s) for n, m, s in re.findall(r"^\| \[`(\w+)`\].*\| (\d+):(\d\d) \|$", TEXT, re.M)}
    assert told == measured
    minutes, seconds = re.search(r"the whole course \| (\d+):(\d\d) \|", TEXT).groups()
    assert int(minutes) * 60 + int(seconds) == sum(measured.values())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(link):
    assert (PROJECT / link).exists()


@pytest.mark.parametrize("page", sorted([*PROJECT.glob("notebooks/*.ipynb"), *PROJECT.glob("notebooks/*.md")]), ids=lambda p: p.stem)
def test_files_that_a_lesson_names_are_there(page):
    named = re.findall(r"`((?:rlhf_kit|data|scripts|tests)/[\w/.-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (PROJECT / name).is_file()]


def test_targets_exist():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z]+)\b", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_tree_names_files_that_exist():
    tree = TEXT.split("## The tree")[1]
    for name in re.findall(r"\b([a-z_]+\.py)\b", tree):
        assert (PROJECT / "rlhf_kit" / name).is_file(), name


def test_the_comparison_over_seeds_is_the_recorded_one():
    recorded = json.loads((PROJECT / "data/expected/online_vs_offline.json").read_text(encoding="utf-8"))
    value = f"{recorded['effect']:+.2f} [{recorded['low']:.2f}, {recorded['high']:.2f}]"
    assert f"| {value} of 10 |" in TEXT
