"""Lesson 10: what a card really did, the memory of full training against LoRA, micro batches of unequal size."""

from __future__ import annotations

import numpy as np

from rlhf_kit.exercises.compare import compare
from rlhf_kit.planning import flops, memory
from rlhf_kit.planning.architectures import shape_of

GIB = 2**30


def exercise_1(utilisation) -> str:
    """A share of the peak of (chosen tokens, rejected tokens, seconds, parameters, peak in operations a second, cards)."""
    shape = shape_of("meta-llama/Meta-Llama-3-8B")
    n, chosen, rejected, seconds, peak, cards = shape.multiplied, 9_000_000, 6_500_000, 400.0, 989e12, 8
    tokens = chosen + rejected
    # without attention's own products, which the kit counts too: length 0
    operations = flops.training(shape, tokens, 0, checkpointing=False, frozen=False) + flops.forward(shape, tokens, 0)
    right = operations / (seconds * peak * cards)
    assert abs(right - 8 * n * tokens / (seconds * peak * cards)) < 1e-9

    def part(factor):
        return right * factor

    likely = (
        (part(chosen / tokens), "only the chosen answers are counted; the rejected ones take the same two models"),
        (part(6 / 8), "the reference is forgotten: it reads every answer once, 2 operations a parameter and token"),
        (part(12 / 8), "the reference is only read: forward alone, 2 operations; it has no backward pass"),
        (part(10 / 8), "the recomputation of gradient checkpointing is counted; utilisation counts what the mathematics asks for, not what saving "
         "memory costs"),
        (part(4 / 8), "that is half: a multiplication and an addition are two operations, and the backward pass takes twice the forward one (2 + 4 "
         "for the policy, 2 for the reference)"),
        (part(2 / 8), "only one forward pass is counted: the policy takes 2 + 4 operations a parameter and token, the reference 2"),
        (part(cards), "the peak is that of one card; there are several"),
        (part(3600), "seconds were taken for hours"), (part(1 / 3600), "seconds were turned into hours; the peak is in operations a second"),
        (part(100), "that is in percent; return a share"),
        (1 / right, "that is upside down: what was done over what could have been done"),
    )  # fmt: skip
    compare(utilisation(chosen, rejected, seconds, n, peak, cards), right, likely, "the utilisation")
    return f"{right:.1%} of the data sheet's peak: with it, a plan that assumes {min(flops.TRAINING):.0%} to {max(flops.TRAINING):.0%} can be put right"


def exercise_2(state_bytes) -> str:
    """Bytes of (layers: [(inputs, outputs)], other parameters, rank or None)."""
    shape = shape_of("meta-llama/Meta-Llama-3-8B")
    layers, other, rank = [(i, o) for _, i, o in shape.blocks], shape.parameters - shape.block_parameters, 64
    full, adapters = shape.parameters, shape.lora_parameters(rank)
    likely = (
        (16 * full / GIB, "that is in GiB; return bytes"),
        (16 * shape.block_parameters, "the parameters outside of the linear layers (embedding, head, norms) are forgotten"),
        (12 * full, "one of the parts of 4 bytes is missing: AdamW keeps two moments, and master weights in float32 besides"),
        (8 * full, "8 bytes of 16: weights and gradients take 2 each, the two moments 4 each, the master weights 4"),
        (4 * full, "that is weights and gradients alone; the optimizer keeps 12 bytes more for every parameter"),
        (2 * full, "those are the weights alone"),
        (14 * full, "weights or gradients (2 bytes each) are missing"),
        (20 * full, "gradients are counted in float32; the table of section 1 keeps them in bf16"),
        (full, "that is a number of parameters; each takes 16 bytes"),
    )  # fmt: skip
    compare(state_bytes(list(layers), other, None), 16 * full, likely, "the memory of full training")
    parts = memory.states(shape, memory.Formats(), memory.Adapter(rank), "none", 1)
    right = sum(parts.values())
    assert right == 2 * full + 16 * adapters
    product = sum(rank * i * o for i, o in layers)
    likely = (
        (2 * full + 16 * product, "LoRA's factors are rank x inputs and outputs x rank: add inputs and outputs, do not multiply them"),
        (16 * adapters, "the frozen weights are forgotten: they are not trained, but every token still passes through them"),
        (16 * (full + adapters), "the frozen weights have no gradients, moments or master copy: 2 bytes each, which is what LoRA is for"),
        (right + 16 * other, "parameters outside of the linear layers are never given an adapter, so none of them is trained: 2 bytes each"),
        (right + 14 * other, "parameters outside of the linear layers stand frozen as well: 2 bytes each"),
        (4 * full + 16 * adapters, "the frozen weights have no gradient: 2 bytes each"),
        (2 * full + 16 * sum(rank * i for i, _ in layers), "only factor A (rank x inputs) is counted; B is outputs x rank"),
        (2 * full + 16 * sum(rank * o for _, o in layers), "only factor B (outputs x rank) is counted; A is rank x inputs"),
        (2 * full + 2 * adapters, "the adapters are trained: float32 weights, gradients and two moments, 16 bytes each"),
        (2 * full + 4 * adapters, "those are the adapters' weights alone; gradients and two moments come to 12 bytes more"),
        (2 * full + 8 * adapters, "the adapters' two moments (4 bytes each) are missing"),
        (2 * full + 12 * adapters, "one of the adapters' four parts of 4 bytes is missing: weights, gradients, two moments"),
        (2 * full + 20 * adapters, "the adapters are float32 already and need no master copy besides: 16 bytes each"),
        (2 * shape.block_parameters + 16 * adapters, "the frozen parameters outside of the linear layers are forgotten"),
        (16 * full, "the rank is not used: that is full training"),
        (right / GIB, "that is in GiB; return bytes"),
        (2 * (full - shape.block_parameters) + 16 * adapters, "the adapters stand beside the frozen linear layers and do not replace them"),
    )  # fmt: skip
    compare(state_bytes(list(layers), other, rank), right, likely, "the memory with LoRA", 1e-9)
    return (f"{16 * full / GIB:.1f} GiB in full, {right / GIB:.1f} GiB with LoRA of rank {rank}, {2 * full / GIB:.1f} of them frozen weights: less "
            f"than this only with fewer bits or more cards")


def exercise_3(loss_weights) -> str:
    """Weights of the micro batches' mean losses, from their rows (processes, micro batches)."""
    rows = np.array([[8, 8, 3], [8, 5, 3]])
    processes, micro = rows.shape
    total = rows.sum()
    right = rows * processes / total
    _is_the_training_of_one_process(rows, right)
    likely = (
        (np.full(rows.shape, 1 / micro), "every micro batch counts the same: a row of a short one then weighs more than the others, the accumulation "
         "fault that many trainers had"),
        (np.full(rows.shape, 1 / rows.size), "every micro batch counts the same, and the mean over the processes is taken twice"),
        (rows / total, "the processes are forgotten: their gradients are averaged, which divides once more, so the step would be that many times too small"),
        (rows / rows.sum(1, keepdims=True), "each process divides by its own rows; a process with fewer rows then counts too much: divide by the rows "
         "of all"),
        (rows / rows.sum(0, keepdims=True), "that shares each micro step out by itself; the gradients of all micro batches go into one step"),
        (np.ones(rows.shape), "the gradients of the micro batches are added up: without weights the step grows with their number"),
        (rows / rows.mean(), "the gradients of the micro batches are added up, so the weights of one process must come to about 1, not to their number"),
        (1 / rows, "that is upside down: a micro batch with more rows counts more"),
        (total / rows, "that is upside down: a micro batch with more rows counts more"),
        (1 / rows * processes / total, "that is upside down: a micro batch with more rows counts more"),
        (rows * processes, "the division by the rows of all is missing"),
    )  # fmt: skip
    compare(loss_weights(rows.copy()), right, likely, "the weights")
    even = np.full((4, 2), 16)
    compare(loss_weights(even), np.full((4, 2), 0.5), what="the weights of micro batches of one size, which are plain means,")
    alone = np.array([[6, 2]])
    compare(loss_weights(alone), [[0.75, 0.25]], what="the weights of a single process")
    return (f"the step equals that of one process with all {total} rows; a plain mean would have given a row of the shortest micro batch {8 / 3:.1f} "
            f"times the weight of one of the longest")


def _is_the_training_of_one_process(rows, weights) -> None:
    """Asserts that summed, then averaged gradients equal those of the mean over all rows."""
    draw = np.random.default_rng(10)
    gradients = [[draw.normal(size=(n, 3)) for n in own] for own in rows]
    processes = [sum(w * g.mean(0) for w, g in zip(own, many, strict=True)) for own, many in zip(weights, gradients, strict=True)]
    assert np.allclose(np.mean(processes, axis=0), np.concatenate([g for many in gradients for g in many]).mean(0))
