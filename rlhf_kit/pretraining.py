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
BLOCK = 128  # tokens a training row
PROOFREAD = 0.5  # share of proofread answers in phase 2
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


def _blocks(tokenizer, tokens: int, seed: int, proofread: float = 0.0):
    """`tokens` tokens of documents as `<bos> text <end>`, packed into rows of BLOCK token ids, int64 (rows, BLOCK)."""
    import numpy as np

    stream: list[int] = []
    index = 1_000_000 * (seed + 1)
    while len(stream) < tokens:
        batch = [document(i, seed, proofread) for i in range(index, index + 2000)]
        index += 2000
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    rows = len(stream) // BLOCK
    return np.array(stream[: rows * BLOCK], dtype=np.int64).reshape(rows, BLOCK)


def _new_model(tokenizer, hidden: int, layers: int, heads: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=int(hidden * 8 / 3) // 32 * 32, max_position_embeddings=512,
        tie_word_embeddings=True, attn_implementation="eager", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


def _train(model, data, held, out: Path, learning_rate: float, batch: int, seed: int, bf16: bool) -> float:
    """One pass over `data`, in place; returns the loss on `held`, in nats per token."""
    import torch
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    class Rows(Dataset):
        def __init__(self, rows):
            self.rows = torch.from_numpy(rows)

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return {"input_ids": self.rows[i], "labels": self.rows[i]}

    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=1, per_device_train_batch_size=batch,
        learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=100, weight_decay=0.05, adam_beta2=0.98,
        max_grad_norm=1.0, bf16=bf16, use_cpu=True, logging_steps=25, save_strategy="no", report_to="none", seed=seed,
        disable_tqdm=True, per_device_eval_batch_size=batch,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(data), eval_dataset=Rows(held))
    trainer.train()
    return float(trainer.evaluate()["eval_loss"])


def pretrain(out: str | Path, hidden: int, layers: int, heads: int, tokens: int, proofread_tokens: int, batch: int,
             learning_rate: float, seed: int, bf16: bool, start: str | None = None) -> dict:
    """Train in two phases and save; returns the facts also written to `pretraining.json`. Lengths are in tokens.

    Phase 1 reads the corpus; phase 2, at half the rate, the same with half of the documents proofread answers: what
    the reader of an answer needs and its writer does not, to notice at a word that the question said another.
    start: a folder that holds the model of a finished phase 1.
    """  # fmt: skip
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    started, out = time.time(), Path(out)
    set_seed(seed)
    facts = {"hidden": hidden, "layers": layers, "seed": seed}
    if start:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager")
        facts |= json.loads((Path(start) / "pretraining.json").read_text(encoding="utf-8"))
    else:
        tokenizer = make_tokenizer()
        model = _new_model(tokenizer, hidden, layers, heads)
    before, facts["parameters"] = facts.get("seconds", 0), model.num_parameters()
    held = _blocks(tokenizer, 60_000, seed + 1)
    if not start:
        data = _blocks(tokenizer, tokens, seed)
        facts |= {"tokens": int(data.size), "held_out_loss_phase_1": _train(model, data, held, out, learning_rate, batch, seed, bf16)}
    data = _blocks(tokenizer, proofread_tokens, seed + 2, PROOFREAD)
    loss = _train(model, data, held, out, learning_rate / 2, batch, seed, bf16)
    model.generation_config.do_sample = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts |= {"proofread_tokens": int(data.size), "held_out_loss": round(loss, 4), "seconds": round(before + time.time() - started)}
    (out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="data/pocket_base")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--proofread-tokens", type=int, default=6_000_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", help="folder with the model of a finished phase 1")
    parser.add_argument("--bf16", action="store_true")
    print(json.dumps(pretrain(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
