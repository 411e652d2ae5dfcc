"""The paper's preference data by name: which hub ids there are, and where a copy on this machine is looked for.

A set may be asked for by its short name ("shp"), by its hub id ("stanfordnlp/SHP") or by the id of the authors' own
conversion ("RLHFlow/SHP-standard"); `mix1` and `mix2` are the paper's mixtures (arXiv 2405.07863, appendix B.1). With
`root`, or the environment variable RLHF_KIT_DATA, a folder that holds copies, nothing is asked of the hub for a set
that has its file or folder there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_kit.errors import KitError
from rlhf_kit.sources.reading import SUFFIXES, Part, is_hub_id, open_source


@dataclass(frozen=True)
class PublicSet:
    """One public set: its adapter (with the filter), where its rows lie, and its row of Table 5 (None: not in it).

    folders: sub folders that hold the rows, where the set is more than these. standard: the authors' conversion, in
    the standard format and filtered already. revision: the branch that holds files, where the main one holds a script.
    """

    name: str
    hub: str
    adapter: str
    table5: str | None = None
    standard: str | None = None
    folders: tuple[str | None, ...] = (None,)
    revision: str | None = None


SETS = {
    one.name: one
    for one in (
        PublicSet("hh-rlhf", "Anthropic/hh-rlhf", "hh", "HH-RLHF", "RLHFlow/HH-RLHF-Helpful-standard",
                  folders=("helpful-base", "helpful-rejection-sampled", "helpful-online")),
        PublicSet("shp", "stanfordnlp/SHP", "shp", "SHP", "RLHFlow/SHP-standard"),
        PublicSet("helpsteer", "nvidia/HelpSteer", "helpsteer", "HelpSteer", "RLHFlow/Helpsteer-preference-standard"),
        PublicSet("pku-saferlhf-30k", "PKU-Alignment/PKU-SafeRLHF-30K", "pku", "PKU-SafeRLHF-30K",
                  "RLHFlow/PKU-SafeRLHF-30K-standard"),
        PublicSet("ultrafeedback", "openbmb/UltraFeedback", "ultrafeedback", "UltraFeedback",
                  "RLHFlow/UltraFeedback-preference-standard"),
        PublicSet("ultrainteract", "openbmb/UltraInteract_pair", "ultrainteract", "UltraInteract",
                  "RLHFlow/UltraInteract-filtered-standard"),
        PublicSet("code-ultrafeedback", "coseal/CodeUltraFeedback", "code_ultrafeedback", "CodeUltraFeedback",
                  "RLHFlow/CodeUltraFeedback-standard"),
        PublicSet("argilla-math", "argilla/distilabel-math-preference-dpo", "argilla_math", "Argilla-Math",
                  "RLHFlow/Argilla-Math-DPO-standard"),
        PublicSet("distilabel-orca", "argilla/distilabel-intel-orca-dpo-pairs", "distilabel_orca", "OpenOrca",
                  "RLHFlow/Orca-distibalel-standard"),
        PublicSet("distilabel-capybara", "argilla/Capybara-Preferences-Filtered", "distilabel_capybara", "Capybara",
                  "RLHFlow/Capybara-distibalel-Filter-standard"),
        PublicSet("summarize", "openai/summarize_from_feedback", "summarize", folders=("comparisons",),
                  revision="refs/convert/parquet"),
        PublicSet("preference-700k", "hendrydong/preference_700K", "messages"),
        PublicSet("pair-preference-700k", "RLHFlow/pair_preference_model_dataset", "pair_prompt"),
    )
}  # fmt: skip

MIXTURES = {
    # paper section 2: HH-RLHF, SHP, UltraFeedback and Summarization (Stiennon et al. 2020)
    "mix1": ("hh-rlhf", "shp", "ultrafeedback", "summarize"),
    # paper section 2 and Table 5: the first ten
    "mix2": tuple(name for name, one in SETS.items() if one.table5),
}

# Other ids of the same rows, with the same columns.
_ALSO = {
    "argilla/Capybara-Preferences": "distilabel-capybara",
    "argilla/distilabel-capybara-dpo-7k-binarized": "distilabel-capybara",
    "OpenRLHF/preference_700K": "preference-700k",
}


class PreferencePart(NamedTuple):
    """A part of a source, the adapter that reads it ("auto": by its first rows), and the name of the set, if known."""

    part: Part
    adapter: str
    set: str | None


def known(source: Any) -> tuple[PublicSet, bool] | None:
    """The public set of a short name or hub id, and whether the id is that of the authors' conversion."""
    if not isinstance(source, str):
        return None
    wanted = source.lower()
    for one in SETS.values():
        if wanted in (one.name, one.hub.lower()):
            return one, False
        if one.standard and wanted == one.standard.lower():
            return one, True
    name = next((name for hub, name in _ALSO.items() if hub.lower() == wanted), None)
    return (SETS[name], False) if name else None


def is_named(source: Any) -> bool:
    """Whether a text names a mixture or a public set and nothing of that name lies here."""
    named = isinstance(source, str) and (source in MIXTURES or known(source) is not None)
    return named and not os.path.exists(os.path.expanduser(source))


def locate(names: tuple[str, ...], root: str | Path | Mapping[str, Any] | None = None) -> Path | None:
    """The copy of a hub data set under `root` (else RLHF_KIT_DATA): a folder or file named like one of `names`, its id
    with / or --, or the last part of its id. A mapping of names to paths tells it itself. KitError when the root, or
    what the mapping names, does not exist."""
    where = root if root is not None else os.environ.get("RLHF_KIT_DATA") or None
    if where is None:
        return None
    if isinstance(where, Mapping):
        name = next((name for name in names if name in where), None)
        if name is None:
            return None
        path = Path(os.path.expanduser(str(where[name])))
        if not path.exists():
            raise KitError(f"{where[name]}: no such file or folder, named for the set {name}")
        return path
    folder = Path(os.path.expanduser(str(where)))
    if not folder.is_dir():
        raise KitError(f"{where}: no such folder; data.root or RLHF_KIT_DATA must be a folder with copies of data sets")
    for name in names:
        for form in dict.fromkeys((name, name.replace("/", "--"), name.rsplit("/", 1)[-1])):
            for path in (folder / form, *(folder / f"{form}{suffix}" for suffix in SUFFIXES)):
                if path.exists():
                    return path
    return None


def copies(source: Any, root: str | Path | Mapping[str, Any] | None = None) -> list[Path]:
    """The files and folders under `root` (else RLHF_KIT_DATA) that a hub id, a set or a mixture is read from."""
    if not isinstance(source, str) or os.path.exists(os.path.expanduser(source)):
        return []
    if source in MIXTURES:
        return [path for name in MIXTURES[source] for path in copies(name, root)]
    one = known(source)
    names = (source,) if one is None or one[1] else (one[0].hub, one[0].name)
    found = locate(names, root) if one is not None or is_hub_id(source) else None
    return [found] if found else []


def open_preferences(
    source: Any,
    *,
    root: str | Path | Mapping[str, Any] | None = None,
    standard: bool = False,
    split: str | None = None,
    subset: str | None = None,
    streaming: bool = False,
) -> list[PreferencePart]:
    """The parts of anything that `reading.open_source` reads, of a public set, or of a mixture by name.

    standard: of the sets that have one, the authors' conversion instead of the original and our filter. Raises
    KitError for a source that does not exist; one of the hub is asked for only when its rows are.
    """
    options = {"split": split, "subset": subset, "streaming": streaming}
    if not is_named(source):
        found = locate((source,), root) if is_hub_id(source) and not os.path.exists(source) else None
        try:
            return [PreferencePart(part, "auto", None) for part in open_source(found or source, **options)]
        except KitError as error:
            near = difflib.get_close_matches(str(source)[:80], [*MIXTURES, *SETS], n=1, cutoff=0.7)
            if near and "no such file" in str(error):
                raise KitError(f"{error}; did you mean the public set {near[0]!r}?") from None
            raise
    if source in MIXTURES:
        parts = [open_preferences(name, root=root, standard=standard, **options) for name in MIXTURES[source]]
        return [part for several in parts for part in several]
    return _open_set(*known(source), source, root, standard, options)


def _open_set(
    one: PublicSet, converted: bool, source: str, root: Any, standard: bool, options: dict[str, Any]
) -> list[PreferencePart]:
    converted = converted or (standard and one.standard is not None)
    if converted:
        names, adapter, folders = (one.standard,), "messages", (None,)
    else:
        names, adapter, folders = (one.hub, one.name), one.adapter, one.folders
        if is_hub_id(source) and source.lower() != one.hub.lower():
            names = (source,)  # another id of the same rows
    place = locate(names, root)
    if place is None:
        revision = None if converted else one.revision
        opened = [open_source(names[0], data_dir=folder, revision=revision, **options) for folder in folders]
    else:
        opened = [open_source(path, **options) for path in _inside(place, folders)]
    return [PreferencePart(part, adapter, one.name) for several in opened for part in several]


def _inside(place: Path, folders: tuple[str | None, ...]) -> list[Path]:
    """What to open of a copy: its sub folders, or all of it where it holds the wanted rows alone."""
    here = [folder for folder in folders if folder and (place / folder).is_dir()]
    if here and len(here) < len(folders):
        missing = next(folder for folder in folders if folder not in here)
        raise KitError(f"{place}: has {here[0]!r} but no {missing!r}; copy all of {', '.join(map(str, folders))}")
    return [place / folder for folder in here] or [place]
