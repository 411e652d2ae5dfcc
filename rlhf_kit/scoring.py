"""What every scorer does with its prompts and responses before it reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_kit.errors import KitError


def check_length(ids: Sequence[int], config, number: int) -> None:
    """KitError when a conversation has more tokens than the model has positions."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and len(ids) > limit:
        raise KitError(f"prompt and response {number} have {len(ids)} tokens; the reward model takes {limit}")


def messages_of(prompt) -> Sequence[dict]:
    """The messages of a prompt: of a row with "prompt", or the messages themselves."""
    return prompt["prompt"] if isinstance(prompt, Mapping) else prompt


def same_length(prompts: Sequence, responses: Sequence) -> None:
    """KitError unless there is one prompt per response."""
    if len(prompts) != len(responses):
        raise KitError(f"{len(prompts)} prompts but {len(responses)} responses; give one prompt per response")
