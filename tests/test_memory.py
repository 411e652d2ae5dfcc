"""The planner's sizes against counted ones: parameters, adapters, optimizer states, tensors kept for backward."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf_kit.errors import KitError
from rlhf_kit.planning import flops, memory
from rlhf_kit.planning.architectures import RELEASED, Shape, _measure, licence, shape_of
from rlhf_kit.planning.memory import CARDS, GIB, Adapter, Formats

SIZES = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
}  # fmt: skip
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
KINDS["qwen3"] = (lambda **k: Qwen3Config(head_dim=16, **k), Qwen3ForCausalLM)


def small(kind: str = "llama"):
    """(model, its shape)."""
    make, build = KINDS[kind]
    config = make(**SIZES)
    return build(config), _measure(config, False, "a test")


def adapted(model, r: int):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=r, target_modules="all-linear", task_type="CAUSAL_LM"))


# ---------------------------------------------------------------- parameters


def test_released_ids_have_their_exact_numbers_of_parameters():
    counts = {
        "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
        "sfairXC/FsfairX-LLaMA3-RM-v0.1": 7_504_928_768,  # the head of 128,256 x 4,096 gives way to 4,096
        "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": 596_049_920 + 1024,
    }
    assert {name: shape_of(name).parameters for name in counts} == counts
    llama = shape_of("meta-llama/Meta-Llama-3-8B")
    assert llama.lora_parameters(16) == 41_943_040  # as peft prints it for this model
    assert llama.parameters - llama.multiplied == 128256 * 4096  # the embedding is looked up, not multiplied
    tied = shape_of("Qwen/Qwen2.5-0.5B-Instruct")
    assert tied.multiplied == tied.parameters
    assert shape_of("meta-llama/Meta-Llama-3-8B", scalar=True).parameters == 7_504_928_768
    assert memory.kv_token(llama, Formats()) == 2 * 32 * 8 * 128 * 2 == 128 * 1024


def test_the_table_covers_what_the_shipped_profiles_name():
    from rlhf_kit import profiles

    for name in ("colab", "gpu", "paper"):
        profile = profiles.load_profile(name)
        for section in (profile.sft, profile.reward, profile.pairwise, profile.dpo):
            for model in filter(None, (profile.model.path, section.start, section.released)):
                assert model in RELEASED, model
    assert licence("meta-llama/Meta-Llama-3-8B") and licence("Qwen/Qwen2.5-0.5B-Instruct") is None


def test_a_local_folder_is_read_and_an_unknown_id_is_not_guessed(tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    counted = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_folder).parameters())
    assert shape_of(str(tiny_folder)).parameters == counted
    assert shape_of(str(tiny_folder), scalar=True).parameters == counted + 32  # tied head; the score row comes on top
    with pytest.raises(KitError, match="parameters of some/model is not known.*give its folder"):
        shape_of("some/model")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(KitError, match="config.json in .* cannot be read"):
        shape_of(str(tmp_path))


def test_a_new_model_of_a_profile_has_the_size_that_new_model_builds(tiny_folder):
    from rlhf_kit import models

    sizes = {"hidden_size": 32, "layers": 2, "heads": 4}
    built, _ = models.new_model(sizes, tiny_folder, seed=0)
    shape = shape_of({**sizes, "tokenizer": str(tiny_folder)})
    assert shape.parameters == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_adapters_are_as_many_as_peft_trains(kind):
    model, shape = small(kind)
    trained, total = adapted(model, 8).get_nb_trainable_parameters()
    assert shape.lora_parameters(8) == trained
    assert total == shape.parameters + trained
    some = shape.lora_parameters(8, r".*\.(q_proj|v_proj)")
    assert some == 3 * 8 * ((64 + 64) + (64 + 32))
    with pytest.raises(KitError, match="model.lora.target 'w_q' fits no linear layer"):
        shape.lora_parameters(8, "w_q")


# ---------------------------------------------------------------- weights, gradients, optimizer


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_weights_gradients_and_adamw_states_are_the_counted_bytes(dtype, width):
    model, shape = small()
    model = model.to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()

    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    moments = [t for state in optimizer.state.values() for t in state.values() if t.numel() > 1]
    planned = memory.states(shape, Formats(width), None, "none", 1)
    assert planned["weights"] == pytest.approx(size(model.parameters()), rel=0.01)
    assert planned["gradients"] == pytest.approx(size(p.grad for p in model.parameters()), rel=0.01)
    assert planned["optimizer"] == pytest.approx(size(moments), rel=0.01)


def test_lora_over_bf16_trains_float32_adapters_only():
    model, shape = small()
    model = adapted(model.to(torch.bfloat16), 8)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    planned = memory.states(shape, Formats(2), Adapter(8), "none", 1)
    assert planned["weights"] == 2 * shape.parameters
    assert planned["adapter"] == sum(p.numel() * 4 for p in trained) == planned["gradients"]
    assert planned["optimizer"] == 2 * planned["adapter"]
    quantised = memory.weights(shape, Formats(2), Adapter(8, nf4=True))
    assert quantised == int((0.5 + 1 / 64 + 1 / 4096) * shape.block_parameters) + 2 * (shape.parameters - shape.block_parameters)


def test_shares_of_the_states_follow_the_closed_forms():
    """Llama-3-8B on 8 GPUs, in bytes a parameter: the figures of the ZeRO paper (mixed precision, K = 12)."""
    shape = shape_of("meta-llama/Meta-Llama-3-8B")
    p = shape.parameters

    def standing(strategy):
        parts = memory.states(shape, Formats(2), None, strategy, 8)
        return parts["weights"], parts["gradients"], parts["optimizer"]

    assert standing("zero2") == (2 * p, 6 * p // 8, 12 * p // 8)
    assert standing("zero3") == (2 * p // 8, 6 * p // 8, 12 * p // 8)
    assert standing("fsdp2") == (4 * p // 8, 4 * p // 8, 8 * p // 8)
    assert standing("ddp") == (2 * p, 2 * p, 4 * p)


def test_a_reference_is_never_beside_the_policy_but_in_4_bits():
    """Its log-probabilities come first; with adapters that phase can be the larger one."""
    shape, sizes = shape_of("meta-llama/Meta-Llama-3-8B"), {"sequences": 4, "length": 2048, "checkpointing": True}
    p = shape.parameters
    full = memory.training(shape, Formats(2), **sizes, reference=True, strategy="zero2", processes=8)
    assert full == memory.training(shape, Formats(2), **sizes, strategy="zero2", processes=8)
    short = {**sizes, "sequences": 1, "length": 64, "checkpointing": False}
    small = memory.training(shape, Formats(2), **short, reference=True, strategy="zero3", processes=64)
    assert "reference" not in small
    nf4 = memory.training(shape, Formats(2), **short, reference=True, adapter=Adapter(1, nf4=True))
    assert nf4["reference"] == nf4["weights"] == memory.weights(shape, Formats(2), Adapter(1, nf4=True)) < 6 * GIB
    lora = memory.training(shape, Formats(2), **sizes, reference=True, adapter=Adapter(16))
    assert "reference" not in lora and lora["weights"] == 2 * p and lora["optimizer"] == 8 * 41_943_040


# ---------------------------------------------------------------- activations


def kept(model, tokens: torch.Tensor, mask: torch.Tensor, autocast: bool) -> int:
    """Bytes of the tensors that the decoder keeps for its backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            seen[place] = tensor  # held, so that no other tensor can take its place
        return tensor

    decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        decoder(input_ids=tokens, attention_mask=mask)
    return sum(t.untyped_storage().nbytes() for t in seen.values())


CASES = [  # model, weights, autocast, r, padded
    ("llama", torch.bfloat16, True, None, True),
    ("llama", torch.bfloat16, True, None, False),
    ("llama", torch.bfloat16, True, 8, True),
    ("llama", torch.float32, False, None, True),
    ("llama", torch.float32, False, 8, True),
    ("llama", torch.float32, True, None, True),
    ("llama", torch.float32, True, 8, True),
    ("qwen2", torch.bfloat16, True, None, True),
    ("qwen2", torch.bfloat16, True, 8, True),
    ("qwen3", torch.bfloat16, True, None, True),
    ("qwen3", torch.bfloat16, True, 8, True),
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("kind", "dtype", "autocast", "r", "padded"), CASES)
def test_activations_are_the_tensors_that_torch_keeps(kind, dtype, autocast, r, padded, checkpointing):
    """Within 5 %: whole models, and the layer inputs that checkpointing leaves."""
    model, shape = small(kind)
    model = model.to(dtype)
    model = adapted(model, r) if r else model
    model.train()
    tokens = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, -9:] = 0
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if r:
        model.enable_input_require_grads()  # as TRL does; else the first layer has nothing to keep
    formats, adapter = Formats(dtype.itemsize, autocast), Adapter(r) if r else None
    planned = memory.activations(shape, formats, tokens.numel(), 64, checkpointing, adapter, padded)["activations"]
    a_token, fixed = memory.layer_activations(shape, formats, 64, adapter, padded)
    recomputed = a_token * tokens.numel() + fixed if checkpointing else 0  # comes during the backward pass
    assert kept(model, tokens, mask, autocast) == pytest.approx(planned - recomputed, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step_with_accumulation_is_within_10_percent(checkpointing):
    """All parts but the head's together, as PyTorch tracks them over two micro batches and an update."""
    from torch.distributed._tools.mem_tracker import MemTracker

    sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6, "vocab_size": 1024}
    config = LlamaConfig(**sizes, tie_word_embeddings=True)
    shape, model = _measure(config, False, "a test"), LlamaForCausalLM(config).to(torch.bfloat16).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 1024, (4, 128), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, -9:] = 0

    def micro_batch():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state.pow(2).mean()
        loss.backward()

    micro_batch()
    optimizer.step()  # AdamW makes its states; the gradients stay, as those of an earlier micro batch do
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        micro_batch()
        optimizer.step()
    (peak,) = [sum(v for k, v in kinds.items() if k != "Total") for kinds in tracker.get_tracker_snapshot("peak").values()]
    parts = memory.training(shape, Formats(2), sequences=4, length=128, checkpointing=checkpointing)
    planned = sum(parts.values()) - parts["context"] - parts["head"]
    assert planned == pytest.approx(peak, rel=0.1)


def test_the_head_is_counted_as_trl_computes_it():
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    assert memory.TILE == (chunked_logprob.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE)
    llama = shape_of("meta-llama/Meta-Llama-3-8B")
    head = memory.activations(llama, Formats(2), 8192, 2048, True)["head"]
    assert head == 2 * 4096 * 8192 + 2 * 4096 * 32768 + 4 * 4096 * 8192 + 4 * 128256 * 4096
    frozen = memory.activations(llama, Formats(2), 8192, 2048, True, Adapter(16))["head"]
    assert head - frozen == 4 * 128256 * 4096  # no gradient of the head's weight
    assert memory.full_logits(llama, 8192) == 4 * 8192 * 128256


# ---------------------------------------------------------------- arithmetic


def hand_made(**changes) -> Shape:
    sizes = {
        "parameters": 1000, "multiplied": 800, "blocks": (("model.layers.0.q", 10, 10),), "vocabulary": 20, "hidden": 10,
        "intermediate": 30, "layers": 2, "heads": 5, "kv_heads": 1, "head_dim": 2, "qk_norm": False, "scalar": False,
        "whence": "a test",
    }  # fmt: skip
    return Shape(**{**sizes, **changes})


def test_operations_follow_six_n_d():
    shape = hand_made()
    assert flops.forward(shape, tokens=100, length=0) == 2 * 800 * 100
    assert flops.training(shape, 100, 0, checkpointing=False, frozen=False) == 6 * 800 * 100
    assert flops.training(shape, 100, 0, checkpointing=True, frozen=False) == 8 * 800 * 100
    assert flops.training(shape, 100, 0, checkpointing=False, frozen=True) == 4 * 800 * 100
    assert flops.forward(shape, 1, length=50) - flops.forward(shape, 1, 0) == 2 * 2 * 10 * 50
    hour = CARDS["a100-80"].tflops * 1e12 * 3600
    assert flops.hours(hour * 8, CARDS["a100-80"], 8, (0.25, 0.5)) == (2.0, 4.0)


def test_sampling_is_bound_by_reading_weights_and_cache():
    """8B in bf16 on an A100: one sequence alone reads 16 GB a token, so 2,039 GB/s give at most 127 tokens/s."""
    shape = shape_of("meta-llama/Meta-Llama-3-8B")
    least, most = flops.sampling_hours(
        shape, Formats(2), CARDS["a100-80"], 1,
        prompts=1, n=1, prompt_tokens=0, response_tokens=1000, at_once=1, backend="vllm",
    )  # fmt: skip
    peak = 2039e9 / (2 * shape.parameters + 500 * 128 * 1024)
    assert 1000 / (least * 3600) == pytest.approx(0.7 * peak, rel=1e-6)
    assert most / least == pytest.approx(0.7 / 0.3)


def test_vllm_room_is_what_weights_leave():
    shape = shape_of("meta-llama/Meta-Llama-3-8B")
    free = 0.9 * 79.1 * GIB - 2 * shape.parameters - 1.5 * GIB
    assert memory.room(shape, Formats(2), 79.1, 8192) == int(free // (8192 * 128 * 1024)) > 50
    assert memory.room(shape, Formats(2), 79.1, 100) == 256  # its own limit
    assert memory.room(shape, Formats(2), 14.6, 100) == 0  # no 8B on a T4
