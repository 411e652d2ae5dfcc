"""Your own model and files, looked at before a run begins: a fault costs seconds and leaves nothing."""

from __future__ import annotations

from collections import Counter

from rlhf_kit.course import prompt_splits
from rlhf_kit.errors import KitError
from rlhf_kit.profiles import Profile
from rlhf_kit.runs import project_path, read_json

_PLACES = 3  # named examples of each reason in the report
_PAIRS = 10  # least number of pairs for each purpose they serve; with fewer, no number would mean anything


def check(profile: Profile) -> list[str]:
    """Sentences about what the profile's model and files hold; nothing is written.

    KitError naming file, row and field when a model folder does not exist, a file cannot be read, or the
    model cannot be used with the profile. Models and data sets of the hub are left to the run.
    """
    from rlhf_kit.models import resolve_model

    for section in (profile.sft, profile.reward, profile.pairwise, profile.dpo):
        for path in filter(None, (section.start, section.released)):
            resolve_model(path)
    if profile.model.path:
        resolve_model(profile.model.path)
    if profile.data.kind != "file":
        _world_sizes(profile)
        return []
    told = _model(profile)
    if _is_here(profile.data.preferences):
        told.append(_pairs(profile))
    return told + _conversations(profile)


def check_ablation(profile: Profile) -> None:
    """KitError where lesson 08's ABLATION would find no prompts for its second iteration: data.iterations decides into how
    many parts a preference file is split. The pocket world makes prompts as they are needed, and data.prompts are dealt anew."""
    data = profile.data
    if data.kind == "file" and not data.prompts and data.iterations < 2:
        raise KitError(
            f"--param ABLATION=true trains for two iterations, and data.iterations is {data.iterations}, which leaves your prompts "
            "in one part: add --set data.iterations=2, or leave ABLATION out"
        )


def _world_sizes(profile: Profile) -> None:
    """KitError when the profile asks for more rows than the pocket world's frozen sets have."""
    from rlhf_kit.world.frozen import SIZES

    data = profile.data
    for field, wanted, name in (
        ("sft_rows", data.sft_rows, "sft"),
        ("preference_pairs", data.preference_pairs, "preferences"),
        ("heldout_pairs", data.heldout_pairs, "preferences-heldout"),
    ):
        if wanted > SIZES[name]:
            raise KitError(
                f"data.{field} is {wanted}, but data/world/{name}.parquet has {SIZES[name]} rows; ask for fewer"
            )


def _is_here(path: str | None) -> bool:
    """False for a hub id, public set or mixture that is no file or folder here; KitError for what cannot be any."""
    from rlhf_kit.recipe.own import local
    from rlhf_kit.sources.public_sets import is_named
    from rlhf_kit.sources.reading import open_source

    if not path or is_named(local(path)):
        return False
    open_source(local(path))
    return project_path(local(path)).exists()


def _pairs(profile: Profile) -> str:
    """How many pairs the preference file holds and which rows are left out, with places."""
    from rlhf_kit.preferences import BAD_ROWS, examine
    from rlhf_kit.recipe.own import local, pair_fits
    from rlhf_kit.sources.cleaning import REASONS
    from rlhf_kit.sources.fields import STRUCTURAL

    data = profile.data
    sets = 1 if data.prompts else 1 + len(prompt_splits(profile))
    needed, fitting, kept, dropped, places = _PAIRS * (sets + 1), 0, 0, Counter(), {}
    fits = pair_fits(profile)
    for one in examine(local(data.preferences), data.adapter, **BAD_ROWS[data.bad_rows]):
        if one.pair is not None:
            kept += 1
            if fitting < needed:  # enough is enough: a large file is not tokenised whole
                fitting += fits(one.pair._asdict())
            continue
        dropped[one.reason] += 1
        if dropped[one.reason] <= _PLACES:
            places.setdefault(one.reason, []).append(one.place)
    total = kept + sum(dropped.values())
    lines = [f"{data.preferences}: {total:,} rows, {kept:,} usable pairs"]
    for reason, n in dropped.most_common():
        more = ", ..." if n > _PLACES else ""
        why = {**REASONS, **STRUCTURAL}[reason]
        lines.append(f"  left out {n:,}: {why} ({', '.join(places[reason])}{more})")
    if not kept:
        what = "; ".join(line.strip() for line in lines[1:]) or "it is empty"
        raise KitError(f"{data.preferences}: no usable pair in {total:,} rows ({what}); mend the file")
    if fitting < needed:
        lost = "; ".join(line.strip() for line in lines[1:])
        raise KitError(
            f"{data.preferences}: {fitting} of its {kept:,} usable pairs fit into model.max_length = "
            f"{profile.model.max_length} tokens; training, held-out pairs and prompts need {needed}: "
            f"give more or shorter pairs, or a model that reads longer texts{f' ({lost})' if lost else ''}"
        )
    return "\n".join(lines)


def _conversations(profile: Profile) -> list[str]:
    """The files of demonstrations and prompts, where the profile names any."""
    from rlhf_kit.recipe.own import local
    from rlhf_kit.sources.conversations import load_conversations, load_prompts

    told = []
    for path, load in ((profile.data.sft, load_conversations), (profile.data.prompts, load_prompts)):
        if _is_here(path):
            rows, ledger = load(local(path))
            told.append(f"{path}: {ledger}")
            if load is load_prompts:
                _enough_prompts(profile, rows)
    return told


def _enough_prompts(profile: Profile, prompts: list) -> None:
    """KitError where the prompts are too few to be dealt: of the preference pairs none may sample, test or choose."""
    from rlhf_kit.preferences import BAD_ROWS, examine, prompt_key
    from rlhf_kit.recipe.own import has_set_per_iteration, local

    data = profile.data
    if has_set_per_iteration(data.prompts):  # each iteration has a file of its own, and they may ask what pairs ask
        return
    distinct, needed = {prompt_key(prompt) for prompt in prompts}, _PAIRS * len(prompt_splits(profile))
    if len(distinct) < needed:
        raise KitError(f"{data.prompts}: it holds {len(distinct)} different prompts; sampling, choosing and testing need {needed}: give more")
    if not _is_here(data.preferences):
        return
    outcomes = examine(local(data.preferences), data.adapter, **BAD_ROWS[data.bad_rows])
    paired = [prompt_key(one.pair.chosen[:-1]) for one in outcomes if one.pair is not None]
    fresh = len(distinct.difference(paired))
    if fresh < needed and len(paired) <= data.preference_pairs + data.heldout_pairs:  # of more pairs not all are taken
        raise KitError(
            f"{data.prompts}: {fresh} of its {len(distinct)} different prompts are not in {data.preferences} too; sampling, "
            f"choosing and testing need {needed} that no pair was labelled for: give others, or leave data.prompts out"
        )


def _model(profile: Profile) -> list[str]:
    """What had to be added to the tokenizer; KitError when a later lesson could not work with the model."""
    from rlhf_kit import chat, models

    path = profile.model.path
    if not path or not project_path(path).is_dir():
        return []
    folder = project_path(path)
    try:
        config = read_json(folder / "config.json")
    except ValueError:
        raise KitError(f"{path}/config.json is not valid JSON; save or download the model again") from None
    kinds = config.get("architectures") or []
    if any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise KitError(f"the model {path} is a reward model (a scalar head); give a causal language model")
    positions = config.get("max_position_embeddings")
    if positions is not None and profile.model.max_length > positions:
        raise KitError(
            f"model.max_length is {profile.model.max_length}, but the model {path} has {positions} "
            f"positions; --set model.max_length={positions}"
        )
    if not any(folder.glob("*.safetensors")):
        raise KitError(f"the model folder {path} has no .safetensors file; save the model with safetensors")
    tokenizer = models.load_tokenizer(profile.model.tokenizer or path)
    chat.letter_ids(tokenizer)  # the pairwise model of lesson 04 needs one token each for A and B
    notes = [f"  {note}" for note in getattr(tokenizer, "kit_notes", [])]
    kind, room = config.get("model_type", "model"), positions or "any number of"
    size = f"{path}: {kind}, vocabulary {len(tokenizer):,}, {room} positions"
    return ["\n".join([size, *notes])]
