"""Best-of-n: optimising a proxy without training, and what the truth does meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import standard_error


def bon_kl_bound(n: int) -> float:
    """Upper bound on KL(best-of-n || policy) in nats: log n - (n - 1) / n (arXiv 2405.07863 section 3.3); KitError for n below 1."""
    if n < 1:
        raise KitError(f"best-of-n needs n of at least 1, not {n}")
    return float(np.log(n) - (n - 1) / n)


def best_of_n_mean(chooser: Sequence, values: Sequence, n: int) -> np.ndarray:
    """Expected value of the sample that `chooser` ranks first among n: (prompts,), unbiased.

    chooser, values: (prompts, k) numbers of the same k >= n samples. The mean over all subsets of size n, in
    closed form (arXiv 2112.09332): the i-th smallest of k is the best of a subset with probability
    C(i-1, n-1) / C(k, n).
    Samples that the chooser holds equal share their chance. KitError for other shapes, n outside 1 to k, and numbers
    that are not finite.
    """
    from scipy.special import gammaln

    chooser, values = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (chooser, values))
    if chooser.shape != values.shape:
        raise KitError(f"proxy and gold scores must have one shape, not {chooser.shape} and {values.shape}")
    k = chooser.shape[1]
    if not 1 <= n <= k:
        raise KitError(f"best-of-{n} cannot be measured with {k} samples a prompt")
    if not (np.isfinite(chooser).all() and np.isfinite(values).all()):
        raise KitError("best-of-n got a score that is not a finite number")
    # log C(m, r) by gamma functions: C(1024, 512) would not fit a float's exponent for long.
    rank = np.arange(1, k + 1)
    weight = np.zeros(k)
    able = rank >= n
    weight[able] = np.exp(gammaln(rank[able]) - gammaln(n) - gammaln(rank[able] - n + 1)
                          - gammaln(k + 1) + gammaln(n + 1) + gammaln(k - n + 1))
    expected = np.empty(len(chooser))
    for row, (keys, gold) in enumerate(zip(chooser, values, strict=True)):
        order = np.argsort(keys, kind="stable")
        _, group = np.unique(keys[order], return_inverse=True)
        shared = np.bincount(group, weights=weight) / np.bincount(group)
        expected[row] = shared[group] @ gold[order]
    return expected


def best_of_n_curve(scores_proxy: Sequence, scores_gold: Sequence, ns: Sequence[int]) -> list[dict]:
    """The proxy and the true score of the sample that the proxy likes best, for each n.

    scores_proxy, scores_gold: (prompts, k). Returns one dict per n: n, kl_bound (nats), proxy, gold and
    oracle (chosen by gold itself), each a mean over prompts, and gold_se, its standard error over prompts. KitError as for
    `best_of_n_mean`.
    """
    curve = []
    for n in ns:
        gold = best_of_n_mean(scores_proxy, scores_gold, n)
        curve.append({
            "n": int(n), "kl_bound": bon_kl_bound(n),
            "proxy": float(best_of_n_mean(scores_proxy, scores_proxy, n).mean()),
            "gold": float(gold.mean()), "gold_se": standard_error(gold),
            "oracle": float(best_of_n_mean(scores_gold, scores_gold, n).mean()),
        })
    return curve


def best_of_every_n(table: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    """Best-of-n by reward for every n up to k: {n, kl (its upper bound), and the mean of each measure}. table: (prompts, k) each."""
    k = table["reward"].shape[1]
    return [{"n": n, "kl": bon_kl_bound(n), **{key: float(best_of_n_mean(table["reward"], values, n).mean()) for key, values in table.items()}}
            for n in range(1, k + 1)]  # fmt: skip


def tilted(table: Mapping[str, np.ndarray], betas: Sequence[float]) -> list[dict[str, float]]:
    """The optimum pi(a) ~ pi_0(a) exp(r / beta) (arXiv 2405.07863 eq. 3) over the k samples of each prompt, for every beta.

    kl is that to the even choice among the k samples, which it cannot leave: at most log k.
    """
    reward, found = table["reward"], []
    for beta in betas:
        weight = np.exp((reward - reward.max(axis=1, keepdims=True)) / beta)
        weight /= weight.sum(axis=1, keepdims=True)
        kl = (weight * np.log(np.maximum(weight * reward.shape[1], 1e-300))).sum(axis=1).mean()
        found.append(
            {
                "beta": float(beta),
                "kl": float(kl),
                **{key: float((weight * values).sum(axis=1).mean()) for key, values in table.items()},
            }
        )
    return found
