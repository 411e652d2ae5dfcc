"""How fast this machine trains and samples a model of the course's size."""

from __future__ import annotations

import contextlib
import time

from rlhf_kit import profiles


def _seconds(call, at_least: float = 0.5) -> float:
    """Mean seconds of a call, over enough repeats to last `at_least` seconds."""
    call()
    repeats, started = 0, time.perf_counter()
    while time.perf_counter() - started < at_least:
        call()
        repeats += 1
    return (time.perf_counter() - started) / repeats


def measure(profile_name: str = profiles.DEFAULT) -> str:
    """Matrix products, training and sampling speed of a small Llama of the course's size on this machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    machine = profiles.resolve(profiles.load_profile(profile_name))
    torch.set_num_threads(machine.threads)
    device = machine.device
    lines = [f"device {device}, {machine.threads} thread(s)"]

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(1024, 1024, device=device).to(dtype)

        def product(a: torch.Tensor = a) -> None:
            a @ a
            synchronise()

        lines.append(
            f"  1024 x 1024 products, {str(dtype)[6:]}: {2 * 1024**3 / _seconds(product) / 1e9:.0f} GFLOP/s"
        )
    config = LlamaConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        vocab_size=1024,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(5, 1024, (32, 64), device=device)
    context = torch.autocast(device, torch.bfloat16) if machine.autocast_bf16 else contextlib.nullcontext()

    def step() -> None:
        with context:
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronise()

    lines.append(
        f"  training, {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters: "
        f"{ids.numel() / _seconds(step, 2.0):,.0f} tokens/s"
    )
    model.eval()
    prompts = ids[:, :16].repeat(4, 1)

    def generate() -> None:
        with torch.no_grad():
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                max_new_tokens=32,
                min_new_tokens=32,
            )
        synchronise()

    lines.append(
        f"  sampling, batch {len(prompts)}: {len(prompts) * 32 / _seconds(generate, 1.0):,.0f} tokens/s"
    )
    return "\n".join(lines)
