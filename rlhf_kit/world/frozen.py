"""The frozen sets under `data/world/`: demonstrations and annotated preference pairs.

    python -m rlhf_kit.world.frozen            # remakes all of them, row for row

Every row depends only on its own number, so a prefix can be remade and compared.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from ..errors import KitError
from .annotator import Annotator
from .prompts import prompts
from .writing import demonstrate, slip

FOLDER = Path(__file__).resolve().parents[2] / "data" / "world"
SIZES = {"sft": 12_000, "preferences": 20_000, "preferences-heldout": 1_000}
ANNOTATOR = Annotator(temperature=0.4, carelessness=0.04)


def skill_of_demonstrators(rng: random.Random) -> float:
    """SFT demonstrations come from mediocre writers: skill 0.33 on average."""
    return rng.betavariate(2, 4)


def damage(text: str, rng: random.Random) -> str:
    """What a broken model writes: words lost, swapped or repeated, a sentence said again, the end cut off."""
    words = text.split()
    kind = rng.randrange(5)
    if kind == 0:
        words = [w for w in words if rng.random() > 0.25] or words[:1]
    elif kind == 1:
        for _ in range(1 + len(words) // 8):
            i, j = rng.randrange(len(words)), rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
    elif kind == 2:
        i = rng.randrange(len(words))
        words[i:i] = [words[i]] * rng.randint(1, 4)
    elif kind == 3:
        sentences = [s.strip() + "." for s in text.split(".") if s.strip()]
        return " ".join(sentences + [rng.choice(sentences)] * rng.randint(1, 4))
    else:
        words = words[: max(1, int(len(words) * rng.uniform(0.2, 0.9)))]
    return " ".join(words)


def sft_row(row: dict, index: int) -> dict:
    rng = random.Random(f"sft-row-{index}")
    answer = demonstrate(row["prompt"], rng, skill_of_demonstrators(rng))
    messages = [*row["prompt"], {"role": "assistant", "content": answer}]
    return {"prompt_id": row["prompt_id"], "messages": messages, "category": row["category"]}


def preference_row(row: dict, other: dict, index: int, annotator: Annotator = ANNOTATOR) -> dict:
    """One annotated pair: two writers of any skill, two drafts of one writer, an answer and the same with a slip, a
    damaged answer, or one to another question."""
    rng = random.Random(f"preference-row-{row['split']}-{index}")
    prompt, draw = row["prompt"], rng.random()
    skill = rng.random()
    a, b = demonstrate(prompt, rng, skill), demonstrate(prompt, rng, rng.random())
    source = "writers"
    if draw < 0.10:
        source, b = "damaged", damage(b, rng)
    elif draw < 0.15:
        source, b = "other prompt", demonstrate(other["prompt"], rng, rng.random())
    elif draw < 0.30:  # the same writer, one detail mixed up: small models do that more often than people
        source, a = "slip", demonstrate(prompt, rng, skill)
        b = slip(a, rng)
    elif draw < 0.65:  # drafts differ in single faults and not in general skill, so each fault is judged on its own
        source, skill = "drafts", skill_of_demonstrators(rng)
        a, b = demonstrate(prompt, rng, skill), demonstrate(prompt, rng, skill)
    while a == b:
        b = demonstrate(prompt, rng, rng.random())
    if rng.random() < 0.5:
        a, b = b, a
    if annotator.choose(prompt, a, b, rng) == 1:
        a, b = b, a

    def whole(text: str) -> list[dict]:
        return [*prompt, {"role": "assistant", "content": text}]

    return {"prompt_id": row["prompt_id"], "prompt": prompt, "chosen": whole(a), "rejected": whole(b), "source": source,
            "category": row["category"]}  # fmt: skip


def rows(name: str, n: int | None = None, annotator: Annotator = ANNOTATOR) -> list[dict]:
    """The first `n` rows of a frozen set, made afresh. Raises KitError for an unknown set."""
    if name not in SIZES:
        raise KitError(f"unknown frozen set {name!r}; known sets: {', '.join(SIZES)}")
    n = SIZES[name] if n is None else n
    if name == "sft":
        return [sft_row(row, i) for i, row in enumerate(prompts("sft", n))]
    asked = prompts("heldout" if name.endswith("heldout") else "preference", n + 1)
    return [preference_row(asked[i], asked[i + 1], i, annotator) for i in range(n)]


def load(name: str):
    """A frozen set as datasets.Dataset. Raises KitError when the name is unknown or the file is missing."""
    from datasets import Dataset

    if name not in SIZES:
        raise KitError(f"unknown frozen set {name!r}; known sets: {', '.join(SIZES)}")
    path = FOLDER / f"{name}.parquet"
    if not path.exists():
        raise KitError(f"{path} is missing; remake it with: python -m rlhf_kit.world.frozen --only {name}")
    return Dataset.from_parquet(str(path), keep_in_memory=True)


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(SIZES))
    parser.add_argument("--out", default=str(FOLDER))
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else SIZES:
        path = out / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows(name)), f"{path}.partial", compression="zstd")
        os.replace(f"{path}.partial", path)
        print(f"{path}: {SIZES[name]:,} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
