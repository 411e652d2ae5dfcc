"""Memory of one training or sampling process by part, in bytes, from sizes alone.

The formulas count what the kit's trainers really keep: transformers' decoder layers, TRL's language-model head in
tiles (no full logits), torch's AdamW, DeepSpeed's and FSDP2's shares. Symbols: P parameters, A adapter parameters,
T tokens of one micro batch (sequences x padded length S), h hidden, q and k widths of queries and keys, f
intermediate, V vocabulary, N processes, e bytes a number in matrix products (2 in half precision, 4 in float32).
tests/test_memory.py compares them with tensors counted on small models.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_kit.planning.architectures import Shape

GIB = 2**30
# Bytes a weight: 4 bits, a scale of 8 bits for every 64 weights, and a float32 for every 256 scales.
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
TILE = (4096, 32768)  # tokens x vocabulary rows of a tile of TRL's language-model head
BUCKET = 500_000_000 * 2  # DeepSpeed's default reduce bucket, in bf16
CONTEXT = GIB  # CUDA context, libraries and the allocator's slack; ours, a guess


@dataclass(frozen=True)
class Card:
    """A GPU: memory in GiB as PyTorch counts it, dense half-precision peak in TFLOP/s, bandwidth in GB/s.

    Data-sheet values. bf16: False where float16 must do.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    bf16: bool = True


CARDS = {
    "t4": Card("T4 16 GB", 14.6, 65, 320, bf16=False),
    "l4": Card("L4 24 GB", 22.0, 121, 300),
    "a100-40": Card("A100 40 GB", 39.4, 312, 1555),
    "a100-80": Card("A100 80 GB", 79.1, 312, 2039),
    "h100-80": Card("H100 80 GB", 79.1, 989, 3350),
    "h200": Card("H200 141 GB", 139.8, 989, 4800),
}


@dataclass(frozen=True)
class Formats:
    """Bytes of a stored weight, and whether matrix products run in half precision over it (autocast)."""

    weight: int = 2
    autocast: bool = True

    @property
    def product(self) -> int:
        return 2 if self.autocast or self.weight == 2 else 4


@dataclass(frozen=True)
class Adapter:
    """LoRA as the profile's `model.lora` says it."""

    r: int
    target: str = "all-linear"
    nf4: bool = False


# ---------------------------------------------------------------- activations


def layer_activations(
    shape: Shape, formats: Formats, length: int, adapter: Adapter | None = None, padded: bool = True
) -> tuple[int, int]:
    """(bytes a token, bytes whatever the tokens) that one decoder layer keeps for its backward pass.

    Full training, half-precision weights: 2 (4h + 4 + 4h) for the norms (float32 input, its scale, normalised input,
    output), 2 (2q + 2k) + 4 heads for attention (queries, keys, values, output, log-sum), 8f for the MLP (gate, its
    SiLU, up, product). With padding, keys and values are repeated to q and attention keeps its mask, e x S a token.
    Frozen layers keep no inputs of their own; each adapter keeps a copy of its input and r numbers.
    """
    e, h, f = formats.product, shape.hidden, shape.intermediate
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    cast = formats.weight != e  # float32 weights under autocast: each product gets its own half-precision copies
    first = [b for b in shape.blocks if ".layers.0." in f".{b[0]}"]
    attention = e * (2 * q + 2 * (q if padded else k)) + 4 * shape.heads + (e * length if padded else 0)
    norms, fixed = 2 * (4 * h + 4), 0
    if shape.qk_norm:
        norms += 4 * (q + k) + 4 * (shape.heads + shape.kv_heads)
    if adapter is None:
        normalised = formats.weight * (2 * h + ((q + k) if shape.qk_norm else 0))
        inputs = 5 * e * h if cast else 2 * e * h
        kept = norms + normalised + inputs + attention + 4 * e * f
    else:
        targeted = {name for name, _, _ in shape.targeted(adapter.target)}
        mine = [b for b in first if b[0] in targeted]
        if e == 2:  # a copy of the input for each adapter, from its float32 form
            inputs = sum(e * i for _, i, _ in mine)
        else:  # one input for all that read it; the attention's output is kept anyway
            inputs = e * (2 * h + f)
        kept = norms + inputs + e * adapter.r * len(mine) + attention + 3 * e * f
        fixed += 2 * sum(adapter.r * (i + o) for _, i, o in mine) if e == 2 else 0
    if cast:
        fixed += e * sum(i * o for _, i, o in first)
    return kept, fixed


def activations(
    shape: Shape,
    formats: Formats,
    tokens: int,
    length: int,
    checkpointing: bool,
    adapter: Adapter | None = None,
    padded: bool = True,
) -> dict[str, int]:
    """{activations, head, temporary}: bytes at the peak of one micro batch of `tokens`, padding included.

    With checkpointing each layer keeps its input only, and one layer is recomputed at a time. head: the hidden
    states it reads, TRL's tiles, the float32 gradients of the hidden states and, where it is trained, of the head's
    weight; a reward model's float32 copy of the hidden states. temporary: the gradients inside one MLP, 3 e f a token.
    """
    a_token, fixed = layer_activations(shape, formats, length, adapter, padded)
    if checkpointing:
        layers = shape.layers * formats.weight * shape.hidden * tokens + a_token * tokens + fixed
    else:
        layers = shape.layers * (a_token * tokens + fixed)
    e = formats.product
    last = (4 * shape.hidden + 4 + (0 if adapter else formats.weight * shape.hidden)) * tokens  # the last norm
    head = formats.weight * shape.hidden * tokens  # the hidden states that it reads
    if shape.scalar:
        head += 4 * shape.hidden * tokens
    else:
        head += min(tokens, TILE[0]) * TILE[1] * e + 4 * shape.hidden * tokens
        head += 0 if adapter else 4 * shape.vocabulary * shape.hidden
    return {"activations": layers + last, "head": head, "temporary": 3 * e * shape.intermediate * tokens}


def full_logits(shape: Shape, tokens: int) -> int:
    """Bytes of float32 logits, T x V x 4, that a head without tiles would make (their gradient as much again)."""
    return 4 * tokens * shape.vocabulary


# ---------------------------------------------------------------- weights, gradients, optimizer


def weights(shape: Shape, formats: Formats, adapter: Adapter | None = None) -> int:
    """Bytes of the weights of one whole model as it is loaded; with nf4 its layers are in 4 bits."""
    if adapter and adapter.nf4:
        return int(NF4 * shape.block_parameters) + formats.weight * (shape.parameters - shape.block_parameters)
    return formats.weight * shape.parameters


def states(
    shape: Shape, formats: Formats, adapter: Adapter | None, strategy: str, processes: int
) -> dict[str, int]:
    """{weights, adapter, gradients, optimizer, gathered} on one GPU; AdamW keeps two numbers a trained parameter.

    none, ddp: w P weights, w P gradients (twice with ddp, whose buckets hold a copy), 2 w P AdamW.
    zero2: 2P, (2 + 4) P / N, 12 P / N (float32 master, two moments); zero3 divides the weights as well.
    fsdp2: 4 P / N, 4 P / N, 8 P / N. gathered: what is whole for a moment (buckets; two layers and the embedding).
    LoRA: P stands still, whole on each GPU but under zero3 and fsdp2; A parameters are trained in float32. A reward
    model's head is trained with them.
    """
    n = processes
    if adapter is None:
        trained, frozen, w = shape.parameters, 0, formats.weight
    else:
        trained = shape.lora_parameters(adapter.r, adapter.target) + (shape.hidden if shape.scalar else 0)
        frozen, w = weights(shape, formats, adapter), 4
    whole = 2 * (2 * shape.block_parameters // shape.layers + shape.vocabulary * shape.hidden)
    gathered = 0
    if strategy in ("none", "ddp"):
        parts = (w * trained, w * trained, 2 * w * trained)
        gathered = w * trained if strategy == "ddp" else 0
    elif strategy == "zero2":
        parts = (2 * trained, 6 * trained // n, 12 * trained // n)
        gathered = min(BUCKET, 2 * trained)
    elif strategy == "zero3":
        parts = (2 * trained // n, 6 * trained // n, 12 * trained // n)
        gathered = whole + min(BUCKET, 2 * trained)
        frozen //= n
    else:
        parts = (4 * trained // n, 4 * trained // n, 8 * trained // n)
        gathered = whole
        frozen //= n
    mine = {"weights": frozen, "adapter": parts[0]} if adapter else {"weights": parts[0]}
    return {**mine, "gradients": parts[1], "optimizer": parts[2], "gathered": gathered}


def training(
    shape: Shape,
    formats: Formats,
    *,
    sequences: int,
    length: int,
    checkpointing: bool,
    adapter: Adapter | None = None,
    strategy: str = "none",
    processes: int = 1,
    reference: bool = False,
) -> dict[str, int]:
    """Bytes on one GPU at the peak of training, by part; their sum is the estimate.

    The gradients of earlier micro batches stand beside the activations of the last; an update of a single micro batch
    needs less.
    sequences: in one micro batch (a pair has two). reference: a frozen second model (DPO). Its log-probabilities are
    computed before the first step, while the policy waits on the CPU (a 4-bit one cannot), and it is freed; so the
    larger of the two phases counts. It is whole on each GPU, but divided under zero3 and fsdp2.
    """
    tokens = sequences * length
    parts = states(shape, formats, adapter, strategy, processes)
    parts |= activations(shape, formats, tokens, length, checkpointing, adapter)
    if reference:
        nf4 = adapter is not None and adapter.nf4
        second = weights(shape, formats, adapter if nf4 else None)
        before = {"weights": second if nf4 else 0}
        before |= {"reference": second // (processes if strategy in ("zero3", "fsdp2") else 1)}
        before |= {k: v for k, v in scoring(shape, formats, sequences, length).items() if k == "temporary"}
        before |= {"head": TILE[1] * min(tokens, TILE[0]) * formats.product}
        if sum(before.values()) > sum(parts.values()):
            parts = before
    return {**{k: v for k, v in parts.items() if v}, "context": CONTEXT}


# ---------------------------------------------------------------- sampling and scoring


def kv_token(shape: Shape, formats: Formats) -> int:
    """Bytes of keys and values of one token in all layers: 2 layers x kv heads x head size x e."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * formats.product


def sampling(shape: Shape, formats: Formats, sequences: int, length: int) -> dict[str, int]:
    """{weights, kv_cache, context}: bytes to keep `sequences` of `length` tokens (prompt and response) at once."""
    return {
        "weights": weights(shape, formats),
        "kv_cache": kv_token(shape, formats) * sequences * length,
        "context": CONTEXT,
    }


def room(shape: Shape, formats: Formats, memory: float, length: int, share: float = 0.9, most: int = 256) -> int:
    """Sequences of `length` tokens that vLLM keeps at once in `share` of `memory` GiB; 0 if not even one fits.

    1.5 GiB go to its activations and graphs (ours, a guess); `most` is its default limit.
    """
    free = share * memory * GIB - weights(shape, formats) - 1.5 * GIB
    return max(0, min(most, int(free // (kv_token(shape, formats) * length))))


def scoring(shape: Shape, formats: Formats, sequences: int, length: int) -> dict[str, int]:
    """{weights, temporary, context}: bytes of a forward pass without gradients, one layer's tensors at a time."""
    a_token, _ = layer_activations(shape, formats, length)
    return {
        "weights": weights(shape, formats),
        "temporary": a_token * sequences * length,
        "context": CONTEXT,
    }
