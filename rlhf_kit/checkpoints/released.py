"""The released checkpoints of arXiv 2405.07863 and its code: a table of what each is and how it wants to be asked.

Nothing here opens a model. `rewards` and `models` look an id up to ask it as its authors did; a copy in a folder is asked
so with `like=ID`. What no source says is None or said in `note`; no checkpoint was at hand when this was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_LLAMA3 = "llama3 (Meta Llama 3 Community License)"


@dataclass(frozen=True)
class Checkpoint:
    """One released model.

    kind: reward (scalar head), multi-objective (19 heads and a gate), pairwise (next token A or B), policy (chat model),
        gguf (a policy in llama.cpp's format: needs `gguf_file=`), base (what the recipe starts from).
    bos: whether one BOS stands before the text when it is asked as its authors ask it.
    gated: True when the licence must be accepted on the hub first; None when no source says.
    """

    id: str
    kind: str
    base: str
    licence: str | None
    gated: bool | None
    bos: bool
    note: str
    aliases: tuple[str, ...] = ()


TABLE = (
    Checkpoint(
        "sfairXC/FsfairX-LLaMA3-RM-v0.1", "reward", "meta-llama/Meta-Llama-3-8B-Instruct",
        "that of PKU-SafeRLHF-30K, says its card", None, True,
        "whole conversation in its own template, read at the last token; trained without BOS, its scripts ask with one "
        "(about a point of RewardBench); scores compare within one prompt only",
        ("Wenboz/FsfairX-LLaMA3-RM-clone",),
    ),
    Checkpoint(
        "Salesforce/LLaMA-3-8B-SFR-RM-R", "reward", "meta-llama/Meta-Llama-3-8B-Instruct", None, None, True,
        "named with the paper's first release; nothing more was found, taken to be like FsfairX",
    ),
    Checkpoint(
        "RLHFlow/pair-preference-model-LLaMA3-8B", "pairwise", "meta-llama/Meta-Llama-3-8B-Instruct", None, None, False,
        "its prompt is `chat.pair_prompt`; both orders averaged; trained and asked without BOS",
    ),
    Checkpoint(
        "RLHFlow/ArmoRM-Llama3-8B-v0.1", "multi-objective", "sfairXC/FsfairX-LLaMA3-RM-v0.1", _LLAMA3, None, True,
        "brings Python code of its own; the kit's own implementation reads its weights and runs none of it",
    ),
    Checkpoint(
        "RLHFlow/LLaMA3-SFT", "policy", "meta-llama/Meta-Llama-3-8B", _LLAMA3, None, True,
        "the paper's SFT policy, 1 epoch; its end token is <|end_of_text|>, its turns end with <|eot_id|>",
    ),
    Checkpoint(
        "RLHFlow/LLaMA3-SFT-v2", "policy", "meta-llama/Meta-Llama-3-8B", None, None, True,
        "November 2024: 2 epochs of RLHFlow-SFT-Dataset-ver2, loss on the answers only",
        ("RLHFlow/Llama3-SFT-v2.0-epoch1", "RLHFlow/Llama3-SFT-v2.0-epoch3"),
    ),
    Checkpoint(
        "Salesforce/LLaMA-3-8B-SFR-SFT-R", "policy", "meta-llama/Meta-Llama-3-8B", None, None, True,
        "named with the paper's first release; nothing more was found",
    ),
    Checkpoint(
        "RLHFlow/LLaMA3-iterative-DPO-final", "policy", "RLHFlow/LLaMA3-SFT", _LLAMA3, None, True,
        "calls itself unofficial and closer to the paper's concise model; others measured MT-Bench 8.09 to 8.22 with it",
    ),
    Checkpoint(
        "RLHFlow/Llama3-v2-iterative-DPO-iter3", "policy", "RLHFlow/LLaMA3-SFT-v2", None, None, True,
        "the second release, iteration 3 of 3",
        ("RLHFlow/Llama3-v2-iterative-DPO-iter1", "RLHFlow/Llama3-v2-iterative-DPO-iter2"),
    ),
    Checkpoint(
        "Salesforce/SFR-Iterative-DPO-LLaMA-3-8B-R", "policy", "Salesforce/LLaMA-3-8B-SFR-SFT-R", _LLAMA3, None, True,
        "the paper's official model; found under another name as Salesforce/LLaMA-3-8B-SFR-Iterative-DPO-R, as a copy at TriAiExperiments",
        ("Salesforce/LLaMA-3-8B-SFR-Iterative-DPO-R", "TriAiExperiments/SFR-Iterative-DPO-LLaMA-3-8B-R"),
    ),
    Checkpoint(
        "qwp4w3hyb/SFR-Iterative-DPO-LLaMA-3-8B-R-iMat-GGUF", "gguf", "Salesforce/SFR-Iterative-DPO-LLaMA-3-8B-R",
        None, None, True, "quantised with an importance matrix",
    ),
    Checkpoint(
        "sirovub/SFR-Iterative-DPO-LLaMA-3-8B-R-GGUF", "gguf", "Salesforce/SFR-Iterative-DPO-LLaMA-3-8B-R",
        None, None, True, "quantised",
    ),
    Checkpoint(
        "sirovub/LLaMA3-iterative-DPO-final-GGUF", "gguf", "RLHFlow/LLaMA3-iterative-DPO-final", _LLAMA3, None, True,
        "quantised",
    ),
    Checkpoint(
        "RichardErkhov/RLHFlow_-_pair-preference-model-LLaMA3-8B-gguf", "gguf",
        "RLHFlow/pair-preference-model-LLaMA3-8B", None, None, False,
        "the pairwise model, quantised; any program that gives next-token logits can ask it",
    ),
    Checkpoint(
        "meta-llama/Meta-Llama-3-8B", "base", "", _LLAMA3, True, True,
        "no chat template of its own: Llama-3's is added, as the paper's SFT code does",
    ),
    Checkpoint(
        "meta-llama/Meta-Llama-3-8B-Instruct", "base", "", _LLAMA3, True, True,
        "where the paper's reward and preference models start",
    ),
)  # fmt: skip


def _named() -> Iterator[tuple[str, Checkpoint]]:
    for one in TABLE:
        for name in (one.id, *one.aliases):
            yield name.lower(), one


def find(path: object) -> Checkpoint | None:
    """The released checkpoint with this hub id (or an alias), None for anything else. Case does not matter, as on the hub.

    A folder counts as the checkpoint whose name it bears, as `hf download OWNER/NAME --local-dir NAME` leaves one (NAME, or
    OWNER--NAME).
    """
    if not isinstance(path, str | Path):
        return None
    names = dict(_named())
    if Path(path).is_dir():
        ends = {form: one for name, one in names.items() for form in (name.rsplit("/", 1)[-1], name.replace("/", "--"))}
        return ends.get(Path(path).name.lower())
    return names.get(str(path).lower())


def rows(kind: str | None = None) -> list[dict]:
    """The table as plain rows, of one kind or of all, for printing."""
    return [asdict(one) for one in TABLE if kind in (None, one.kind)]
