"""Around transformers' `from_pretrained`: quiet, errors as one sentence, and no weight left as it was drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from rlhf_kit.checkpoints import model_files
from rlhf_kit.errors import KitError


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports of transformers: what loads and what does not is checked here instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def named(path) -> Iterator[None]:
    """Errors of transformers while opening `path`, as one sentence."""
    try:
        with quiet_transformers():
            yield
    except KitError:
        raise
    except Exception as error:
        told = model_files.explain(path, error)
        if told is None and "trust_remote_code" in str(error):
            told = (
                f"the model {path} needs Python code of its own, which would run on this machine; read it first, then "
                "pass custom_code=True, or take a model that transformers itself knows"
            )
        # Whatever else goes wrong in here (a missing file, a broken header, an unknown architecture) is something
        # about this path; the first line of the message says what.
        raise KitError(told or f"the model {path} cannot be opened: {model_files.first_line(error)}") from error


def check_loaded(path, told: Mapping, may_lack: tuple[str, ...] = ()) -> None:
    """KitError when transformers' loading report names weights that are missing or of another shape.

    transformers fills such weights with random numbers and only warns: a model that loads and judges by chance.
    """
    missing = sorted(set(told.get("missing_keys") or ()) - set(may_lack))
    if missing:
        raise KitError(
            f"the files of the model {path} have no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; it is another kind of model than its config.json says"
        )
    other = [tuple(entry) for entry in told.get("mismatched_keys") or ()]
    if other:
        name, found, wanted = other[0]
        if name in ("score.weight", "classifier.weight"):
            raise KitError(f"the reward model {path} has {found[0]} outputs; it must have one")
        raise KitError(
            f"the weight {name} of the model {path} has the shape {tuple(found)}, config.json asks for {tuple(wanted)}"
        )
