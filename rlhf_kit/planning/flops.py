"""Arithmetic of training and sampling from sizes alone, and the hours that a card needs for it: estimates, as ranges.

Source of the counts: two operations (multiply, add) for each weight and token forward, twice as many backward.
"""

from __future__ import annotations

import math

from rlhf_kit.planning.architectures import Shape
from rlhf_kit.planning.memory import Card, Formats, kv_token, weights

# Shares of a card's data-sheet figures that training and sampling reach: (low, high). Ours and not measured: 0.5 of
# the peak is a good result for an 8B model on one node, short rows and small models stay far below.
TRAINING = (0.2, 0.45)
FORWARD = (0.2, 0.5)
BANDWIDTH = {"vllm": (0.3, 0.7), "transformers": (0.05, 0.2)}


def forward(shape: Shape, tokens: float, length: float) -> float:
    """Operations of a forward pass over `tokens` in rows of `length`: 2 N for the weights that take part, and
    2 layers x q x length for causal attention, half of the full square."""
    q = shape.heads * shape.head_dim
    return tokens * (2 * shape.multiplied + 2 * shape.layers * q * length)


def training(shape: Shape, tokens: float, length: float, checkpointing: bool, frozen: bool) -> float:
    """Operations of forward and backward over `tokens`: 3 forward passes (6 N D), 2 where only adapters are trained
    (frozen weights need no gradient of their own), and one more with gradient checkpointing."""
    return forward(shape, tokens, length) * ((2 if frozen else 3) + checkpointing)


def hours(operations: float, card: Card, processes: int, shares: tuple[float, float]) -> tuple[float, float]:
    """(least, most) hours of `operations` on `processes` cards at a share of the peak."""
    at_peak = operations / (card.tflops * 1e12 * processes) / 3600
    return at_peak / max(shares), at_peak / min(shares)


def sampling_hours(
    shape: Shape,
    formats: Formats,
    card: Card,
    processes: int,
    *,
    prompts: int,
    n: int,
    prompt_tokens: float,
    response_tokens: float,
    at_once: int,
    backend: str,
) -> tuple[float, float]:
    """(least, most) hours to draw n responses to each prompt, each process its share of the prompts.

    A step gives every running sequence one token and reads all weights and the sequences' keys and values once, so
    bandwidth bounds it, or arithmetic where that takes longer; reading the prompts is a forward pass on top.
    """
    context = prompt_tokens + response_tokens / 2
    read = weights(shape, formats) + at_once * context * kv_token(shape, formats)
    sequences = prompts * n / processes
    steps = math.ceil(sequences / at_once) * response_tokens
    found = []
    for band, peak in zip(BANDWIDTH[backend], FORWARD, strict=True):
        step = max(read / (card.bandwidth * 1e9 * band), forward(shape, at_once, context) / (card.tflops * 1e12 * peak))
        prefill = forward(shape, prompts * prompt_tokens / processes, prompt_tokens) / (card.tflops * 1e12 * peak)
        found.append((steps * step + prefill) / 3600)
    return min(found), max(found)
