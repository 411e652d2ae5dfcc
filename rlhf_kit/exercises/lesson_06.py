"""Lesson 06: the price at which a label turns, one pair with everything in it, an audit of wrong labels."""

from __future__ import annotations

import numpy as np

from rlhf_kit.exercises.compare import Mistake, compare, numbers, same
from rlhf_kit.labeling import select_pairs


def exercise_1(turning_price, pairs_seen=None) -> str:
    """Prices per character (N,) of (chosen reward, rejected reward, chosen length, rejected length), each (N,).

    pairs_seen, if given: the rows of the reader's own pairs.
    """
    c, r = np.array([2.0, 1.5, 3.0, 0.4, 2.2]), np.array([1.4, 0.3, 1.0, -0.6, 2.1])
    long, short = np.array([260, 200, 90, 150, 400]), np.array([140, 170, 210, 150, 150])
    gap, extra = c - r, long - short
    right = np.array([0.005, 0.04, np.inf, np.inf, 0.0004])
    for price, reward, length in zip(right, zip(c, r, strict=True), zip(long, short, strict=True), strict=True):
        _turns_there(price, reward, length)  # the kit's own selection turns at these prices
    with np.errstate(all="ignore"):
        plain = gap / extra
        likely = (
            (extra / gap, "that is upside down: characters per reward; the price is reward per character"),
            (plain, "a shorter chosen answer gains by a price and never turns: a negative price is none, give inf"),
            (np.abs(plain), "a shorter chosen answer gains by a price and never turns: give inf, not the size of the quotient"),
            (np.where(extra < 0, -plain, np.inf), "that turns the pairs whose chosen answer is the shorter one; a price takes most from the longer answer"),
            (np.where(extra > 0, plain, 0.0), "a price of 0 turns no pair: where the chosen answer is not the longer one, give inf"),
            (np.where(extra > 0, plain, np.nan), "where no price turns the pair, give inf: nan cannot be counted or compared"),
            (np.where(extra != 0, plain, np.nan), "where no price turns the pair, give inf: nan cannot be counted or compared"),
            (gap / long, "only the chosen answer's length is taken; the rejected one pays for its characters, too"),
            (c / long - r / short, "that compares rewards per character; the price is where the two penalised rewards meet"),
            (100 * right, "that is the price of 100 characters; give that of one"),
            (right[np.isfinite(right)], "pairs that never turn are left out; give inf for them, so that every pair keeps its place"),
        )  # fmt: skip
    with np.errstate(all="ignore"):
        compare(turning_price(c.copy(), r.copy(), long.copy(), short.copy()), right, likely, "the prices")
    said = "0.005, 0.04, inf, inf, 0.0004: select_pairs keeps each label just below its price and turns it just above; two never turn"
    if pairs_seen is None:
        return said
    names = ("chosen_reward", "rejected_reward", "chosen_length", "rejected_length")
    own = [np.array([row[name] for row in pairs_seen], dtype=float) for name in names]
    with np.errstate(all="ignore"):
        found = numbers(turning_price(*own), "the prices of your own pairs")
    kept = own[2] <= own[3]
    compare(found, np.where(kept, np.inf, (own[0] - own[1]) / np.where(kept, 1.0, own[2] - own[3])), what="the prices of your own pairs")
    half = f", half of the others are turned by {np.median(found[~kept]):.3g} per character" if not kept.all() else ""
    return said + f"; of your {len(kept)} pairs {kept.sum()} never turn{half}"


def _turns_there(price, rewards, lengths) -> None:
    """Asserts that the kit's selection keeps this label below the price and turns it above; at infinity, that it never does."""
    texts = ["c" * lengths[0], "r" * lengths[1]]

    def first(at):
        return select_pairs([texts], [list(rewards)], length_penalty=at)[0]["chosen"][0]

    assert first(0.0) == "c"
    assert first(100.0) == "c" if np.isinf(price) else (first(0.99 * price), first(1.01 * price)) == ("c", "r")


def exercise_2(choose_pair) -> str:
    """(chosen, rejected) or None of (texts, rewards, price, least)."""
    long, short, middle = "a long answer" * 30, "a short one", "a middling answer" * 6
    five = ["a b c d e f g h", "internationalisation of it", "two words",
            "a rather long answer that says the same thing twice, and says it twice", "unquestionably"]  # fmt: skip
    cases = [  # texts, rewards, price per character, least margin, what is tried
        ([middle, long, short], [0.4, 1.5, -0.2], 0.0, 0.0, "without a price"),
        (five, [1.8, 1.2, 1.6, 3.1, 2.7], 0.05, 0.0, "with a price"),  # every fault with the price chooses another pair
        ([long, short], [5.0, 4.6], 0.01, 0.0, "where the price turns the order"),
        ([long, middle, short], [3.0, 2.4, 2.2], 0.01, 0.5, "with a least margin of 0.5"),
        ([long, short], [4.0, 0.2], 0.01, 0.3, "where the price eats the margin"),
        ([middle, short], [1.0, 0.5], 0.0, 0.5, "at exactly the least margin"),
        ([middle, short], [0.5, 0.5], 0.0, 0.0, "for equal rewards"),
        ([middle, short], [0.1 + 0.2, 0.3], 0.0, 0.0, "for the rewards 0.1 + 0.2 and 0.3"),
        ([short, short], [0.7, 0.7001], 0.0, 0.0, "for two equal texts with rewards that differ by rounding"),
        ([middle], [1.0], 0.0, 0.0, "for a prompt with one answer"),
    ]  # fmt: skip
    for texts, rewards, price, least, tried in cases:
        made = select_pairs([texts], [rewards], length_penalty=price, min_margin=least)
        right = (made[0]["chosen"], made[0]["rejected"]) if made else None
        found = choose_pair(list(texts), list(rewards), price, least)
        if isinstance(found, list | tuple) and len(found) == 2:
            if all(isinstance(x, int | np.integer) for x in found):
                raise Mistake("positions were returned; return the two texts")
            found = tuple(found)
        if found == right:
            continue
        _name_the_fault(found, right, texts, rewards, price, least, tried)
    return f"{len(cases)} prompts as select_pairs labels them: prices, ties, equal texts and least margins, all by the penalised reward"


def _name_the_fault(found, right, texts, rewards, price, least, tried) -> None:
    """Raises the sentence of the variant of the rule that gives `found`."""
    if found is not None and right is not None and found == right[::-1] and price == 0:
        raise Mistake("chosen and rejected have changed places: chosen is the answer with the higher reward")
    variants = (
        (dict(order=True), "the price has picked the two answers and then lost its say: which of them is *chosen* must follow the penalised "
         "reward too"),
        (dict(price=0.0), "the price is not used when the two answers are picked"),
        (dict(price=-price), "the price is added; a character must cost reward"),
        (dict(length=lambda t: len(t.split())), "the length is counted in words; the price is per character"),
        (dict(margin=lambda a, b: a[0] - b[0]), "the least margin is compared with the raw rewards; compare it with the penalised ones, by which the "
         "pair was made"),
        (dict(inclusive=False), "a margin of exactly the least one is enough; only a smaller one is dropped"),
        (dict(ties=1e-300), "0.1 + 0.2 and 0.3 differ by rounding alone and made a pair: see differences below a billionth or so as ties"),
        (dict(ties=-1.0), "equal rewards made a pair: such a label is a coin toss; return None"),
        (dict(same=True), "a text was paired with itself: equal texts can have rewards that differ by rounding, and teach nothing; return None"),
    )  # fmt: skip
    for more, sentence in variants:
        made = _by_variant(texts, rewards, **{"price": price, "least": least, **more})
        if found == made or (right is None and made and found == made[::-1]):  # of equal rewards either may stand first
            raise Mistake(f"{sentence} (seen {tried})")
    if len(texts) == 1:
        raise Mistake("a prompt with a single answer gives no pair: return None")
    same(found, right, what=f"the pair {tried}")


def _by_variant(texts, rewards, price, least, *, order=False, length=len, margin=None, inclusive=True, ties=1e-9, same=False):
    """The kit's rule with one thing changed."""
    if len(texts) < 2:
        return None
    rows = [(r, r - price * length(t), t) for r, t in zip(rewards, texts, strict=True)]
    ranked = sorted(rows, key=lambda row: -row[1])
    best, worst = ranked[0], ranked[-1]
    gap = best[1] - worst[1]
    wide = margin(best, worst) if margin else gap
    if order and best[0] < worst[0]:
        best, worst = worst, best
    if (best[2] == worst[2] and not same) or gap <= ties:
        return None
    return (best[2], worst[2]) if wide > least - 1e-9 and (inclusive or wide > least + 1e-9) else None


def exercise_3(audit) -> str:
    """(share, standard error) of strata: (pairs (H,), read (H,), wrong (H,)), all counts."""
    pairs, read, wrong = np.array([200, 800, 3000]), np.array([100, 60, 40]), np.array([38, 12, 2])
    weight, p = pairs / pairs.sum(), wrong / read
    share, error = weight @ p, np.sqrt((weight**2 * p * (1 - p) / read).sum())
    shares = (
        (wrong.sum() / read.sum(), "that is the share among the pairs that were read, where the narrow margins are over-represented on purpose; weigh "
         "each group by its share of all pairs"),
        (p.mean(), "every group counts the same; weigh it by its share of all pairs"),
        (wrong.sum() / pairs.sum(), "the wrong labels among those read are divided by all pairs: pairs that nobody read are not known to be right"),
        (1 - share, "that is the share of right labels"),
        (pairs @ p, "that is the number of wrong labels; divide by the number of pairs"),
    )  # fmt: skip
    raw = wrong.sum() / read.sum()
    errors = (
        (error**2, "that is the variance; the standard error is its root"),
        (weight @ np.sqrt(p * (1 - p) / read), "the groups' standard errors are added; the groups were drawn independently, so add the variances "
         "weight^2 p(1-p)/n and take the root"),
        (np.sqrt(weight @ (p * (1 - p) / read)), "the weights must be squared: the variance of w times p is w^2 times the variance of p"),
        (np.sqrt(share * (1 - share) / read.sum()), "that is the standard error of one simple random draw; the pairs were drawn group by group"),
        (np.sqrt(raw * (1 - raw) / read.sum()), "that is the standard error of one simple random draw; the pairs were drawn group by group"),
        (np.sqrt((weight**2 * p * (1 - p)).sum()), "the numbers of pairs that were read are missing: more reading must make the error smaller"),
        (np.sqrt((weight**2 * p * (1 - p) / pairs).sum()), "divide by the number of pairs that were *read*; pairs that nobody read teach nothing"),
        (1.96 * error, "that is half of a 95 % interval; return the standard error"),
    )  # fmt: skip
    found = audit(pairs.copy(), read.copy(), wrong.copy())
    if not isinstance(found, tuple | list | np.ndarray) or len(found) != 2:
        raise Mistake("two numbers are expected: the share of wrong labels and its standard error")
    compare(found[0], share, shares, "the share of wrong labels")
    compare(found[1], error, errors, "the standard error")
    return f"{share:.4f} with a standard error of {error:.4f} from 200 readings; the plain share among those read would have been {raw:.3f}"
