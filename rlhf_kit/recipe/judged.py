"""Cached stages that judge what was made: judges on the same battles, and a reward bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.course import Course
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.answers import SCORING, scorer_inputs, scorer_of
from rlhf_kit.recipe.data import preferences, prompt_table
from rlhf_kit.recipe.reward import pair_fits
from rlhf_kit.runs import Ledger, Stage, write_json, write_rows
from rlhf_kit.scoring import messages_of

RULES = ("longer", "shorter")
JUDGING = ("recipe/judged", "evaluation/judges", "evaluation/planted", "evaluation/arena_hard")

# ---------------------------------------------------------------- judges


def judge_of(course: Course, judge: str | Mapping[str, float], model: Stage | None = None) -> Any:
    """An open judge with `compare(prompts, a, b)` -> `evaluation.Verdicts`.

    judge: a scorer of `scorer_of` ("gold", "bt", "random": the higher score wins; "pairwise": both orders), a rule
    ("longer", "shorter"), or the dials of a planted annotator such as {"temperature": 1.0, "position": 2.0} (pocket world
    only). Pairs that are too long for the pairwise model get no verdict (nan).
    """
    from rlhf_kit import evaluation

    if isinstance(judge, Mapping):
        from rlhf_kit import world
        from rlhf_kit.evaluation.planted import AnnotatorJudge

        if course.profile.data.kind != "world":
            raise KitError("a planted annotator judges by the gold utility, which exists in the pocket world only")
        return AnnotatorJudge(world.Annotator(**judge), course.seed)
    if judge in RULES:
        return evaluation.RuleJudge(getattr(evaluation, judge))
    scorer = scorer_of(course, judge, model)
    return _ReadablePairs(course, scorer) if judge == "pairwise" else evaluation.ScalarJudge(_Remembering(scorer))


class _Remembering:
    """A scorer that is asked once for each prompt and answer: the baseline's answers meet every policy's."""

    def __init__(self, scorer: Any):
        self.scorer, self.name = scorer, scorer.name
        self.known: dict[tuple[str, str], float] = {}

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        keys = [(repr(messages_of(prompt)), text) for prompt, text in zip(prompts, responses, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self.known}
        if new:
            found = self.scorer.score([prompts[i] for i in new.values()], [responses[i] for i in new.values()])
            self.known |= {key: float(value) for key, value in zip(new, found, strict=True)}
        return np.array([self.known[key] for key in keys])


class _ReadablePairs:
    """The pairwise judge on the pairs that it can read in both orders; nan for the others, counted in the ledger."""

    def __init__(self, course: Course, scorer: Any):
        self.course, self.scorer, self.name = course, scorer, scorer.name

    def compare(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]):
        from rlhf_kit import evaluation

        fits = [i for i, pair in enumerate(zip(prompts, a, b, strict=True)) if pair_fits(self.course, self.scorer, *pair)]
        first, second = (np.full(len(prompts), np.nan) for _ in range(2))
        report: dict[str, Any] = {}
        if fits:
            found = evaluation.PairwiseJudge(self.scorer).compare(*([side[i] for i in fits] for side in (prompts, a, b)))
            first[fits], second[fits], report = found.shown_first, found.shown_second, found.report
        same = np.array([x == y for x, y in zip(a, b, strict=True)])
        first[same & np.isfinite(first)] = second[same & np.isfinite(second)] = 0.5  # one text twice is a tie, whatever rounding says
        lost = len(prompts) - len(fits)
        ledger = Ledger(f"judge {self.name}", len(prompts), len(fits), {"too long for the judge": lost} if lost else {})
        return evaluation.Verdicts(self.name, (first + second) / 2, ledger, first, second, report)


def verdicts(
    course: Course,
    answers: Stage,
    battles: Sequence[tuple[str, str]],
    judges: Mapping[str, str | Mapping[str, float]],
    temperatures: Sequence[float] = (1.0, 0.0),
) -> Stage:
    """Several judges on the same battles: the answers of two policies to the same prompts.

    answers: of `stages.evaluation`. battles: (policy, baseline), names in it. judges: {name to show: see `judge_of`}.
    Rows, one a judge, battle, temperature and pair of answers: judge, policy, baseline, temperature, prompt_id, sample, category,
    preference (probability that the policy's answer is better, both orders averaged; null without a verdict), shown_first,
    shown_second (null for judges that see no order), length_a, length_b (characters), gold_a, gold_b (null without a known
    truth), style_a, style_b (`evaluation.style_of`, lengths in characters). Every pair has a row, judged or not; `verdicts_of`
    turns rows into `evaluation.Verdicts`.
    """
    from rlhf_kit import evaluation

    models, table = _models(course, judges), prompt_table(course)

    def build(folder):
        prompts = {row["prompt_id"]: row["prompt"] for row in table.rows()}
        rows, made = answers.rows().to_list(), []
        for name, judge in judges.items():
            opened = judge_of(course, judge, _model(models, judge))
            for policy, baseline in battles:
                for temperature in temperatures:
                    found, columns = evaluation.judge_policies(rows, prompts, opened, policy, baseline, temperature)
                    shared = {"judge": name, "policy": policy, "baseline": baseline, "temperature": float(temperature)}
                    made += _rows(found, shared, columns)
        write_rows(folder, made)
        return {"ledger": Ledger("verdicts", len(made), len(made)), "without_verdict": sum(row["preference"] is None for row in made)}

    params = {"battles": [list(one) for one in battles], "judges": dict(judges), "temperatures": list(temperatures), **_settings(course)}
    return course.stage("verdicts", build, inputs={"answers": answers, "prompts": table, **models}, params=params, code=_code(course))


def label_verdicts(course: Course, judges: Mapping[str, str | Mapping[str, float]]) -> Stage:
    """Several judges on the held-out preference pairs, a being the answer that the label prefers.

    Rows, one a judge and pair: judge, prompt_id, category, preference, shown_first, shown_second, length_a, length_b, gold_a, gold_b
    as in `verdicts`. Every pair has a row, judged or not.
    """
    models, pairs = _models(course, judges), preferences(course)
    known = course.profile.data.kind == "world"

    def build(folder):
        from rlhf_kit import world

        rows, made = pairs.rows("heldout.parquet").to_list(), []
        prompts = [row["prompt"] for row in rows]
        sides = {side: [row[source][-1]["content"] for row in rows] for side, source in (("a", "chosen"), ("b", "rejected"))}
        columns = {name: [row[name] for row in rows] for name in ("prompt_id", "category")}
        for side, texts in sides.items():
            columns[f"length_{side}"] = [len(text) for text in texts]
            columns[f"gold_{side}"] = [float(g) for g in world.gold_utility(prompts, texts)] if known else [None] * len(texts)
        for name, judge in judges.items():
            found = judge_of(course, judge, _model(models, judge)).compare(prompts, sides["a"], sides["b"])
            made += _rows(found, {"judge": name}, columns)
        write_rows(folder, made)
        return {"ledger": Ledger("label-verdicts", len(made), len(made)), "without_verdict": sum(row["preference"] is None for row in made)}

    params = {"judges": dict(judges), **_settings(course)}
    return course.stage("label-verdicts", build, inputs={"preferences": pairs, **models}, params=params, code=_code(course))


def verdicts_of(rows: Sequence[Mapping], hard: bool = False) -> Any:
    """Rows of one judge (of `verdicts` or `label_verdicts`) as `evaluation.Verdicts`; nan where there was no verdict.

    hard: the likelier answer wins outright (1, 0, or 0.5 for a tie), so that a judge that speaks in probabilities can be set
    beside one that speaks in scores.
    """
    from rlhf_kit import evaluation

    judges = list(dict.fromkeys(row["judge"] for row in rows))
    if len(judges) != 1:
        raise KitError(f"verdicts are read judge by judge; these rows are of {len(judges)}: {', '.join(judges) or 'none'}")
    column = lambda key: np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)  # noqa: E731
    preference, first, second = (column(key) for key in ("preference", "shown_first", "shown_second"))
    preference = (np.sign(preference - 0.5) + 1) / 2 if hard else preference
    lost = int(np.isnan(preference).sum())
    ledger = Ledger(f"judge {judges[0]}", len(rows), len(rows) - lost, {"without a verdict": lost} if lost else {})
    ordered = np.isfinite(first).any()  # a rule sees no order: all empty
    return evaluation.Verdicts(judges[0], preference, ledger, first if ordered else None, second if ordered else None)


def _models(course: Course, judges: Mapping[str, str | Mapping[str, float]]) -> dict[str, Stage]:
    """The trained models that these judges need, made if need be: {"bt": Stage, "pairwise": Stage}."""
    trained = [judge for judge in judges.values() if isinstance(judge, str) and judge not in RULES]
    return {judge: stage for judge in trained for stage in scorer_inputs(course, judge).values()}


def _model(models: Mapping[str, Stage], judge: str | Mapping[str, float]) -> Stage | None:
    return models.get(judge) if isinstance(judge, str) else None


def _rows(found: Any, shared: Mapping[str, Any], columns: Mapping[str, Sequence]) -> list[dict]:
    told = {"preference": found.preference, "shown_first": found.shown_first, "shown_second": found.shown_second}
    return [{**shared, **{key: column[i] for key, column in columns.items()}, **{key: _value(column, i) for key, column in told.items()}}
            for i in range(len(found.preference))]  # fmt: skip


def _value(column: Any, i: int) -> float | None:
    return None if column is None or not np.isfinite(column[i]) else float(column[i])


def _settings(course: Course) -> dict[str, Any]:
    return {"seed": course.seed, "max_length": course.profile.model.max_length}


def _code(course: Course) -> list[str]:
    return [*JUDGING, *SCORING, *(["world"] if course.profile.data.kind == "world" else [])]


# ---------------------------------------------------------------- the reward bench


def reward_bench(
    course: Course, judge: str | Mapping[str, float] = "bt", model: Stage | None = None, n: int | None = None
) -> Stage:
    """A scorer or judge on the pocket world's own reward bench, in RewardBench's four sections.

    judge: see `judge_of`. n: items (default: as many as the profile has prompts in the split "eval", and 80 at least, so
    that no section is empty). Rows: section, score, low, high (percent, 95 %), n. result.json: what
    `evaluation.benches.run_bench` gives. KitError outside the pocket world, whose public twin is
    `benches.load_bench("rewardbench")`.
    """
    from rlhf_kit.evaluation import benches

    if course.profile.data.kind != "world":
        raise KitError("the pocket bench asks about the pocket world; for a model of your own take "
                       'evaluation.benches.load_bench("rewardbench") and run_bench')  # fmt: skip
    size = max(80, course.profile.data.eval_prompts) if n is None else n
    inputs = scorer_inputs(course, judge, model) if isinstance(judge, str) and judge not in RULES else {}

    def build(folder):
        items = benches.pocket_bench(size, seed=course.seed)
        found = benches.run_bench("pocket", items, judge_of(course, judge, inputs.get("model")))
        counts = {section: sum(item.subset in kinds for item in items) for section, kinds in benches.POCKET_SECTIONS.items()}
        rows = [{"section": section, "score": found[section], "low": found["intervals"][section][0],
                 "high": found["intervals"][section][1], "n": counts[section]} for section in counts]  # fmt: skip
        write_rows(folder, rows)
        write_json(folder / "result.json", found)
        return {"ledger": Ledger("reward-bench", len(items), sum(counts.values())), "unjudged": found["unjudged"]}

    params = {"judge": judge, "n": size, **_settings(course)}
    code = [*_code(course), "evaluation/benches"]
    return course.stage("reward-bench", build, inputs=inputs, params=params, code=code)
