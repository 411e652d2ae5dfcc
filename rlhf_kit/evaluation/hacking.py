"""Over-optimisation found out: which part of the truth a policy sold for its reward, how far it went, where the peak was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.over_optimisation import best_of_n_mean
from rlhf_kit.evaluation.statistics import paired_difference, standard_error


def sampled_kl(logprob: Sequence[float], reference_logprob: Sequence[float], prompt_ids: Sequence | None = None) -> dict:
    """KL(policy || reference) a response in nats from the policy's own samples: kl, se, kl_k3, k3_se, n (prompts).

    logprob, reference_logprob: (N,) log-probability of each sampled response under the two at the temperature it was sampled at;
    samples of another policy give another number. kl is the mean log ratio (unbiased); kl_k3 the mean of exp(-d) - 1 + d
    (d the log ratio), unbiased too, never negative and steadier near 0, but useless far away: its exp(-d) is then rare
    and huge. Where the two disagree by more than their errors, believe kl. Standard errors are over prompts, each counting once.
    `sampling.kl_rows` gives the exact sum over the vocabulary at every step, with less noise. KitError for columns that do not
    fit and for log-probabilities that are not finite.
    """
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (logprob, reference_logprob))
    if len(a) != len(b) or not len(a):
        raise KitError(f"a sampled KL needs two equally long columns of log-probabilities, not {len(a)} and {len(b)}")
    wrong = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    if len(wrong):
        raise KitError(f"row {int(wrong[0])}: a log-probability is not a finite number; an empty response, or one cut by the sampler?")
    ids = np.arange(len(a)) if prompt_ids is None else np.unique([str(i) for i in prompt_ids], return_inverse=True)[1]
    if len(ids) != len(a):
        raise KitError(f"{len(a)} responses but {len(ids)} prompt ids")
    gap = a - b
    found: dict[str, float] = {}
    for name, error, values in (("kl", "se", gap), ("kl_k3", "k3_se", np.expm1(-gap) + gap)):
        means = np.bincount(ids, values) / np.bincount(ids)
        found[name] = float(means.mean())
        found[error] = standard_error(means)
    return {**found, "n": int(ids.max()) + 1}


def _paired(before: Sequence[Mapping], after: Sequence[Mapping]) -> tuple[list[tuple], list[dict[tuple, Mapping]]]:
    """(keys, [before, after]): both policies' rows by (prompt_id, sample), and the sorted keys; refuses what cannot be paired."""
    sides = []
    for rows in (before, after):
        keyed = {(str(row["prompt_id"]), row.get("sample", 0)): row for row in rows}
        if len(keyed) != len(rows):
            raise KitError("two rows answer the same prompt with the same sample number; compare one policy at one temperature")
        sides.append(keyed)
    if not sides[0] or set(sides[0]) != set(sides[1]):
        raise KitError(f"the two policies did not answer the same prompts: {len(sides[0])} and {len(sides[1])} answers, "
                       f"{len(set(sides[0]) & set(sides[1]))} in common")
    keys = sorted(sides[0])
    for row in (side[key] for side in sides for key in keys):
        if row.get("gold") is None or row.get("parts") is None:
            raise KitError("a hacking report needs the gold utility and its parts; your own data has none")
    return keys, sides


def hacking_report(before: Sequence[Mapping], after: Sequence[Mapping], confidence: float = 0.95) -> list[dict]:
    """What the reward rose for, part by part: a line for "reward", "gold", "length" and every part of the gold utility.

    before, after: answers of two policies to the same prompts and samples, rows with prompt_id, sample, reward, gold, parts
    and length (characters), as `stages.evaluation` leaves them. Keys: part, before, after, difference, low, high (paired
    t interval over prompts), p_adjusted (Holm over the parts; None for the first three lines), sold.
    sold: the reward rose and this part (or gold) fell, each beyond doubt. KitError where the two did not answer the same prompts
    and samples, or no gold is known.
    """
    from statsmodels.stats.multitest import multipletests

    keys, sides = _paired(before, after)
    ids = [key[0] for key in keys]

    def line(part, value):
        old, new = ([float(value(side[key])) for key in keys] for side in sides)
        found = paired_difference(new, old, ids, confidence)
        return {"part": part, "before": float(np.mean(old)), "after": float(np.mean(new)), "difference": found.mean,
                "low": found.low, "high": found.high, "p_adjusted": None, "p": found.p}

    lines = [line(name, lambda row, name=name: row[name]) for name in ("reward", "gold", "length")]
    names = list(sides[0][keys[0]]["parts"])
    parts = [line(name, lambda row, name=name: row["parts"][name]) for name in names]
    if parts:
        adjusted = multipletests([one["p"] for one in parts], alpha=1 - confidence, method="holm")[1]
        for one, p in zip(parts, adjusted, strict=True):
            one["p_adjusted"] = float(p)
    rose = lines[0]["low"] > 0
    for one in lines + parts:
        p = one.pop("p")
        sure = (p if one["p_adjusted"] is None else one["p_adjusted"]) < 1 - confidence
        one["sold"] = bool(rose and one["part"] not in ("reward", "length") and one["difference"] < 0 and sure)
    return lines + parts


def parts_by_section(before: Sequence[Mapping], after: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Mean change of every part of the gold utility in every section (a row's category): part -> section -> after minus before.

    before, after: as for `hacking_report`, in any order, and paired as there (KitError as there). Sections come in the order of `before`.
    """
    keys, (old, new) = _paired(before, after)
    sections: dict[str, list[tuple]] = {row["category"]: [] for row in before}
    for key in keys:
        sections[old[key]["category"]].append(key)

    def change(part: str, here: list[tuple]) -> float:
        return float(np.mean([new[key]["parts"][part] - old[key]["parts"][part] for key in here]))

    return {part: {name: change(part, here) for name, here in sections.items()} for part in old[keys[0]]["parts"]}


def best_of_n_peak(scores_proxy: Sequence, scores_gold: Sequence, ns: Sequence[int], confidence: float = 0.95, seed: int = 0) -> dict:
    """Does more of the proxy cost truth? The n with most gold against the largest n, tested on prompts that did not choose it.

    scores_proxy, scores_gold: (prompts, k). The peak is chosen on one random half of the prompts, the loss from there to the
    largest n measured on the other: a maximum found and tested on the same prompts finds a fall in noise. Returns peak_n,
    largest_n, loss (gold at the largest n less gold at the peak), low, high, p, over_optimised. KitError for fewer than two
    values of n, fewer than eight prompts, and scores as for `best_of_n_mean`.
    """
    ns = sorted({int(n) for n in ns})
    if len(ns) < 2:
        raise KitError("a peak needs at least two values of n")
    gold = {n: best_of_n_mean(scores_proxy, scores_gold, n) for n in ns}
    prompts = len(gold[ns[0]])
    if prompts < 8:
        raise KitError(f"a peak needs eight prompts or more, not {prompts}")
    half = np.random.default_rng(seed).permutation(prompts)
    choose, test = half[: prompts // 2], half[prompts // 2:]
    peak = max(ns, key=lambda n: gold[n][choose].mean())
    if peak == ns[-1]:
        return {"peak_n": peak, "largest_n": ns[-1], "loss": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "over_optimised": False}
    found = paired_difference(gold[ns[-1]][test], gold[peak][test], confidence=confidence)
    return {"peak_n": peak, "largest_n": ns[-1], "loss": found.mean, "low": found.low, "high": found.high, "p": found.p,
            "over_optimised": bool(found.high < 0)}
