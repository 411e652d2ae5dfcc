"""The exercises: right answers, typical wrong ones and untouched stubs; solutions notebooks; EXERCISES=solution."""

from __future__ import annotations

import ast
import itertools
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from rlhf_kit import cli, exercises
from rlhf_kit.errors import KitError
from rlhf_kit.exercises import examine, lesson_01, solutions
from rlhf_kit.running import notebooks
from rlhf_kit.runs import PROJECT

LESSONS = [p for p in sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb")) if solutions.path_of(p).is_file()]
NAMES = [f"{path.name[:2]}-{n}" for path in LESSONS for n in solutions.NUMBERS]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def cells(path):
    return {c.id: c for c in nbformat.read(path, 4).cells}


def names_bound(source: str) -> set[str]:
    """Names that a cell binds at module level, however deep in ifs and loops."""
    bound = set()
    for node in ast.walk(ast.parse("\n".join(x for x in source.splitlines() if not x.startswith("%")))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return bound


def signatures(source: str) -> list[str]:
    return [f"{n.name}({ast.unparse(n.args)})" for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]


# ---------------------------------------------------------------- their form


@each_lesson
def test_every_lesson_has_three_in_one_form(path):
    book = nbformat.read(path, 4)
    ids = [c.id for c in book.cells]
    block = ids[ids.index("exercises") :]
    for n in solutions.NUMBERS:
        task, answer, check = (block.index(f"exercise-{n}{part}") for part in ("", "-answer", "-check"))
        assert task < answer < check
        text = cells(path)[f"exercise-{n}"].source
        assert re.match(rf"### {n}\. .+\n\n(●○○|●●○|●●●) · \d+ minutes\n\n", text)
        assert text.count("<details><summary>Hint</summary>") == text.count("<details><summary>Solution</summary>") == 1
        assert f'exercises.check("{path.name[:2]}-{n}"' in cells(path)[f"exercise-{n}-check"].source
        assert "mode=EXERCISES" in cells(path)[f"exercise-{n}-check"].source
        stub = cells(path)[f"exercise-{n}-answer"].source
        assert "..." in stub and signatures(stub) == signatures(cells(solutions.path_of(path))[f"exercise-{n}-answer"].source)
        assert not cells(path)[f"exercise-{n}-answer"].get("outputs")


@each_lesson
def test_folded_solutions_and_tasks_agree_with_the_solutions_notebook(path):
    for file, agreed in zip((path, solutions.path_of(path)), solutions.agreed(path), strict=True):
        assert nbformat.read(file, 4) == agreed, "run `python -m rlhf_kit.exercises`"


@each_lesson
def test_a_solution_uses_only_what_its_lesson_has(path):
    """EXERCISES=solution puts the cell into the lesson, where no other import stands than the lesson's."""
    import builtins

    known = set(dir(builtins))
    for cell in solutions.to_execute(path, {"EXERCISES": "solution"}).cells:
        if cell.cell_type != "code":
            continue
        if cell.id.startswith("exercise"):
            tree = ast.parse(cell.source)
            used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            own = names_bound(cell.source) | {a.arg for n in ast.walk(tree) if isinstance(n, ast.arguments) for a in n.args + n.kwonlyargs}
            assert used <= known | own, (cell.id, used - known - own)
        known |= names_bound(cell.source)


@each_lesson
def test_the_site_folds_hints_and_solutions(path):
    from bs4 import BeautifulSoup

    from rlhf_kit.site import lesson

    page = BeautifulSoup(lesson.render(path, {}).body, "html.parser")
    folded = {name: [] for name in ("Hint", "Solution")}
    for box in page.find_all("details"):
        title = box.find("summary").get_text().strip()
        if title in folded:
            folded[title].append(box.get_text().strip().removeprefix(title).strip())
    assert [len(texts) for texts in folded.values()] == [3, 3]
    assert all(len(text) > 30 for texts in folded.values() for text in texts), "a fold without its content"
    solved = cells(solutions.path_of(path))
    for n, text in zip(solutions.NUMBERS, folded["Solution"], strict=True):
        assert solved[f"exercise-{n}-answer"].source.split() == text.split()


EXECUTE = """
import json, sys, traceback
import papermill
for spec in json.loads(sys.argv[1]):
    try:
        papermill.execute_notebook(spec["source"], spec["output"], parameters=spec["parameters"], cwd=spec["cwd"], progress_bar=False)
    except Exception:
        open(spec["output"] + ".error", "w", encoding="utf-8").write(traceback.format_exc())
"""


@pytest.fixture(scope="module")
def ran_alone(request, tmp_path_factory):
    """Where the chosen solutions notebooks are, executed: each in a kernel of its own, all from one process as the kit's runner is one."""
    folder, name = tmp_path_factory.mktemp("solutions"), "test_a_solutions_notebook_runs_alone_at_smoke"
    chosen = [item.callspec.params["path"] for item in request.session.items if getattr(item, "originalname", "") == name]
    sources = [solutions.path_of(path) for path in dict.fromkeys(chosen)]
    given = lambda s: {"PROFILE": "smoke", "RUN": f"solutions-{s.stem}", "INTERACTIVE": False}  # noqa: E731  none finds another's stages
    specs = [{"source": str(s), "output": str(folder / s.name), "parameters": given(s), "cwd": str(s.parent)} for s in sources]
    env = os.environ | {"RLHF_KIT_RUNS": str(folder), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", EXECUTE, json.dumps(specs)]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@each_lesson
def test_a_solutions_notebook_runs_alone_at_smoke(path, ran_alone):
    output = ran_alone / path.name
    error = output.with_name(path.name + ".error")
    assert not error.exists(), error.read_text(encoding="utf-8")[-3000:]
    said = [o.text for c in nbformat.read(output, 4).cells for o in c.get("outputs", []) if "text" in o]
    assert [n for n in NAMES if n.startswith(path.name[:2]) and f"exercise {n}, right" not in "".join(said)] == []


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit status, what it said) of `python -m rlhf_kit run` at smoke, without another start of Python."""
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path))

    def go(*arguments):
        status = cli.main(["run", "--profile", "smoke", *arguments])
        said = capsys.readouterr()
        return status, said.out + said.err

    return go


# ---------------------------------------------------------------- stubs and modes


@each_lesson
def test_untouched_stubs_are_not_attempted_and_never_fail(path, capsys):
    """Stubs are the lesson's own cells; functions in them are examined, plain answers are `...`."""
    for n in solutions.NUMBERS:
        name, space = f"{path.name[:2]}-{n}", {}
        stub, check = (cells(path)[f"exercise-{n}-{part}"].source for part in ("answer", "check"))
        blank = {a: ... for a in names_bound(stub)}
        for line in stub.splitlines():
            assert not line.startswith(("import ", "from ")), "imports belong to the import cell"
        functions = [node.name for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
        space = {**blank, **{f: untouched(f) for f in functions}}
        call = ast.parse(check).body[-1].value
        given = [space.get(a.id, object()) if isinstance(a, ast.Name) else object() for a in call.args[1:]]
        assert examine(name, *given).status == "not attempted"
        exercises.check(name, *given, mode="skip")
        assert capsys.readouterr().out == f"exercise {name}: not attempted yet: fill in the cell above\n"
        with pytest.raises(KitError, match="the stub stands here"):
            exercises.check(name, *given, mode="solution")


def untouched(name):
    def stub(*arguments, **named):
        return ...

    stub.__name__ = name
    return stub


def test_modes_names_and_counts():
    with pytest.raises(KitError, match="EXERCISES is 'try'; it must be one of skip, solution"):
        exercises.check("03-1", ..., mode="try")
    for name in ("03-9", "99-1", "three", "lesson_03"):
        with pytest.raises(KitError, match="there is no exercise"):
            examine(name, ...)
    with pytest.raises(KitError, match=r"examines \(reward_loss\); check was given 2 answer"):
        examine("03-1", ..., ...)


def test_a_wrong_answer_is_told_and_fails_only_solutions(capsys):
    wrong = lambda c, r, m: -F.logsigmoid(c - r - m).sum()  # noqa: E731
    exercises.check("03-1", wrong, mode="skip")  # told, not raised
    assert "sum over the pairs" in capsys.readouterr().out
    with pytest.raises(KitError, match="does not pass its check"):
        exercises.check("03-1", wrong, mode="solution")


def test_an_error_in_the_readers_cell_is_one_sentence():
    def broken(chosen, rejected, margin):
        return chosen - rejected - nothing  # noqa: F821

    said = examine("03-1", broken)
    assert said.status == "not yet" and "stopped with NameError" in said.sentence and "\n" not in said.sentence
    assert "return chosen - rejected - nothing" in said.sentence
    assert "Your broken stopped" in said._repr_html_()  # a capital at the beginning is no part of a name

    def unfinished(chosen, rejected, margin):
        raise NotImplementedError

    assert examine("03-1", unfinished).status == "not attempted"
    assert "is None" in examine("03-1", lambda c, r, m: None).sentence
    for answer in (None, 3, "a text", {}, [], object(), float("nan")):  # whatever stands there, a check tells and never fails
        for name in NAMES:
            told = examine(name, lambda *a, answer=answer: answer)
            assert told.status == "not yet" and len(told.sentence) < 300, told


def test_a_right_answer_may_be_a_list_an_array_or_a_tensor():
    def order(p, q):
        return np.mean((p > 0.5) == (q > 0.5)), np.concatenate([p, q]).mean()

    def skills(before, after):
        from scipy.stats import binomtest

        gained, lost = int(np.sum(~before & after)), int(np.sum(before & ~after))
        return gained, lost, binomtest(gained, gained + lost).pvalue if gained + lost else 1.0

    p, q = np.array([0.7, 0.2, 0.6]), np.array([0.4, 0.1, 0.9])
    for kind in (tuple, list, np.array, torch.tensor):
        assert examine("04-2", lambda *a, kind=kind: kind(order(*a)), p, q).status == "right", kind
        assert examine("09-1", lambda *a, kind=kind: kind(skills(*a))).status == "right", kind

    def with_gradient(gaps, longer, wins):
        x, w = torch.tensor(np.column_stack([gaps, longer / 100])), torch.zeros(2, dtype=torch.double, requires_grad=True)
        descent = torch.optim.LBFGS([w], max_iter=200, tolerance_change=1e-12)

        def loss():
            descent.zero_grad()
            value = F.binary_cross_entropy_with_logits(x @ w, torch.tensor(wins))
            value.backward()
            return value

        descent.step(loss)
        return 1 / w[0], w[1] / w[0]

    assert examine("01-3", with_gradient).status == "right"


def test_a_generator_counts_as_the_list_that_it_yields():
    def rounds(sft, batches, sample, score, pair, train):
        newest = sft
        for prompts in batches:
            answers = sample(newest, prompts)
            newest = train(newest, sft, pair(answers, score(answers)))
            yield newest

    def stops(sft, batches, *steps):
        yield sft
        yield batches[len(batches)]

    assert examine("00-3", rounds).status == "right"
    assert examine("00-3", lambda *a: np.array(list(rounds(*a)))).status == "right"
    assert examine("01-2", lambda ids, share, seed: (random.Random(f"{seed} {name}").random() < share for name in ids)).status == "right"
    assert "stopped with IndexError" in examine("00-3", stops).sentence
    assert "yields without end" in examine("00-3", lambda *a: itertools.count()).sentence
    assert examine("00-3", lambda *a: (... for _ in range(3))).status == "not attempted"


def test_a_number_of_prompts_is_rounded_up_and_no_text():
    def needed(round_it):
        return lambda d, h: round_it((1.96 * np.std(d, ddof=1) / h) ** 2)

    assert examine("00-2", needed(math.ceil)).status == "right"
    for less in (int, round):
        assert "round *up*" in examine("00-2", needed(less)).sentence
    assert "is the text '0.60'" in examine("00-1", lambda before, after: "0.60").sentence


def test_what_is_shown_is_escaped_and_said_in_words():
    shown = exercises.Outcome("03-1", "not yet", "<script>alert(1)</script>")
    assert "<script>" not in shown._repr_html_() and "not yet" in shown._repr_html_()
    assert repr(shown).startswith("exercise 03-1, not yet: ")


def test_an_unknown_mode_ends_a_run_before_anything_starts(run, tmp_path):
    for value, words, more in (("try", "03_reward_model: EXERCISES is 'try'", []), ("solution", "--store-outputs would store", ["--store-outputs"])):
        status, said = run("--only", "03", "--param", f"EXERCISES={value}", *more)
        assert status == 2 and words in said, said
        assert not list(tmp_path.glob("*/records/executed/*"))


def test_a_lesson_runs_with_its_solutions(run, tmp_path):
    """Lesson 01, which trains nothing; what is executed are the solutions' own cells, and the lesson keeps its stubs."""
    command = ["--only", "01", "--param", "EXERCISES=solution"]
    _, said = run(*command)
    assert (tmp_path / "smoke/notebooks/01_preferences.ipynb").is_file(), said
    lesson = notebooks.FOLDER / "01_preferences.ipynb"
    executed, solved = cells(tmp_path / "smoke/notebooks/01_preferences.ipynb"), cells(solutions.path_of(lesson))
    for n in solutions.NUMBERS:
        assert executed[f"exercise-{n}-answer"].source == solved[f"exercise-{n}-answer"].source
        assert f"exercise 01-{n}, right" in executed[f"exercise-{n}-check"].outputs[0].text
    assert "..." in cells(lesson)["exercise-1-answer"].source
    assert "found (nothing changed)" in run(*command)[1]


def test_what_is_executed_follows_the_mode():
    lesson = notebooks.FOLDER / "01_preferences.ipynb"
    plain = notebooks.read(lesson)
    assert solutions.to_execute(lesson, {"EXERCISES": "skip"}) == solutions.to_execute(lesson, {}) == plain
    changed = [a.id for a, b in zip(solutions.to_execute(lesson, {"EXERCISES": "solution"}).cells, plain.cells, strict=True) if a != b]
    assert changed == [f"exercise-{n}-answer" for n in solutions.NUMBERS]


def test_a_solution_that_fails_its_check_fails_the_run(run, tmp_path):
    lesson = tmp_path / "notebooks" / "03_small.ipynb"
    new = nbformat.v4
    book = new.new_notebook(cells=[
        new.new_code_cell('PROFILE = "smoke"\nSEED = 0\nRUN = ""\nEXERCISES = "skip"', metadata={"tags": ["parameters"]}),
        new.new_code_cell("import torch.nn.functional as F\nfrom rlhf_kit import exercises, stages"),
        new.new_code_cell("def reward_loss(c, r, m):\n    return ...", id="exercise-1-answer"),
        new.new_code_cell('exercises.check("03-1", reward_loss, mode=EXERCISES)', id="exercise-1-check"),
        new.new_code_cell('stages.finish(stages.start(PROFILE, run=RUN or None, seed=SEED), "03_small");'),
    ])  # fmt: skip
    lesson.parent.mkdir()
    nbformat.write(book, lesson)
    status, said = run("--notebooks", str(lesson.parent))
    assert status == 0 and "03_small" in said, said
    command = ["--notebooks", str(lesson.parent), "--param", "EXERCISES=solution"]
    status, said = run(*command)
    assert status == 2 and "has no solutions notebook" in said
    solved = new.new_notebook(cells=[new.new_code_cell(
        "def reward_loss(c, r, m):\n    return F.logsigmoid(c - r - m).mean()", id="exercise-1-answer")])  # fmt: skip
    solutions.path_of(lesson).parent.mkdir()
    nbformat.write(solved, solutions.path_of(lesson))
    status, said = run(*command)
    assert status == 1 and "the minus sign is missing" in said, said


# ---------------------------------------------------------------- typical wrong answers, by lesson

LAST = lambda mask: (mask * torch.arange(mask.shape[1])).argmax(1)  # noqa: E731


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("03-1", lambda c, r, m: -F.logsigmoid(r - c - m).mean(), "gap has its sign flipped"),
    ("03-1", lambda c, r, m: F.logsigmoid(c - r - m).mean(), "minus sign is missing"),
    ("03-1", lambda c, r, m: -F.logsigmoid(c - r).mean(), "margin is not used"),
    ("03-1", lambda c, r, m: -F.logsigmoid(c - r + m).mean(), "must be subtracted"),
    ("03-1", lambda c, r, m: -F.logsigmoid(c - r).mean() + m.mean(), "outside the sigmoid"),
    ("03-1", lambda c, r, m: -torch.sigmoid(c - r - m).log().mean(), "exactly 0 before the log"),
    ("03-1", lambda c, r, m: -F.logsigmoid(c - r - m).mean().item(), "no gradient flows"),
    ("03-1", lambda c, r, m: -F.logsigmoid(m * (c - r)).mean(), "multiplied by the margin"),
    ("03-2", lambda v, m: v[:, m.sum(1) - 1], "name the rows too"),
    ("03-2", lambda v, m: v[:, LAST(m)], "name the rows too"),
    ("03-2", lambda v, m: (v * m)[:, -1], "padding where a row is padded on the right"),
    ("03-2", lambda v, m: v[:, -1], "the last column"),
    ("03-2", lambda v, m: v[torch.arange(len(v)), m.sum(1) - 1], "nothing is padded on the left"),
    ("03-2", lambda v, m: v[torch.arange(len(v)), LAST(m) - 1], "one token too early"),
    ("03-2", lambda v, m: (v * m).sum(1) / m.sum(1), "mean over the tokens"),
    ("03-3", lambda s, t, p, x, e: sorted([n for n in e if (s(p, e[n]) - s(p, x)).mean() > 0], key=lambda n: -(s(p, e[n]) - s(p, x)).mean()),
     "the truth is not looked at"),
    ("03-3", lambda s, t, p, x, e: [n for n in e if (s(p, e[n]) - s(p, x)).mean() > 0 and (t(p, e[n]) - t(p, x)).mean() <= 0],
     "the right names in another order"),
    ("03-3", lambda s, t, p, x, e: [n for n in e if s(p, e[n]).mean() > 0 and t(p, e[n]).mean() <= 0], "unedited one, not with zero"),
    ("03-3", lambda s, t, p, x, e: [n for n in e if s(p[::-1], e[n]).mean() > 0], "another answer's prompt"),
])  # fmt: skip
def test_lesson_03_names_the_mistake(name, answer, words):
    said = examine(name, answer)
    assert said.status == "not yet" and words in said.sentence, said



@pytest.mark.parametrize(("name", "answer", "words"), [
    ("00-1", lambda b, a: sum(y > x for x, y in zip(b, a, strict=True)) / len(b), "ties count as losses"),
    ("00-1", lambda b, a: sum(y >= x for x, y in zip(b, a, strict=True)) / len(b), "ties count as whole wins"),
    ("00-1", lambda b, a: sum((x > y) + (x == y) / 2 for x, y in zip(b, a, strict=True)) / len(b), "direction is flipped"),
    ("00-1", lambda b, a: sum(y - x for x, y in zip(b, a, strict=True)) / len(b), "mean gain of utility"),
    ("00-1", lambda b, a: sum(y > x for x, y in zip(b, a, strict=True)), "that counts the wins"),
    ("00-2", lambda d, h: 1.96 * statistics.stdev(d) / math.sqrt(len(d)), "of the prompts you have"),
    ("00-2", lambda d, h: math.ceil(len(d) * 1.96 * statistics.stdev(d) / math.sqrt(len(d)) / h), "square of the ratio"),
    ("00-2", lambda d, h: math.ceil(1.96 * statistics.stdev(d) / h), "the square is missing"),
    ("00-2", lambda d, h: math.ceil((statistics.stdev(d) / h) ** 2), "1.96 is missing"),
    ("00-2", lambda d, h: math.ceil((1.96 * statistics.variance(d) / h) ** 2), "the variance stands"),
    ("00-2", lambda d, h: (1.96 * statistics.stdev(d) / h) ** 2, "round it up"),
    ("00-3", lambda *a: rounds(*a, sampler="sft"), "that is the offline baseline"),
    ("00-3", lambda *a: rounds(*a, reference="newest"), "the reference moves along"),
    ("00-3", lambda *a: rounds(*a, start="sft"), "starts from SFT again"),
    ("00-3", lambda sft, b, sample, score, pair, train: [train(sft, pair(x, score(x))) for x in [sample(sft, b[0])]], "(train() missing 1 required"),
    ("00-3", lambda *a: rounds(*a)[-1], "only the last policy"),
    ("00-3", lambda *a: rounds(*a)[:0] or a[0], "one policy is returned, 'sft'; return those that the rounds made"),
    ("00-3", lambda sft, b, *steps: rounds(sft, b[:1] * 3, *steps), "new prompts each round"),
    ("01-1", lambda g, t, c: ((1 - c) * chance(g / t) + c / 2).mean(), "take max(p, 1 - p)"),
    ("01-1", lambda g, t, c: best_of(chance(g / t)), "carelessness is left out"),
    ("01-1", lambda g, t, c: best_of((1 - c) * chance(g / t) + c * chance(-g / t)), "not a wrong label but a coin toss"),
    ("01-1", lambda g, t, c: best_of(chance(g / t)) - c / 2, "mix the coin in"),
    ("01-1", lambda g, t, c: best_of(chance(g / t)) - c, "a coin is right half of the time"),
    ("01-1", lambda g, t, c: best_of((1 - c) * chance(g * t) + c / 2), "multiplied by the temperature"),
    ("01-2", lambda ids, s, seed: [random.Random(seed + i).random() < s for i in range(len(ids))], "rows on both sides"),
    ("01-2", lambda ids, s, seed: drawn_from_all(ids, s, seed), "moves old ones"),
    ("01-2", lambda ids, s, seed: [hash((x, seed)) % 100 < 100 * s for x in ids], "differs from process to process"),
    ("01-2", lambda ids, s, seed: [random.Random(f"{seed}{x}").random() >= s for x in ids], "the sides are swapped"),
    ("01-2", lambda ids, s, seed: [random.Random(x).random() < s for x in ids], "the seed changes nothing"),
    ("01-3", lambda g, m, w: tuple(lesson_01.measured(g, m, w)), "the weights of the regression"),
    ("01-3", lambda g, m, w: dials(*lesson_01.measured(g, m, w, penalty=1.0)), "the weights are shrunk"),
    ("01-3", lambda g, m, w: dials(*lesson_01.measured(g, m, w, intercept=True)), "an intercept was fitted"),
    ("01-3", lambda g, m, w: dials(*LogisticRegression().fit(np.column_stack([g, m / 100]), w).coef_[0]), "does unasked"),
    ("01-3", lambda g, m, w: dials(*lesson_01.measured(g, 100 * m, w)), "per *100* characters"),
    ("02-1", lambda lg, i, m: F.cross_entropy(lg[m], i[m]), "the shift is missing"),
    ("02-1", lambda lg, i, m: F.cross_entropy(lg.transpose(1, 2), i), "two things: the shift"),
    ("02-1", lambda lg, i, m: F.cross_entropy(lg[:, :-1].reshape(-1, 11), i[:, 1:].reshape(-1)), "the prompt is learnt too"),
    ("02-1", lambda lg, i, m: F.cross_entropy(lg[:, :-1][m[:, 1:]], i[:, 1:][m[:, 1:]], reduction="sum"), "the sum over the learnt"),
    ("02-1", lambda lg, i, m: torch.stack([F.cross_entropy(x[:-1][k[1:]], y[1:][k[1:]]) for x, y, k in zip(lg, i, m, strict=True)]).mean(),
     "mean of the rows' means"),
    ("02-2", lambda i, p, n: spans(i, p, n).masked_fill(i == 2, -100), "never learn to stop; mask by position"),
    ("02-2", lambda i, p, n: spans(i, 0 * p, n), "the prompt is learnt"),
    ("02-2", lambda i, p, n: spans(i, p, 0 * n + 10), "the padding is learnt"),
    ("02-2", lambda i, p, n: F.pad(spans(i, p, n)[:, 1:], (0, 1), value=-100), "shifted by one"),
    ("02-2", lambda i, p, n: i.copy_(spans(i, p, n)), "work on a copy"),
    ("02-3", lambda lg, t, p: nucleus(lg * t, p), "multiplied by the temperature"),
    ("02-3", lambda lg, t, p: (lg / t).masked_fill(nucleus(lg, p) == 0, -torch.inf).softmax(-1), "top-p is taken before"),
    ("02-3", lambda lg, t, p: (lg / t).softmax(-1), "top_p is not used"),
    ("02-3", lambda lg, t, p: nucleus(lg / t, p), "temperature 0 divides by zero"),
    ("02-3", lambda lg, t, p: (nucleus(lg / t, p) > 0) * (lg / t).softmax(-1), "does not sum to 1"),
    ("04-1", lambda x, y, a, b: (torch.sigmoid(x[:, a] - x[:, b]) + torch.sigmoid(y[:, a] - y[:, b])) / 2, "means the *other* answer"),
    ("04-1", lambda x, y, a, b: (x[:, [a, b]].softmax(-1) + y[:, [b, a]].softmax(-1)) / 2, "two probabilities a pair"),
    ("04-1", lambda x, y, a, b: torch.sigmoid(x[:, a] - x[:, b]), "only one order"),
    ("04-1", lambda x, y, a, b: (x.softmax(-1)[:, a] + y.softmax(-1)[:, b]) / 2, "over the whole vocabulary"),
    ("04-1", lambda x, y, a, b: torch.sigmoid((x[:, a] - x[:, b] + y[:, b] - y[:, a]) / 2), "the logits are averaged"),
    ("04-2", lambda p, q: (float(((p > 0.5) != (q > 0.5)).mean()), (p + q).mean() / 2), "where the *letter* changes"),
    ("04-2", lambda p, q: (float(((p > 0.5) == (q > 0.5)).mean()), ((p + 1 - q) / 2).mean()), "the place is A in *both* orders"),
    ("04-2", lambda p, q: float(((p > 0.5) == (q > 0.5)).mean()), "return two numbers"),
    ("04-3", lambda f, n: tuple(extremes(f, n)[::-1]), "best and worst are swapped"),
    ("04-3", lambda f, n: (max(range(n), key=lambda i: sum(f(i, j) for j in range(n) if j != i)),
                           min(range(n), key=lambda i: sum(f(i, j) for j in range(n) if j != i))), "asks every pair"),
    ("04-3", lambda f, n: extremes(f, n), "pair them first"),
])  # fmt: skip
def test_lessons_00_01_02_and_04_name_the_mistake(name, answer, words):
    said = examine(name, answer)
    assert said.status == "not yet" and words in said.sentence, said


def rounds(sft, batches, sample, score, pair, train, sampler="newest", reference="sft", start="newest"):
    """The loop of lesson 00, in which each of its three choices can be made wrongly."""
    made = [sft]
    pick = {"sft": lambda: sft, "newest": lambda: made[-1]}
    for prompts in batches:
        answers = sample(pick[sampler](), prompts)
        made.append(train(pick[start](), pick[reference](), pair(answers, score(answers))))
    return made[1:]


def drawn_from_all(ids, share, seed):
    """A split by prompt that is drawn from the list of all prompts, so that a new one moves the others."""
    prompts = sorted(set(ids))
    chosen = set(random.Random(seed).sample(prompts, int(share * len(prompts))))
    return [name in chosen for name in ids]


def chance(x):
    return 1 / (1 + np.exp(-x))


def best_of(p):
    return float(np.maximum(p, 1 - p).mean())


def dials(first, second):
    return 1 / first, second / first


def spans(ids, low, high):
    at = torch.arange(ids.shape[1])
    return ids.masked_fill(~((at >= low[:, None]) & (at < high[:, None])), -100)


def nucleus(logits, top_p):
    p, token = logits.softmax(-1).sort(descending=True)
    p = p * (p.cumsum(-1) - p < top_p)
    return torch.zeros_like(logits).scatter(1, token, p / p.sum(-1, keepdim=True))


def extremes(prefer, n):
    """One pass for the best and one for the worst: right, with more questions than it takes."""
    best = worst = 0
    for i in range(1, n):
        best = i if prefer(i, best) > 0.5 else best
    for i in range(1, n):
        worst = i if prefer(i, worst) < 0.5 else worst
    return [best, worst]


# ---------------------------------------------------------------- solutions against the libraries


def solved(number: str, answer: int, **space):
    """The function that a solution cell defines, run with the imports of its notebook."""
    (path,) = [p for p in LESSONS if p.name.startswith(number)]
    source = cells(solutions.path_of(path))
    for name in ("imports", f"exercise-{answer}-answer"):
        exec(compile(source[name].source, name, "exec"), space)  # the project's own notebook
    return space[ast.parse(source[f"exercise-{answer}-answer"].source).body[-1].name]


def test_the_reward_is_read_where_transformers_reads_it(tiny_folder, machine):
    """Padded left and right, against the reward model asked row by row without any padding."""
    from rlhf_kit import models

    model, tokenizer = models.new_reward_model(tiny_folder, machine, seed=1)
    rows = [[5, 9, 11, 2], [5, 8, 8, 7, 10, 12, 2], [6, 2]]
    alone = torch.stack([model(input_ids=torch.tensor([r])).logits[0, 0] for r in rows]).detach()
    for left in (False, True):
        pads = [[tokenizer.pad_token_id] * (7 - len(r)) for r in rows]
        ids = torch.tensor([p + r if left else r + p for r, p in zip(rows, pads, strict=True)])
        mask = torch.tensor([[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for r, p in zip(rows, pads, strict=True)])
        place = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=place).last_hidden_state
        read = solved("03", 2)(model.score(hidden)[..., 0].detach(), mask)
        assert torch.allclose(read, alone, atol=1e-5)


def test_the_loss_with_a_margin_equals_trl(tiny_folder, tiny_rows, machine, settings, tmp_path):
    import trl_kit

    margins = [0.0, 0.5, 1.0, 2.0, 0.25, 3.0]
    _, theirs, chosen, rejected = trl_kit.reward_loss(tiny_folder, tiny_rows.pairs[:6], machine, settings, tmp_path, margins)
    ours = solved("03", 1)(chosen, rejected, torch.tensor(margins))
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert abs(float(solved("03", 1)(chosen, rejected, torch.zeros(6))) - float(theirs)) > 0.01


# ---------------------------------------------------------------- one source


def test_an_edited_solution_is_written_into_its_lesson(tmp_path):
    lesson = notebooks.FOLDER / "01_preferences.ipynb"
    for source in (lesson, solutions.path_of(lesson)):
        copy = tmp_path / source.relative_to(notebooks.FOLDER)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(source.read_bytes())
    assert solutions.agree(tmp_path) == []
    edited = tmp_path / "solutions" / lesson.name
    edited.write_text(re.sub(r"\blooking\b", "by_gap", edited.read_text(encoding="utf-8")), encoding="utf-8")
    assert solutions.agree(tmp_path) == [tmp_path / lesson.name]
    assert "by_gap" in cells(tmp_path / lesson.name)["exercise-1"].source
    assert cells(tmp_path / lesson.name)["exercise-1-answer"].source == cells(lesson)["exercise-1-answer"].source
    broken = (tmp_path / lesson.name).read_text(encoding="utf-8").replace("<summary>Solution", "<summary>Answer", 1)
    (tmp_path / lesson.name).write_text(broken, encoding="utf-8")
    with pytest.raises(KitError, match="'exercise-1' with a folded solution is missing"):
        solutions.agree(tmp_path)


def test_executing_a_wrong_solution_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    path = tmp_path / "01_preferences.ipynb"
    text = solutions.path_of(notebooks.FOLDER / path.name).read_text(encoding="utf-8")
    path.write_text(text.replace("+ carelessness / 2", "+ 0 * carelessness"), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(KitError, match="solutions/01_preferences.ipynb: KitError: exercise 01-1: the solution does not pass"):
        solutions.execute(path)
    assert path.read_bytes() == before
