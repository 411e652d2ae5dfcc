"""Claims: statuses by band and interval, unknown ids, the collected list and table."""

from __future__ import annotations

import math

import pytest
import yaml

from rlhf_kit import claims, runs
from rlhf_kit.errors import KitError

FIRST_IDS = {
    "bt-loss-matches-trl",
    "dpo-loss-matches-trl",
    "rm-accuracy-fresh",
    "rm-below-bayes-ceiling",
    "pairwise-accuracy",
    "pairwise-flip-rate",
    "bon-gold-rises",
    "wrong-labels-share",
    "dpo-beats-sft-gold",
    "gold-rises-each-iteration-t1",
    "gold-rises-each-iteration-greedy",
    "online-beats-offline",
    "length-penalty-shortens",
    "skills-not-lost",
    "kl-grows",
    "reward-length-correlation",
}


@pytest.fixture
def run(tmp_path):
    return runs.open_run("trial", tmp_path, quiet=True)


def one(**changes):
    return claims.Claim(
        **{
            "id": "x",
            "statement": "s",
            "source": "p",
            "how": "h",
            "bands": {"laptop": [0, 1]},
            "null": 0,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("value", "interval", "status"),
    [
        (0.5, None, "holds"),
        (0.0, None, "holds"),
        (1.0, None, "holds"),
        (-0.01, None, "outside"),
        (1.01, None, "outside"),
        (math.nan, None, "outside"),
        (math.inf, None, "outside"),
        (0.5, (0.1, 0.9), "holds"),
        (0.5, (-0.1, 1.1), "inconclusive"),
        (0.5, (0.0, 0.9), "inconclusive"),
        (-0.5, (-0.9, 0.1), "outside"),
    ],
)
def test_status_by_band_and_interval(value, interval, status):
    assert claims.judge(one(), "laptop", value, interval)["status"] == status


def test_without_a_band_nothing_holds():
    for profile in ("smoke", None):
        verdict = claims.judge(one(), profile, 0.5)
        assert verdict == {
            "band": None,
            "status": "inconclusive",
            "note": "no band recorded for this profile",
        }


def test_open_bands_and_declared_failures():
    assert claims.judge(one(bands={"laptop": [0.8, None]}), "laptop", 1e9)["status"] == "holds"
    assert claims.judge(one(bands={"laptop": [0.8, None]}), "laptop", 0.79)["status"] == "outside"
    verdict = claims.judge(one(expected="not reproduced here", why="too small a world"), "laptop", -5)
    assert verdict["status"] == "not reproduced here" and verdict["note"] == "too small a world"


def test_a_declared_failure_can_be_reproduced_and_can_be_no_number():
    declared = one(expected="not reproduced here", why="too small a world")
    assert claims.judge(declared, "laptop", 0.9, (-0.1, 1.2))["status"] == "not reproduced here"
    found = claims.judge(declared, "laptop", 0.9, (0.8, 0.95))
    assert found["status"] == "holds" and "say so in claims.yaml" in found["note"]
    assert claims.judge(declared, "laptop", math.nan)["status"] == "outside"
    assert claims.judge(declared, "smoke", 0.9)["status"] == "not reproduced here"
    assert claims.judge(one(), "byo", math.nan, (math.nan, math.nan))["status"] == "inconclusive"  # nothing is claimed there


@pytest.mark.parametrize("interval", [(math.nan, math.nan), (0.9, 0.1), (0.1, math.inf)])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(KitError, match="claim x: the interval"):
        claims.judge(one(), "laptop", 0.5, interval)


def test_the_shipped_claims():
    shipped = claims.load_claims()
    assert FIRST_IDS <= set(shipped)
    profiles = {"smoke", "laptop", "byo", "colab", "gpu", "paper"}
    for entry in shipped.values():
        assert entry.statement.endswith(".") and entry.source and entry.how
        assert set(entry.bands) <= profiles
    assert shipped["rm-accuracy-fresh"].bands["laptop"][0] == 0.80
    assert shipped["online-beats-offline"].null_value == 0


def test_claim_records_prints_and_is_collected(run, capsys, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_NOTEBOOK", "03_reward_model")
    claims.claim(run, "kl-grows", 0.3, profile="laptop")
    claims.claim(run, "rm-accuracy-fresh", 0.7, interval=(0.65, 0.75), profile="laptop")
    assert "claim rm-accuracy-fresh: 0.700 [0.650, 0.750], band 0.8 ... 1: outside" in capsys.readouterr().out
    found = claims.collect(run)
    assert [c["id"] for c in found] == ["rm-accuracy-fresh", "kl-grows"]  # the order of claims.yaml
    assert found[0]["status"] == "outside" and found[0]["band"] == [0.8, 1.0]
    assert found[0]["interval"] == [0.65, 0.75] and found[0]["notebook"] == "03_reward_model"
    assert {"id", "statement", "value", "band", "status"} <= set(found[0])
    text = claims.table(found)
    assert text.splitlines()[-1] == "2 claims: 1 holds, 1 outside" and len(text.splitlines()) == 5
    claims.claim(run, "rm-accuracy-fresh", 0.9, profile="laptop")  # a later value replaces the earlier one
    assert [c["status"] for c in claims.collect(run)] == ["holds", "holds"]


def test_claims_that_no_lesson_made_are_missing(run):
    banded = [c.id for c in claims.load_claims().values() if c.bands.get("laptop")]
    assert len(banded) > 10 and claims.missing(run, "laptop") == banded
    claims.claim(run, banded[1], 0.9, profile="laptop")
    claims.claim(run, banded[2], 0.9, profile="smoke")  # recorded at another profile: no word on this one
    assert claims.missing(run, "laptop") == [banded[0], *banded[2:]]
    assert claims.missing(run, "laptop-changed") == []


def test_a_whole_run_fails_where_a_claim_was_not_made(run, monkeypatch, capsys):
    from rlhf_kit import site
    from rlhf_kit.running import results

    monkeypatch.setattr(site, "build", lambda run: run.path / "index.html")
    for one in claims.load_claims().values():
        if band := one.bands.get("laptop"):
            claims.claim(run, one.id, next(end for end in band if end is not None) + 1e-7, profile="laptop")
    assert results.conclude(run, "laptop") == 0
    (run.path / "records" / "claims" / "kl-grows.json").unlink()
    assert results.conclude(run, "laptop") == 1 and "claimed by no lesson of this run: kl-grows" in capsys.readouterr().out
    assert results.conclude(run) == 0  # some of the lessons


def test_the_profile_comes_from_the_course(run):
    class Course:
        pass

    course = Course()
    course.run, course.profile = run, Course()
    course.profile.name = "laptop"
    assert claims.claim(course, "kl-grows", 0.3)["status"] == "holds"
    assert claims.claim(run, "kl-grows", 0.3)["status"] == "inconclusive"


def test_unknown_ids_name_the_nearest(run):
    with pytest.raises(KitError, match=r"unknown claim 'kl-grow'; did you mean 'kl-grows'\?"):
        claims.claim(run, "kl-grow", 1.0)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": "a"}], "a claim's statement is wrong"),
        ([{"id": "a", "statement": "s", "source": "p", "how": "h", "band": {}}], "a claim's band is wrong"),
        ([{"id": "a", "statement": "s", "source": "p", "how": "h"}] * 2, "two claims with the same id"),
        (
            [{"id": "a", "statement": "s", "source": "p", "how": "h", "expected": "not reproduced here"}],
            "must say why",
        ),
        ("text", "not a list of claims"),
    ],
)
def test_a_wrong_claims_file_is_named(tmp_path, entries, message):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(KitError, match=f"claims.yaml.*{message}"):
        claims.load_claims(path)
