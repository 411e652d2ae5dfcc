"""Mixtures of preference sets: mix1 and mix2 of the paper (arXiv 2405.07863 section 2, appendix B.1) or your own, as one
data set with a ledger for each set, and their statistics beside the paper's Table 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_kit.errors import KitError
from rlhf_kit.preferences import Outcome, collect, examine
from rlhf_kit.runs import PROJECT, Ledger
from rlhf_kit.sources.public_sets import MIXTURES, SETS, known
from rlhf_kit.sources.splits import opening_key, prompt_key

if TYPE_CHECKING:
    from datasets import Dataset

# What `set_statistics` says of a set, and Table 5's numbers beside it, in the order of a table.
COLUMNS = (
    "set", "pairs", "paper pairs", "share", "paper share", "prompts", "paper prompts", "user turns", "prompt chars",
    "chosen chars", "rejected chars", "chosen longer", "prompt tokens", "paper prompt tokens", "chosen tokens",
    "paper chosen tokens", "rejected tokens", "paper rejected tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """Pairs of several sets (`source` names each row's set), what became of every comparison, and leaks.

    ledgers: set -> its ledger, before `pairs` of them were drawn; total: everything, with those not drawn.
    leaks: evaluation set -> pairs whose dialogue opens like one of its prompts (left out with drop_leaks).
    """

    name: str
    dataset: Dataset
    ledgers: dict[str, Ledger]
    total: Ledger
    leaks: dict[str, int]


def load_mixture(
    sets: str | Sequence[str] | Mapping[str, Any],
    *,
    root: str | Path | Mapping[str, Any] | None = None,
    standard: bool = False,
    seed: int | None = 0,
    pairs: int | None = None,
    evaluation: Mapping[str, Iterable[Any]] | None = None,
    drop_leaks: bool = False,
    **options: Any,
) -> Mixture:
    """The pairs of several sets, each read by its own adapter and filter, in an order drawn with `seed`.

    sets: "mix1", "mix2", names or hub ids of `public_sets`, or {name: path} for copies or files of your own (a public
    set's name brings its adapter). root: a folder with one sub folder a set, or {name: path}. standard: the authors'
    conversions. seed: None keeps the order of the sets. pairs: so many of the shuffled pairs (the released mixture
    has 700,000 of 848,965). evaluation: name -> prompts (texts or message lists) that should not be trained on.
    options: those of `preferences.examine`; min_margin, limit and so on hold for each set on its own.

    A pair that an earlier set has, too, is counted as "in_another_set" and kept once. Raises KitError for an unknown
    set, a set that cannot be read, fewer pairs than `pairs`.
    """
    named = _named(sets)
    if pairs is not None and seed is None:
        raise KitError("pairs= draws from the shuffled mixture, so it needs a seed")
    ledgers: dict[str, Ledger] = {}
    leaks = {name: 0 for name in evaluation or {}}
    keys = {name: {_opening(prompt) for prompt in prompts} for name, prompts in (evaluation or {}).items()}
    options = {"root": root, "standard": standard, **options}
    outcomes = _of_sets(named, options, ledgers)
    name = sets if isinstance(sets, str) else " + ".join(named)
    dataset, total = collect(_leaks(outcomes, keys, leaks, drop_leaks), name)
    _check_sum(ledgers, total, sum(leaks.values()) if drop_leaks else 0)
    total = Ledger(name, total.rows_in, total.rows_out, total.dropped)
    if pairs is not None and pairs > len(dataset):
        raise KitError(f"{name} has {len(dataset):,} pairs, fewer than the {pairs:,} that were asked for")
    if seed is not None:
        dataset = dataset.shuffle(seed=seed)
    if pairs is not None:
        spare = len(dataset) - pairs
        dataset = dataset.select(range(pairs))
        total = Ledger(name, total.rows_in, pairs, {**total.dropped, "not_drawn": spare})
    return Mixture(name, dataset, ledgers, total.check(), leaks)


def _named(sets: Any) -> dict[str, Any]:
    """Name -> source of each set."""
    if isinstance(sets, str) and sets in MIXTURES:
        return {name: name for name in MIXTURES[sets]}
    if isinstance(sets, Mapping):
        found = dict(sets)
    else:
        found = {name: name for name in ([sets] if isinstance(sets, str) else sets)}
        unknown = next((name for name in found if known(name) is None), None)
        if unknown is not None:
            raise KitError(
                f"unknown set {unknown!r}; known: {', '.join([*MIXTURES, *SETS])}; a file of yours needs a name: "
                "{'mine': path}"
            )
    if not found:
        raise KitError("a mixture needs at least one set")
    return found


def _of_sets(named: Mapping[str, Any], options: dict[str, Any], ledgers: dict[str, Ledger]) -> Iterator[Outcome]:
    """The outcomes of all sets, one after the other; fills `ledgers`. Equal pairs are kept once over all of them."""
    seen: dict[bytes, str] = {}
    for name, source in named.items():
        one = known(name)
        label = one[0].name if one else name
        rows_in, kept, dropped = 0, 0, {}
        adapter = "auto"
        if source != name and one is not None and not one[1] and known(source) is None:
            adapter = one[0].adapter  # a copy under a public set's name
        for outcome in examine(source, adapter, seen=seen, seen_as=label, **options):
            rows_in += 1
            if outcome.pair is None:
                dropped[outcome.reason] = dropped.get(outcome.reason, 0) + 1
            else:
                kept += 1
            yield outcome._replace(source=label)
        ledgers[label] = Ledger(label, rows_in, kept, dropped).check()


def _leaks(
    outcomes: Iterable[Outcome], keys: Mapping[str, set[str]], leaks: dict[str, int], drop: bool
) -> Iterator[Outcome]:
    for outcome in outcomes:
        if keys and outcome.pair is not None:
            opening = opening_key(outcome.pair.chosen)
            home = next((name for name, those in keys.items() if opening in those), None)
            if home is not None:
                leaks[home] += 1
                if drop:
                    told = f"has a prompt of the evaluation set {home}"
                    outcome = outcome._replace(pair=None, reason="evaluation_prompt", detail=told)
        yield outcome


def _opening(prompt: Any) -> str:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list | tuple) or not prompt or not all(isinstance(turn, Mapping) for turn in prompt):
        raise KitError("evaluation prompts must be texts or lists of {role, content}")
    return opening_key(list(prompt))


def _check_sum(ledgers: Mapping[str, Ledger], total: Ledger, leaked: int) -> None:
    """No comparison is lost between the sets' ledgers and the mixture's."""
    rows_in = sum(one.rows_in for one in ledgers.values())
    rows_out = sum(one.rows_out for one in ledgers.values()) - leaked
    if (rows_in, rows_out) != (total.rows_in, total.rows_out):
        raise KitError(
            f"the ledgers of the sets ({rows_in} in, {rows_out} out) and of the mixture ({total.rows_in} in, "
            f"{total.rows_out} out) differ"
        )


# ---------------------------------------------------------------- statistics


def set_statistics(dataset: Dataset, tokenizer: Any = None) -> list[dict[str, Any]]:
    """One row for each `source` of a data set in the standard format, most pairs first, and a last one for all.

    set, pairs, share (of all pairs), prompts (different ones), user turns, chosen longer (share of pairs whose chosen
    answer has more characters, ties half), mean characters of prompt (all its turns), chosen and rejected answer; with
    a tokenizer also mean tokens of the same texts, without special tokens or template.
    """
    wanted = ("prompt", "chosen", "rejected", "source")
    if not set(wanted) <= set(getattr(dataset, "column_names", None) or ()):
        raise KitError(f"expected a data set in the standard preference format, with the columns {', '.join(wanted)}")
    sums: dict[str, dict[str, Any]] = {}
    for batch in dataset.select_columns(list(wanted)).iter(batch_size=1000):
        for prompt, chosen, rejected, source in zip(*(batch[name] for name in wanted), strict=True):
            texts = ["\n".join(turn["content"] for turn in prompt), chosen[-1]["content"], rejected[-1]["content"]]
            sizes = [sum(len(turn["content"]) for turn in prompt), len(texts[1]), len(texts[2])]
            tokens = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if tokenizer else []
            found = sums.setdefault(source, {"pairs": 0, "keys": set(), "turns": 0, "longer": 0.0, "sums": [0] * 6})
            found["pairs"] += 1
            found["keys"].add(prompt_key(prompt))
            found["turns"] += sum(turn["role"] == "user" for turn in prompt)
            found["longer"] += 0.5 * ((sizes[1] > sizes[2]) + (sizes[1] >= sizes[2]))
            for place, size in enumerate(sizes + tokens):
                found["sums"][place] += size
    if not sums:
        raise KitError("there are no rows to describe")
    everything = {"pairs": 0, "keys": set(), "turns": 0, "longer": 0.0, "sums": [0] * 6}
    for found in sums.values():
        everything["keys"] |= found["keys"]
        for name in ("pairs", "turns", "longer"):
            everything[name] += found[name]
        everything["sums"] = [a + b for a, b in zip(everything["sums"], found["sums"], strict=True)]
    ordered = sorted(sums.items(), key=lambda item: (-item[1]["pairs"], item[0]))
    return [
        _means(name, found, everything["pairs"], tokenizer is not None)
        for name, found in [*ordered, ("all", everything)]
    ]


def _means(name: str, found: Mapping[str, Any], pairs: int, tokens: bool) -> dict[str, Any]:
    n = found["pairs"]
    sides = ("prompt", "chosen", "rejected")
    means = [total / n for total in found["sums"]]
    return {
        "set": name,
        "pairs": n,
        "share": n / pairs,
        "prompts": len(found["keys"]),
        "user turns": found["turns"] / n,
        "chosen longer": found["longer"] / n,
        **{f"{side} chars": mean for side, mean in zip(sides, means[:3], strict=True)},
        **{f"{side} tokens": mean if tokens else None for side, mean in zip(sides, means[3:], strict=True)},
    }


def table5(dataset: Dataset, tokenizer: Any = None) -> list[dict[str, Any]]:
    """`set_statistics` with the paper's Table 5 beside it: rows for `views.tables.table(rows, mixtures.COLUMNS)`.

    The paper's lengths are in tokens of Llama-3-8B: with its tokenizer they compare with ours; characters have no
    counterpart. Sets of Table 5 that the data set lacks come last with nothing of ours; None where a number is missing.
    """
    paper = paper_table5()
    names = {one.table5: one.name for one in SETS.values() if one.table5}
    rows = set_statistics(dataset, tokenizer)
    missing = [name for name in names.values() if name not in {row["set"] for row in rows}]
    rows = [*rows[:-1], *({"set": name} for name in missing), rows[-1]]
    all_pairs = sum(row["pairs"] for row in paper.values())
    by_set = {names[name]: {**row, "share": row["pairs"] / all_pairs} for name, row in paper.items()}
    by_set["all"] = {"pairs": all_pairs, "share": 1.0, "prompts": sum(row["prompts"] for row in paper.values())}
    sides = {"prompt tokens": "prompt tokens", "chosen tokens": "preferred tokens", "rejected tokens": "rejected tokens"}
    for row in rows:
        theirs = by_set.get(row["set"], {})
        for ours, name in {"pairs": "pairs", "share": "share", "prompts": "prompts", **sides}.items():
            row[f"paper {ours}"] = theirs.get(name)
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def paper_table5() -> dict[str, dict[str, Any]]:
    """Table 5 as the paper prints it: set -> {prompts, prompt tokens, preferred tokens, ..., pairs}."""
    import yaml

    text = (PROJECT / "data" / "paper_numbers" / "table5_preference_data.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return {row["model"]: dict(zip(found["columns"], row["values"], strict=True)) for row in found["rows"]}


def label_share(source: Any, **options: Any) -> dict[str, int]:
    """How often each letter is the answer in a set of pair prompts (`public_adapters.pair_prompt`): the released one's
    position was drawn without a seed, and nothing balances it. options: root, split, subset, streaming, limit (rows)."""
    from rlhf_kit.sources.fields import BadRow
    from rlhf_kit.sources.public_sets import open_preferences

    limit, counted, rows = options.pop("limit", None), {"A": 0, "B": 0, "other": 0}, 0
    for one in open_preferences(source, **options):
        for _, row in one.part.rows:
            turns = None if isinstance(row, BadRow) else row.get("messages") or row.get("conversations")
            last = turns[-1] if isinstance(turns, list | tuple) and turns else None
            letter = last.get("content") if isinstance(last, Mapping) else None
            letter = letter.strip() if isinstance(letter, str) else "other"
            counted[letter if letter in counted else "other"] += 1
            rows += 1
            if rows == limit:
                return counted
    return counted
