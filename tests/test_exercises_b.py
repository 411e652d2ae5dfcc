"""Exercises of lessons 05 to 10: typical wrong answers, each refused with the sentence that names it; numbers from elsewhere.

`test_exercises` holds the form of these lessons, their stubs and their solutions.
"""

from __future__ import annotations

import math
from itertools import combinations

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlhf_kit.exercises import examine, solutions
from rlhf_kit.running import notebooks


def solution(name: str):
    """The function of a solutions notebook."""
    lesson = next(notebooks.FOLDER.glob(f"{name[:2]}_*.ipynb"))
    cells = {c.id: c.source for c in nbformat.read(solutions.path_of(lesson), 4).cells}
    space: dict = {}
    exec(cells["imports"], space)
    before = set(space)
    exec(cells[f"exercise-{name[3]}-answer"], space)
    return next(space[key] for key in space if key not in before)


NAMES = [f"{lesson:02}-{n}" for lesson in range(5, 11) for n in solutions.NUMBERS]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_is_right_and_nonsense_is_not(name):
    said = examine(name, solution(name))
    assert said.status == "right" and any(c.isdigit() for c in said.sentence), said
    for nonsense in (lambda *a: None, lambda *a: "text", lambda *a: 0.123456, lambda *a: [], lambda *a: float("nan"), lambda *a: a[0]):
        said = examine(name, nonsense)
        assert said.status == "not yet" and len(said.sentence) > 15 and "\n" not in said.sentence, said


def test_checks_tell_of_the_readers_own_run():
    draw = np.random.default_rng(0)
    ids, lengths = np.repeat(["a", "b", "c"], 4), draw.integers(50, 90, 12)
    rewards = 0.1 * lengths + np.repeat([0.0, -9.0, 4.0], 4)
    pairs = [{"chosen_reward": 1.0, "rejected_reward": 0.5, "chosen_length": n, "rejected_length": 100} for n in (150, 90, 200)]
    logps = [torch.tensor(x) for x in ([-9.0, -8.0], [-12.0, -8.0], [-10.0, -8.0], [-10.0, -8.0])]
    ours, theirs = ([{"prompt_id": i, "reward": float(r)} for i, r in zip(ids, row, strict=True)] for row in (rewards, 0 * rewards))
    for name, seen, words in (
        ("05-1", (rewards, lengths, ids), "your own fresh answers have +1.000 inside prompts"),
        ("05-2", (np.zeros(8),), "your reward model has 0.0000"),
        ("06-1", (pairs,), "of your 3 pairs 1 never turn, half of the others are turned by 0.0075 per character"),
        ("07-2", (logps, 0.1), "the 2 pairs of section 4 pull with 0.46 beta on average, from 0.43 to 0.50"),
        ("09-2", (ours, theirs), f"by the reward model that taught it: {np.mean(rewards > 0):.3f} ["),
    ):
        said = examine(name, solution(name), *seen)
        assert said.status == "right" and words in said.sentence, said
        assert words not in examine(name, solution(name)).sentence


def refused(name, answer, words):
    said = examine(name, answer)
    assert said.status == "not yet" and words in said.sentence, said


# ---------------------------------------------------------------- 05


def inside(r, n, ids):
    return [np.corrcoef(r[ids == i], n[ids == i])[0, 1] for i in np.unique(ids)]


def error(margins, weigh=True, sign=False, one_way=False, last=True, middle=False):
    p, outcome = 1 / (1 + np.exp(-margins)), np.ones(len(margins))
    if not one_way:
        p, outcome = np.concatenate([p, 1 - p]), np.concatenate([outcome, 0 * outcome])
    total, gaps = 0.0, []
    for k in range(10):
        here = (p >= k / 10) & ((p < (k + 1) / 10) | (last and k == 9))
        if here.any():
            gap = ((k + 0.5) / 10 if middle else p[here].mean()) - outcome[here].mean()
            gaps.append(gap if sign else abs(gap))
            total += here.sum() / len(p) * gaps[-1]
    return total if weigh else float(np.mean(gaps))


def best(r, g, n, keep=lambda r, g, i: g[max(i, key=lambda k: r[k])], draw=combinations):
    return float(np.mean([keep(r, g, i) for i in draw(range(len(r)), n)]))


def repeated(items, n):
    from itertools import product

    return product(items, repeat=n)


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("05-1", lambda r, n, ids: np.corrcoef(r, n)[0, 1], "one correlation over all answers"),
    ("05-1", lambda r, n, ids: np.mean(inside(r, n, ids)), "the mean is nan"),
    ("05-1", lambda r, n, ids: np.mean(np.nan_to_num(inside(r, n, ids))), "are counted as 0"),
    ("05-1", lambda r, n, ids: np.corrcoef([r[ids == i].mean() for i in np.unique(ids)], [n[ids == i].mean() for i in np.unique(ids)])[0, 1],
     "the prompts' means"),
    ("05-1", lambda r, n, ids: np.nanmedian(inside(r, n, ids)), "the median over prompts"),
    ("05-1", lambda r, n, ids: np.nanmean([np.cov(r[ids == i], n[ids == i])[0, 1] if np.ptp(r[ids == i]) else np.nan for i in np.unique(ids)]), "a covariance"),
    ("05-1", lambda r, n, ids: np.mean([np.polyfit(n[ids == i], r[ids == i], 1)[0] for i in np.unique(ids) if np.ptp(r[ids == i])]), "a slope"),
    ("05-1", lambda r, n, ids: np.array([c for c in inside(r, n, ids) if c == c]), "one number a prompt"),
    ("05-2", lambda m: error(m, one_way=True), "in one direction only"),
    ("05-2", lambda m: error(m, weigh=False), "every bin counts the same"),
    ("05-2", lambda m: error(m, sign=True), "cancel to 0"),
    ("05-2", lambda m: error(m, middle=True), "not the middle of the bin"),
    ("05-2", lambda m: error(m, last=False), "falls into no bin"),
    ("05-2", lambda m: error(m) if max(m) < 40 else [0] * 10 and [0][10], "belongs into the last one"),
    ("05-3", lambda r, g, n: g[np.argmax(r[:n])], "the first n samples only"),
    ("05-3", lambda r, g, n: best(r, g, n, draw=repeated), "with repetition"),
    ("05-3", lambda r, g, n: best(g, g, n), "the oracle"),
    ("05-3", lambda r, g, n: best(r, r, n), "the reward of the chosen"),
    ("05-3", lambda r, g, n: best(r, g, n), "the first one always wins"),
    ("05-3", lambda r, g, n: float(np.mean([best(r[i], g[i], 1, lambda r, g, j: g[np.argmax(r)])
                                            for i in (np.random.default_rng().choice(len(r), n, replace=False) for _ in range(50))])),
     "two calls give two numbers"),
    ("05-3", lambda r, g, n, draw=lambda n, k: [np.random.default_rng(seed).permutation(n)[:k] for seed in range(2000)]:
     float(np.mean([g[i[np.argmax(r[i])]] for i in draw(len(r), n)])), "leave luck in it"),
    ("05-3", lambda r, g, n: sum(math.comb(i - 1, n - 1) / math.comb(len(r), n) * g[k] for i, k in enumerate(np.argsort(r)) if i), "do not add up to 1"),
])  # fmt: skip
@pytest.mark.filterwarnings("error::RuntimeWarning")  # what NumPy warns of in a wrong answer stays out of the notebook
def test_lesson_05_names_the_mistake(name, answer, words):
    refused(name, answer, words)


def test_all_subsets_are_a_right_answer_to_best_of_n():
    def by_subsets(r, g, n):
        def kept(r, g, i):
            top = max(r[k] for k in i)
            return np.mean([g[k] for k in i if r[k] == top])

        return best(r, g, n, kept)

    assert examine("05-3", by_subsets).status == "right"


# ---------------------------------------------------------------- 06


def pair(t, r, price, least, length=len, order=False, sign=-1, raw=False, strict=False, ties=False, same=False):
    penal = [x + sign * price * length(text) for x, text in zip(r, t, strict=True)]
    a, b = int(np.argmax(penal)), int(np.argmin(penal))
    margin = (r[a] - r[b]) if raw else penal[a] - penal[b]
    if (t[a] == t[b] and not same) or (penal[a] - penal[b] < 1e-9 and not ties) or margin < least - 1e-9 or (strict and margin < least + 1e-9):
        return None
    return (t[b], t[a]) if order and r[a] < r[b] else (t[a], t[b])


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("06-1", lambda c, r, m, n: (m - n) / (c - r), "upside down"),
    ("06-1", lambda c, r, m, n: (c - r) / (m - n), "a negative price is none"),
    ("06-1", lambda c, r, m, n: np.abs((c - r) / (m - n)), "not the size of the quotient"),
    ("06-1", lambda c, r, m, n: np.where(m > n, (c - r) / (m - n), 0.0), "a price of 0 turns no pair"),
    ("06-1", lambda c, r, m, n: np.where(m < n, (c - r) / (n - m), np.inf), "takes most from the longer answer"),
    ("06-1", lambda c, r, m, n: ((c - r) / (m - n))[m > n], "every pair keeps its place"),
    ("06-1", lambda c, r, m, n: c / m - r / n, "rewards per character"),
    ("06-2", lambda *a: pair(*a, order=True), "lost its say"),
    ("06-2", lambda t, r, p, m: pair(t, r, 0.0, m), "the price is not used"),
    ("06-2", lambda *a: pair(*a, sign=1), "the price is added"),
    ("06-2", lambda *a: pair(*a, length=lambda t: len(t.split())), "counted in words"),
    ("06-2", lambda *a: pair(*a, raw=True), "compared with the raw rewards"),
    ("06-2", lambda *a: pair(*a, strict=True), "exactly the least one is enough"),
    ("06-2", lambda *a: pair(*a, ties=True), "differ by rounding alone"),
    ("06-2", lambda t, r, p, m: (sorted(t, key=lambda x: r[t.index(x)] - p * len(x))[-1], sorted(t, key=lambda x: r[t.index(x)] - p * len(x))[0])
     if m == 0 else pair(t, r, p, m), "equal rewards made a pair"),
    ("06-2", lambda *a: pair(*a, same=True), "paired with itself"),
    ("06-2", lambda *a: (x := pair(*a)) and x[::-1], "have changed places"),
    ("06-2", lambda t, r, p, m: (int(np.argmax(r)), int(np.argmin(r))), "positions were returned"),
    ("06-3", lambda n, k, w: (w.sum() / k.sum(), 0.01), "among the pairs that were read"),
    ("06-3", lambda n, k, w: ((w / k).mean(), 0.01), "every group counts the same"),
    ("06-3", lambda n, k, w: (w.sum() / n.sum(), 0.01), "pairs that nobody read"),
    ("06-3", lambda n, k, w: (s := (n / n.sum()) @ (w / k), math.sqrt(s * (1 - s) / k.sum())), "one simple random draw"),
    ("06-3", lambda n, k, w: ((v := n / n.sum()) @ (p := w / k), math.sqrt(v @ (p * (1 - p) / k))), "the weights must be squared"),
    ("06-3", lambda n, k, w: ((v := n / n.sum()) @ (p := w / k), v @ np.sqrt(p * (1 - p) / k)), "standard errors are added"),
    ("06-3", lambda n, k, w: (n / n.sum()) @ (w / k), "two numbers are expected"),
])  # fmt: skip
def test_lesson_06_names_the_mistake(name, answer, words):
    refused(name, answer, words)


def test_the_audit_finds_a_known_share():
    """Groups with known shares, audited again and again: the estimates scatter by the standard error around the truth."""
    draw, pairs, read = np.random.default_rng(0), np.array([500, 1500, 8000]), np.array([80, 60, 60])
    truth = np.array([0.35, 0.2, 0.08])
    found = np.array([solution("06-3")(pairs, read, draw.binomial(read, truth)) for _ in range(3000)])
    assert abs(found[:, 0].mean() - truth @ pairs / pairs.sum()) < 0.002
    assert found[:, 0].std() == pytest.approx(np.sqrt((found[:, 1] ** 2).mean()), rel=0.05)


# ---------------------------------------------------------------- 07


def sums(p, r, m, b):
    return b * torch.where(m.bool(), p - r, 0.0).sum(1)


def h_of(pw, pl, rw, rl, b):
    return b * ((pw - rw) - (pl - rl))


def step(f, w, c, r, b, rate, factor=0.5, up=1, other=1):
    return torch.log_softmax(f @ (w + up * rate * b * factor * (f[c] - other * f[r])), 0) - torch.log_softmax(f @ w, 0)


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("07-1", lambda p, r, m, b: sums(p, r, m, b) / m.sum(1), "mean over the tokens"),
    ("07-1", lambda p, r, m, b: b * (p - r).sum(1), "the mask is not used"),
    ("07-1", lambda p, r, m, b: b * ((p - r) * m).sum(1), "0 times inf is nan"),
    ("07-1", lambda p, r, m, b: sums(p, 0 * r, m, b), "the reference is not subtracted"),
    ("07-1", lambda p, r, m, b: sums(p, r, m, 1.0), "beta is not used"),
    ("07-1", lambda p, r, m, b: sums(p, r, m, b).sum(), "one number came back"),
    ("07-2", lambda pw, pl, rw, rl, b, e: b * (torch.sigmoid(h_of(pw, pl, rw, rl, b)) - e), "must pull less"),
    ("07-2", lambda pw, pl, rw, rl, b, e: torch.sigmoid(-h_of(pw, pl, rw, rl, b)) - e, "beta is missing"),
    ("07-2", lambda pw, pl, rw, rl, b, e: b * torch.sigmoid(-h_of(pw, pl, rw, rl, b)), "label_smoothing is not used"),
    ("07-2", lambda pw, pl, rw, rl, b, e: b * (torch.sigmoid(-h_of(pw, pl, rw, rl, b)) - e / 2), "splits e between"),
    ("07-2", lambda pw, pl, rw, rl, b, e: (b * (torch.sigmoid(-h_of(pw, pl, rw, rl, b)) - e)).clamp(min=0), "may become negative"),
    ("07-2", lambda pw, pl, rw, rl, b, e: b * (torch.sigmoid(-b * (pw - pl)) - e), "the reference is not used"),
    ("07-2", lambda pw, pl, rw, rl, b, e: b * ((x := (-h_of(pw, pl, rw, rl, b)).exp()) / (1 + x) - e), "exp overflows"),
    ("07-3", lambda f, w, c, r, b, rate: torch.log_softmax(f @ w + rate * b / 2 * (F.one_hot(torch.tensor(c), 4) - F.one_hot(torch.tensor(r), 4)), 0)
     - torch.log_softmax(f @ w, 0), "a score of its own for each answer"),
    ("07-3", lambda f, w, c, r, b, rate: f @ (rate * b / 2 * (f[c] - f[r])), "the change of the scores"),
    ("07-3", lambda *a: step(*a, up=-1), "the step goes uphill"),
    ("07-3", lambda *a: step(*a, factor=1.0), "half of that step"),
    ("07-3", lambda f, w, c, r, b, rate: step(f, w, c, r, 1.0, rate, factor=1.0), "the pull is missing"),
    ("07-3", lambda f, w, c, r, b, rate: step(f, w, c, r, b, rate, torch.sigmoid(-b * (f[c] - f[r]) @ w)), "the reference is not in the margin"),
    ("07-3", lambda *a: step(*a, other=0), "only the chosen answer's part"),
    ("07-3", lambda f, w, *a: torch.zeros(4), "the reference computed from the weights"),
    ("07-3", lambda f, w, *a: (step(f, w, *a) + torch.log_softmax(f @ w, 0)), "the log-probabilities after the step"),
])  # fmt: skip
def test_lesson_07_names_the_mistake(name, answer, words):
    refused(name, answer, words)


def test_the_solutions_of_lesson_07_agree_with_trl(tmp_path):
    """Implicit rewards and the gradient of conservative DPO, against TRL's trainer on a tiny model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    from rlhf_kit.runs import PROJECT
    from rlhf_kit.trainers.dpo import dpo_loss_args

    tokenizer = PreTrainedTokenizerFast.from_pretrained(PROJECT / "data" / "pocket_base")
    torch.manual_seed(0)
    tiny = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    policy, reference = (AutoModelForCausalLM.from_config(tiny) for _ in range(2))
    rows = [{"prompt": "Add 1 and 2.", "chosen": " The answer is 3.", "rejected": " It is 4, I hope."},
            {"prompt": "Name a bird.", "chosen": " A robin is a bird.", "rejected": " No."}]  # fmt: skip
    beta, e = 0.3, 0.2
    arguments = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", beta=beta, **dpo_loss_args({"label_smoothing": e}),
                          max_length=None, disable_tqdm=True)  # fmt: skip
    trainer = DPOTrainer(model=policy.eval(), ref_model=reference.eval(), processing_class=tokenizer,
                         train_dataset=Dataset.from_list(rows), args=arguments)  # fmt: skip
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, {**batch})
    told = {key: float(np.mean(values)) for key, values in trainer._metrics["eval"].items()}

    def tokens(model):
        ids, mask = batch["input_ids"], batch["completion_mask"]
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits
        return torch.log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None])[..., 0], mask[:, 1:]

    with torch.no_grad():
        (mine, mask), (theirs, _) = tokens(policy), tokens(reference)
    chosen, rejected = solution("07-1")(mine, theirs, mask, beta).chunk(2)
    assert float(chosen.mean()) == pytest.approx(told["rewards/chosen"], abs=1e-5)
    assert float(rejected.mean()) == pytest.approx(told["rewards/rejected"], abs=1e-5)
    h = chosen - rejected
    assert loss.item() == pytest.approx(float((-(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)).mean()), abs=1e-5)
    # the pull is minus the derivative of this very loss: one finite step in all chosen log-probabilities
    sums = [torch.where(mask.bool(), x, 0.0).sum(1).double() for x in (mine, theirs)]
    (w, r), (rw, rr) = (x.chunk(2) for x in sums)

    def smoothed(shift):
        h = beta * ((w + shift - rw) - (r - rr))
        return float((-(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)).mean())

    slope = (smoothed(1e-4) - smoothed(-1e-4)) / 2e-4
    assert float(solution("07-2")(w, r, rw, rr, beta, e).mean()) == pytest.approx(-slope, abs=1e-6)


# ---------------------------------------------------------------- 08


def first(logps, beta, policy=lambda t: f"policy-{t}" if t else "sft", reference=lambda t: "sft", on=lambda t: t):
    found = []
    for t in range(3):
        told = logps[on(t)]
        (w, l), (rw, rl) = told[policy(t)], told[reference(t)]  # noqa: E741
        found.append(-F.logsigmoid(beta * ((w - rw) - (l - rl))).mean().item())
    return found


def loop(sft, batches, steps, judge, *, sampler=None, reference=None, start=None, first_t=1, brake=True, last=False, candidate=True,
         pool=False, before=False):  # fmt: skip
    policy = best = sft
    highest, made, kept = (judge(sft) if candidate else -math.inf), [], []
    for t, prompts in enumerate(batches, start=first_t):
        answers = steps.sample(sampler or policy, prompts, t)
        kept.append(steps.pair(answers, steps.score(answers)))
        policy = steps.train(start or policy, policy if reference else sft, kept if pool else kept[-1], t)
        value = judge(policy)
        if before and value <= highest:
            break
        made.append(policy)
        if brake and value <= highest:
            break
        if value > highest:
            best, highest = policy, value
    return made, policy if last else best


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("08-1", lambda p, q: (q - p, torch.expm1(q - p) - (q - p)), "the sign of k1 is flipped"),
    ("08-1", lambda p, q: ((p - q).abs(), torch.expm1(q - p) - (q - p)), "may be negative"),
    ("08-1", lambda p, q: (p - q, torch.expm1(p - q) - (p - q)), "upside down"),
    ("08-1", lambda p, q: (p - q, (p - q) ** 2 / 2), "that is k2"),
    ("08-1", lambda p, q: (p - q, torch.expm1(q - p)), "the term log(policy / reference) is missing"),
    ("08-1", lambda p, q: ((p - q).mean(), torch.expm1(q - p) - (q - p)), "for every sample"),
    ("08-2", lambda x, b: [math.log(2)] * 3, "ln 2 in every iteration"),
    ("08-2", lambda x, b: first(x, b, reference=lambda t: f"policy-{t}" if t else "sft"), "the reference has moved along"),
    ("08-2", lambda x, b: first(x, b, policy=lambda t: f"policy-{t + 1}"), "the loss after each training"),
    ("08-2", lambda x, b: first(x, b, on=lambda t: 0), "on the pairs of iteration 1"),
    ("08-2", lambda x, b: first(x, 1.0), "beta is not used"),
    ("08-2", lambda x, b: [first(x, b)[0], *first(x, b, policy=lambda t: f"policy-{t - 1}" if t > 1 else "sft")[1:]], "one iteration behind"),
    ("08-3", lambda *a: loop(*a, sampler="sft"), "that is the offline arm"),
    ("08-3", lambda *a: loop(*a, reference=True), "the reference moves"),
    ("08-3", lambda *a: loop(*a, start="sft"), "starts from SFT again"),
    ("08-3", lambda *a: loop(*a, first_t=0), "iterations count from 1"),
    ("08-3", lambda *a: loop(*a, pool=True), "and these alone"),
    ("08-3", lambda *a: loop(*a, brake=False), "goes on after the judged value has fallen"),
    ("08-3", lambda *a: loop(*a, last=True), "the last policy came back"),
    ("08-3", lambda *a: loop(*a, candidate=False), "never saw the SFT policy"),
    ("08-3", lambda *a: loop(*a, before=True), "it belongs in the list"),
    ("08-3", lambda s, b, steps, judge: loop(s, [b[0]] * 4, steps, judge), "used twice"),
    ("08-3", lambda s, b, steps, judge: ([], s), "nothing was sampled"),
])  # fmt: skip
def test_lesson_08_names_the_mistake(name, answer, words):
    refused(name, answer, words)


# ---------------------------------------------------------------- 09


def mcnemar(b, a, p=lambda g, k: min(1.0, 2 * tail(min(g, k), g + k)), turned=False):
    g, k = int((~b & a).sum()), int((b & ~a).sum())
    return (k, g, p(g, k)) if turned else (g, k, p(g, k))


def tail(k, n):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def binomial(gained, lost):
    from scipy.stats import binomtest

    return binomtest(gained, gained + lost).pvalue


def unpaired(b, a):
    from scipy import stats

    return stats.fisher_exact([[b.sum(), (~b).sum()], [a.sum(), (~a).sum()]]).pvalue


def wins(x, y, ids, tie=0.5, rows=False, quantiles=(0.025, 0.975), seed=0):
    won = np.where(x > y, 1.0, np.where(x < y, 0.0, tie))
    each = won if rows else np.array([won[ids == i].mean() for i in np.unique(ids)])
    drawn = np.random.default_rng(seed).integers(0, len(each), (1000, len(each)))
    return (won.mean(), *np.quantile(each[drawn].mean(1), quantiles))


def controlled(p, ours, theirs, shape=np.tanh, scale=True, centre=False, at_zero=True):
    """The logistic fit by Newton's method."""
    d = (ours - theirs).astype(float)
    d = d / d.std(ddof=1) if scale else d
    x = np.stack([np.ones_like(d), shape(d - d.mean() if centre else d)], 1)
    c = np.zeros(2)
    for _ in range(30):
        q = 1 / (1 + np.exp(-x @ c))
        c += np.linalg.solve(x.T @ (x * (q * (1 - q))[:, None]), x.T @ (p - q))
    return 100 / (1 + np.exp(-c[0])) if at_zero else 100 * float(np.mean(1 / (1 + np.exp(-x @ c))))


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("09-1", lambda b, a: (*mcnemar(b, a)[:2], unpaired(b, a)), "the same tasks were"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: tail(min(g, k), g + k)), "one tail"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: 1 - tail(g - 1, g + k)), "one tail, of as many gains or more"),
    ("09-1", lambda b, a: mcnemar(b, a, turned=True), "have changed places"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: min(1.0, 2 * tail(g, 100))), "did not change sides"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: 2 * tail(min(g, k), g + k)), "a probability is at most 1"),
    ("09-1", lambda b, a: (int(a.sum()), int(b.sum()), 0.5), "count the ones that changed sides"),
    ("09-1", lambda b, a: mcnemar(b, a, binomial), "no coin to toss"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: min(1.0, 2 * tail(min(g, k), g + k)) if g + k else math.nan), "p is nan"),
    ("09-1", lambda b, a: mcnemar(b, a, lambda g, k: min(1.0, 2 * tail(min(g, k), g + k)) if g + k else 0.0), "when nothing changed"),
    ("09-2", lambda *a: wins(*a, tie=0.0), "ties count as losses"),
    ("09-2", lambda *a: wins(*a, tie=1.0), "ties count as wins"),
    ("09-2", lambda *a: wins(*a, rows=True), "resample whole prompts"),
    ("09-2", lambda *a: wins(*a, quantiles=(0.1587, 0.8413)), "one standard error"),
    ("09-2", lambda *a: wins(*a, quantiles=(0.05, 0.95)), "a 90 % interval"),
    ("09-2", lambda *a: wins(*a, seed=None), "seed the generator"),
    ("09-2", lambda x, y, i: (wins(x, y, i)[0], 0.0, 1.0), "quantiles of single verdicts"),
    ("09-2", lambda x, y, i: (100 * wins(x, y, i)[0], 0.0, 1.0), "in percent"),
    ("09-3", lambda *a: controlled(*a, at_zero=False), "the plain win rate"),
    ("09-3", lambda *a: controlled(*a, centre=True), "the differences are centred"),
    ("09-3", lambda *a: controlled(*a, shape=lambda d: d), "tanh is missing"),
    ("09-3", lambda *a: controlled(*a, scale=False), "not divided by its standard deviation"),
    ("09-3", lambda *a: controlled(*a) / 100, "return percent"),
    ("09-3", lambda p, *a: controlled((p > 0.5).astype(float), *a), "are rounded to wins and losses"),
])  # fmt: skip
def test_lesson_09_names_the_mistake(name, answer, words):
    refused(name, answer, words)


def test_other_right_answers_of_lesson_09_pass():
    """Newton's method in the place of an optimiser; an interval by Student's t over prompts in the place of a bootstrap."""
    assert examine("09-3", controlled).status == "right"

    def by_t(x, y, ids):
        won = (np.sign(x - y) + 1) / 2
        each = np.array([won[ids == i].mean() for i in np.unique(ids)])
        half = 2.0 * each.std(ddof=1) / math.sqrt(len(each))
        return each.mean(), each.mean() - half, each.mean() + half

    assert examine("09-2", by_t).status == "right"


# ---------------------------------------------------------------- 10


def lora(layers, other, rank, adapters=lambda i, o, r: r * (i + o), a=16, frozen=2, outside=True, full=16):
    n = sum(i * o for i, o in layers) + other * outside
    return full * n if rank is None else frozen * n + a * sum(adapters(i, o, rank) for i, o in layers)


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("10-1", lambda c, r, s, n, p, k: 8 * n * c / (s * p * k), "only the chosen answers"),
    ("10-1", lambda c, r, s, n, p, k: 6 * n * (c + r) / (s * p * k), "the reference is forgotten"),
    ("10-1", lambda c, r, s, n, p, k: 12 * n * (c + r) / (s * p * k), "the reference is only read"),
    ("10-1", lambda c, r, s, n, p, k: 10 * n * (c + r) / (s * p * k), "gradient checkpointing"),
    ("10-1", lambda c, r, s, n, p, k: 8 * n * (c + r) / (s * p), "there are several"),
    ("10-2", lambda x, o, r: lora(x, o, r, outside=False), "outside of the linear layers"),
    ("10-2", lambda x, o, r: lora(x, o, r, full=12), "one of the parts of 4 bytes is missing"),
    ("10-2", lambda x, o, r: lora(x, o, r, adapters=lambda i, o, r: r * i * o), "do not multiply them"),
    ("10-2", lambda x, o, r: lora(x, o, r) + (16 * o if r else 0), "never given an adapter"),
    ("10-2", lambda x, o, r: lora(x, o, r, frozen=0), "the frozen weights are forgotten"),
    ("10-2", lambda x, o, r: lora(x, o, r, frozen=16), "no gradients, moments or master copy"),
    ("10-2", lambda x, o, r: lora(x, o, r, adapters=lambda i, o, r: r * i), "only factor A"),
    ("10-2", lambda x, o, r: lora(x, o, r, a=2), "the adapters are trained"),
    ("10-2", lambda x, o, r: lora(x, o, r) / 2**30, "return bytes"),
    ("10-3", lambda n: np.full(n.shape, 1 / n.shape[1]), "every micro batch counts the same"),
    ("10-3", lambda n: n / n.sum(), "the processes are forgotten"),
    ("10-3", lambda n: n / n.sum(1, keepdims=True), "divide by the rows of all"),
    ("10-3", lambda n: np.ones(n.shape), "the gradients of the micro batches are added up"),
    ("10-3", lambda n: 1 / n, "upside down"),
])  # fmt: skip
def test_lesson_10_names_the_mistake(name, answer, words):
    refused(name, answer, words)
