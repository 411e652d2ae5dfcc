"""Make the pocket base model: a tokenizer and a small Llama trained on the world's own text.

    python -m rlhf_kit.pretraining --out data/pocket_base

The result plays LLaMA-3-8B's part. Special tokens and the chat template are set here once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from .world.corpus import document

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>"}
ROLES = ("<user>", "<assistant>")
VOCABULARY = 1024
# The space before each text makes its first word the token that it is inside a sentence.
CHAT_TEMPLATE = (
    "{{- '<bos>' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<assistant>' -}}{%- generation -%}{{- ' ' + message['content'] + '<end>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- '<user> ' + message['content'] + '<end>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)


def make_tokenizer(documents: int = 60_000):
    """A byte-level BPE that knows most words of the world as one token and every other string as bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SPECIAL["pad_token"], SPECIAL["bos_token"], SPECIAL["eos_token"], *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((document(i) for i in range(documents)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=list(ROLES), **SPECIAL)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "right"
    return tokenizer


def _blocks(tokenizer, tokens: int, block: int, seed: int):
    """`tokens` tokens of documents as `<bos> text <end>`, packed into rows of `block` token ids, int64 (rows, block)."""
    import numpy as np

    stream: list[int] = []
    index = 1_000_000 * (seed + 1)
    while len(stream) < tokens:
        batch = [document(i, seed) for i in range(index, index + 2000)]
        index += 2000
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    rows = len(stream) // block
    return np.array(stream[: rows * block], dtype=np.int64).reshape(rows, block)


def pretrain(out: str | Path, hidden: int, layers: int, heads: int, tokens: int, batch: int, learning_rate: float, seed: int, bf16: bool) -> dict:
    """Train and save; returns the facts also written to `pretraining.json`. Lengths are in tokens."""
    import torch
    from torch.utils.data import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    block = 128
    started = time.time()
    set_seed(seed)
    tokenizer = make_tokenizer()
    data = _blocks(tokenizer, tokens, block, seed)
    held = _blocks(tokenizer, 60_000, block, seed + 1)
    print(f"{data.size:,} tokens in {time.time() - started:.0f} s", flush=True)

    class Rows(Dataset):
        def __init__(self, rows):
            self.rows = torch.from_numpy(rows)

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return {"input_ids": self.rows[i], "labels": self.rows[i]}

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=int(hidden * 8 / 3) // 32 * 32, max_position_embeddings=512,
        tie_word_embeddings=True, attn_implementation="eager", bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    arguments = TrainingArguments(
        output_dir=str(Path(out) / "checkpoints"), num_train_epochs=1, per_device_train_batch_size=batch, learning_rate=learning_rate,
        lr_scheduler_type="cosine", warmup_steps=100, weight_decay=0.05, adam_beta2=0.98, max_grad_norm=1.0, bf16=bf16, use_cpu=True,
        logging_steps=25, save_steps=500, save_total_limit=1, report_to="none", seed=seed, disable_tqdm=True, eval_strategy="steps",
        eval_steps=500, per_device_eval_batch_size=batch, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(data), eval_dataset=Rows(held))
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    model.generation_config.do_sample = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {"parameters": model.num_parameters(), "tokens": int(data.size), "held_out_loss": round(float(loss), 4),
             "seconds": round(time.time() - started), "hidden": hidden, "layers": layers, "seed": seed}  # fmt: skip
    (Path(out) / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="data/pocket_base")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    print(json.dumps(pretrain(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
