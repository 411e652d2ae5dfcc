"""LoRA, QLoRA, the reference across iterations, truncation, packing, lack of memory."""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import warnings
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlhf_kit import chat, losses, models, online, training
from rlhf_kit.errors import KitError
from rlhf_kit.trainers import common as training_common
from rlhf_kit.trainers import dpo as training_dpo
from rlhf_kit.trainers import lora as training_lora
from rlhf_kit.trainers import memory as training_memory
from rlhf_kit.trainers.packing import check_packing, packed
from rlhf_kit.trainers.rows import dpo_encoder, encode_rows, pairwise_encoder, reward_encoder, sft_encoder

LIMIT = 160
LORA = {"r": 4, "alpha": 16}
QLORA = {**LORA, "quantization": "nf4"}


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return models.load_tokenizer(tiny_folder)


def _log_ratio(policy, reference, tokenizer, rows, side):
    """Mean log(policy / reference) of the answers on one side, by hand, one row at a time."""
    total = 0.0
    encode = dpo_encoder(tokenizer, LIMIT)
    for row in rows:
        made = encode(row, 0)
        ids = torch.tensor([made["prompt_ids"] + made[f"{side}_ids"]])
        mask = torch.tensor([[0] * len(made["prompt_ids"]) + [1] * len(made[f"{side}_ids"])])
        with torch.inference_mode():
            logps = [losses.sequence_logps(m(input_ids=ids).logits, ids, mask) for m in (policy, reference)]
        total += float(logps[0] - logps[1])
    return total / len(rows)


# ---------------------------------------------------------------- LoRA over two iterations


@pytest.fixture(scope="module")
def iterations(tiny_folder, tiny_rows, machine, tmp_path_factory):
    """Two iterations of DPO with LoRA, each held to the first model."""
    from types import SimpleNamespace

    base = tmp_path_factory.mktemp("lora")
    section = SimpleNamespace(epochs=2, learning_rate=2e-2, batch_size=8, beta=0.1)
    one = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, base / "one", section, machine, 0, LIMIT, lora=LORA
    )
    two = training.train_dpo(
        one.path, tiny_folder, tiny_rows.pairs, base / "two", section, machine, 1, LIMIT, lora=LORA
    )
    return one, two


def test_the_reference_stays_the_first_model(iterations, tiny_folder, tiny_rows, machine, tokenizer):
    one, two = iterations
    assert one.facts["start"]["how"] == "reference" and two.facts["start"]["how"] == "merged"
    assert one.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    known = models.weights_hash(tiny_folder)
    for done in iterations:
        assert {done.facts["reference"][k] for k in ("before", "after", "stored")} == {known}
    policy, reference = models.load_policy(one.path, machine)[0], models.load_policy(tiny_folder, machine)[0]
    for side in ("chosen", "rejected"):
        true = _log_ratio(policy, reference, tokenizer, tiny_rows.pairs, side)
        assert two.facts["step_zero"][f"{side}_log_ratio"] == pytest.approx(true, abs=1e-3) and abs(true) > 0.1


def test_the_adapter_is_saved_and_the_merged_model_is_its_base_and_it(iterations, tiny_folder, machine):
    from peft import PeftModel

    one, two = iterations
    for done, base in ((one, tiny_folder), (two, one.path)):
        whole = PeftModel.from_pretrained(models.load_policy(base, machine)[0], str(done.path / "adapter"))
        merged = models.load_policy(done.path, machine)[0]
        ids = torch.arange(10, 40)[None]
        with torch.inference_mode():
            assert torch.allclose(whole(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-4)
        note = json.loads((done.path / "adapter" / "kit.json").read_text())
        assert note == done.facts["adapter"] and note["base"] == models.weights_hash(base)
        assert note["merged_dtype"] == "float32" and note["merge_error_max"] < 1e-4
        assert (done.path / "adapter" / "adapter_model.safetensors").is_file()
        assert done.facts["weights"] == models.weights_hash(done.path) != note["base"]


def test_half_precision_stays_and_its_merge_error_is_measured(tiny_folder, tiny_rows, machine, settings, tmp_path):
    half = replace(machine, dtype="bfloat16")
    settings.learning_rate = 2e-2
    done = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, half, 0, LIMIT, lora=LORA
    )
    assert done.facts["adapter"]["merged_dtype"] == "bfloat16"
    assert 1e-5 < done.facts["adapter"]["merge_error_mean"] < 0.05
    assert done.facts["adapter"]["moved_mean"] > 2 * done.facts["adapter"]["merge_error_mean"]
    assert models.load_policy(done.path, half)[0].dtype == torch.bfloat16
    for lora in (LORA, None):
        out = tmp_path / f"rm-{lora is None}"
        reward = training.train_reward(tiny_folder, tiny_rows.pairs, out, settings, half, 0, LIMIT, lora=lora)
        scorer = models.load_reward_model(reward.path, half)[0]
        assert scorer.model.dtype == torch.bfloat16 and scorer.score.weight.dtype == torch.float32


def test_an_update_that_merging_rounds_away_is_told(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """Half-precision weights keep 8 bits: the merged policy of a few small steps would be the one it began with."""
    settings.learning_rate = 1e-5
    common = (tiny_folder, tiny_folder, tiny_rows.pairs)
    with pytest.warns(UserWarning, match="merging into bfloat16 .*much of what was learnt is rounded away"):
        half = replace(machine, dtype="bfloat16")
        lost = training.train_dpo(*common, tmp_path / "half", settings, half, 0, LIMIT, lora=LORA)
    assert lost.facts["adapter"]["merge_error_mean"] > lost.facts["adapter"]["moved_mean"] / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="merging")
        kept = training.train_dpo(*common, tmp_path / "whole", settings, machine, 0, LIMIT, lora=LORA)
    assert 0 < kept.facts["adapter"]["moved_mean"]


def test_a_merge_that_moves_the_model_is_refused(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch):
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: models.load_policy(tiny_folder, machine)[0], raising=False)
    monkeypatch.setattr(
        "peft.tuners.tuners_utils.BaseTuner.merge_and_unload", lambda self, *a, **k: models.load_policy(tiny_folder, machine)[0]
    )
    settings.learning_rate = 5e-2
    with pytest.raises(KitError, match="merging the adapter moved the model by .* the adapter alone is kept in"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT, lora=LORA)
    assert not (tmp_path / "sft" / "config.json").exists()
    assert (tmp_path / ".sft.adapter" / "adapter_model.safetensors").is_file()


def test_a_reward_models_head_is_trained_and_kept(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.epochs = 2
    done = training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "rm", settings, machine, 0, LIMIT, lora=LORA)
    new = models.new_reward_model(tiny_folder, machine, 0)[0].score.weight
    kept = models.load_reward_model(done.path, machine)[0].score.weight
    assert not torch.allclose(new, kept, atol=1e-4)
    saved = json.loads((done.path / "adapter" / "adapter_config.json").read_text())
    assert "score" in saved["modules_to_save"] and done.facts["adapter"]["merge_error_max"] < 1e-3


def test_full_training_keeps_float32_weights_on_a_half_precision_machine(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """In bfloat16 an update of 5e-7 would be rounded away: every weight would stay where it was."""
    half = replace(machine, dtype="bfloat16", autocast_bf16=True)
    start = models.load_policy(tiny_folder, machine)[0]
    seen = {}

    class Look(training_common.TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            seen.update({name: p.detach().clone() for name, p in model.named_parameters()})

    settings.learning_rate, settings.warmup_ratio = 5e-7, 0.0
    done = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, half, 0, LIMIT, callbacks=[Look()]
    )
    moved = [not torch.equal(seen[name], p) for name, p in start.named_parameters()]
    assert all(p.dtype == torch.float32 for p in seen.values()) and all(moved)
    assert models.load_policy(done.path, half)[0].dtype == torch.bfloat16
    assert done.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


# ---------------------------------------------------------------- one model in memory while training


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_reference_is_gone_before_the_optimizer_is_made(
    tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, lora
):
    opened, order = [], []
    plain_load, plain_ref = models.load_policy, training_dpo._DPO.compute_ref_log_probs
    plain_optimizer = training_dpo._DPO.create_optimizer

    def load(path, machine):
        model, tokenizer = plain_load(path, machine)
        opened.append(weakref.ref(model))
        return model, tokenizer

    def compute(self, model, batch):
        order.append("reference")
        return plain_ref(self, model, batch)

    def optimizer(self, *args, **kwargs):
        gc.collect()
        order.append("optimizer")
        order.append([one() is not None for one in opened])
        return plain_optimizer(self, *args, **kwargs)

    monkeypatch.setattr(models, "load_policy", load)
    monkeypatch.setattr(training_dpo._DPO, "compute_ref_log_probs", compute)
    monkeypatch.setattr(training_dpo._DPO, "create_optimizer", optimizer)
    training.train_dpo(tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT, lora=lora)
    assert order == ["reference"] * 3 + ["optimizer", [True, False]]  # 24 pairs by 8; the policy lives, the reference not


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_ways_of_divided_models_lead_to_the_same_files(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, lora):
    """FSDP and DeepSpeed need GPUs. What the kit does around them is run here on a whole model."""
    plain = {
        "sft": training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "a", settings, machine, 0, LIMIT, lora=lora),
        "rm": training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "b", settings, machine, 0, LIMIT, lora=lora),
        "dpo": training.train_dpo(
            tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "c", settings, machine, 0, LIMIT, lora=lora
        ),
    }
    for module in (training, training_common, training_dpo, training_lora):
        monkeypatch.setattr(module, "sharded", lambda: True)
    divided = {
        "sft": training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "d", settings, machine, 0, LIMIT, lora=lora),
        "rm": training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "e", settings, machine, 0, LIMIT, lora=lora),
        "dpo": training.train_dpo(
            tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "f", settings, machine, 0, LIMIT, lora=lora
        ),
    }
    for kind, done in divided.items():
        assert done.facts["weights"] == plain[kind].facts["weights"]
    first = divided["dpo"].facts["step_zero"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["rows"] == 8 and abs(first["margin"]) < 1e-4
    with pytest.raises(KitError, match="4-bit weights are not divided here|needs bitsandbytes"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "x", settings, machine, 0, LIMIT, lora=QLORA)


# ---------------------------------------------------------------- QLoRA

WITHOUT_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is None


def test_qlora_without_bitsandbytes_is_refused(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch):
    plain = importlib.util.find_spec
    monkeypatch.setattr(
        training_lora.importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else plain(name, *a)
    )
    with pytest.raises(KitError, match="nf4, which needs bitsandbytes .*set it to none for plain LoRA"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "x", settings, machine, 0, LIMIT, lora=QLORA)
    with pytest.raises(KitError, match="train the reward model with plain LoRA"):
        training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "x", settings, machine, 0, LIMIT, lora=QLORA)
    with pytest.raises(KitError, match="a new model cannot be trained with model.lora.quantization"):
        training.train_sft({"hidden_size": 16}, tiny_rows.sft, tmp_path / "x", settings, machine, 0, LIMIT, lora=QLORA)


def test_an_adapter_is_continued_on_the_weights_it_belongs_to_alone(tiny_folder, tmp_path):
    start = training_lora.frozen_start
    for base, way in ((models.weights_hash(tiny_folder), "continued"), ("somebody/else", "merged")):
        folder = tmp_path / way / "adapter"
        models_there = models.load_tokenizer(tiny_folder)
        models.save_model(models.new_model({"hidden_size": 16, "layers": 1, "heads": 2}, tiny_folder, 1)[0], models_there, folder.parent)
        folder.mkdir()  # after the model: saving one leaves no adapter of an earlier one behind
        (folder / "kit.json").write_text(json.dumps({"quantization": "nf4", "r": 4, "base": base}))
        assert start(folder.parent, tiny_folder, QLORA)[2] == way
        assert start(folder.parent, tiny_folder, LORA) == (str(folder.parent), None, "merged")  # plain LoRA never continues
    assert start(tmp_path / "merged", "somebody/else", QLORA)[0] == "somebody/else"  # a hub id stands for itself
    assert start(tmp_path / "continued", "somebody/else", QLORA)[2] == "merged"
    assert start(tiny_folder, tiny_folder, LORA) == (str(tiny_folder), None, "reference")
    with pytest.raises(KitError, match="has an adapter of rank 4"):
        start(tmp_path / "continued", tiny_folder, {**QLORA, "r": 8})


@pytest.mark.skipif(WITHOUT_BITSANDBYTES, reason="needs bitsandbytes (requirements-test.txt, on Linux)")
def test_qlora_iterations_stand_on_the_same_4_bit_weights(tiny_folder, tiny_rows, machine, settings, tmp_path, tokenizer):
    settings.learning_rate, settings.epochs = 2e-2, 2
    pairs = tiny_rows.pairs
    one = training.train_dpo(tiny_folder, tiny_folder, pairs, tmp_path / "one", settings, machine, 0, LIMIT, lora=QLORA)
    two = training.train_dpo(one.path, tiny_folder, pairs, tmp_path / "two", settings, machine, 1, LIMIT, lora=QLORA)
    assert one.facts["start"]["how"] == "reference" and two.facts["start"]["how"] == "continued"
    assert one.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for done in (one, two):
        assert done.facts["adapter"]["merge_error_mean"] < 0.05 and done.facts["adapter"]["quantization"] == "nf4"
    # The merged policy 1 is what iteration 2 starts from: its log-ratio to the 4-bit reference is the one found there.
    policy, reference = models.load_policy(one.path, machine)[0], training_lora.load_4bit(tiny_folder, machine)[0]
    for side in ("chosen", "rejected"):
        true = _log_ratio(policy, reference, tokenizer, pairs, side)
        assert two.facts["step_zero"][f"{side}_log_ratio"] == pytest.approx(true, abs=0.05) and abs(true) > 0.5


@pytest.mark.skipif(WITHOUT_BITSANDBYTES, reason="needs bitsandbytes (requirements-test.txt, on Linux)")
def test_qlora_of_an_unrelated_policy_is_merged_and_sft_works(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.learning_rate, settings.epochs = 2e-2, 3
    sft = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT, lora=QLORA)
    assert sft.history[-1]["loss"] < sft.history[0]["loss"] and models.load_policy(sft.path, machine)
    dpo = training.train_dpo(sft.path, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT, lora=QLORA)
    assert dpo.facts["start"]["how"] == "continued"  # its adapter stands on the reference's weights
    plain = training.train_dpo(tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "p", settings, machine, 0, LIMIT)
    other = training.train_dpo(plain.path, tiny_folder, tiny_rows.pairs, tmp_path / "o", settings, machine, 0, LIMIT, lora=QLORA)
    assert other.facts["start"]["how"] == "merged" and not other.facts["start"]["is_reference"]


# ---------------------------------------------------------------- truncation

LONG = [
    {"role": "user", "content": "Once there was a moon. " * 12 + "Who sat on the mat?"},
]


def test_keep_end_cuts_the_beginning_of_the_prompt_and_nothing_else(tokenizer):
    row = {"prompt": LONG, "chosen": "A brave bear sat there.", "rejected": "A cat."}
    whole = dpo_encoder(tokenizer, 1000)(row, 0)
    cut = Counter()
    made = dpo_encoder(tokenizer, 100, "keep_end", cut)(row, 0)
    assert made["chosen_ids"] == whole["chosen_ids"] and made["rejected_ids"] == whole["rejected_ids"]
    assert made["chosen_ids"][-1] == made["rejected_ids"][-1] == tokenizer.eos_token_id
    assert made["prompt_ids"][0] == tokenizer.bos_token_id and made["prompt_ids"].count(tokenizer.bos_token_id) == 1
    kept = len(made["prompt_ids"]) - 1
    assert made["prompt_ids"][1:] == whole["prompt_ids"][-kept:]
    assert len(made["prompt_ids"]) + len(made["chosen_ids"]) == 100 and cut == {"rows cut": 1}
    sides = reward_encoder(tokenizer, 100, "keep_end")(row, 0)
    assert sides["chosen_ids"] == made["prompt_ids"] + made["chosen_ids"]
    assert sides["rejected_ids"] == made["prompt_ids"] + made["rejected_ids"]  # both sides after the same prompt


def test_keep_start_says_how_many_answers_lost_their_end(tokenizer):
    row = {"prompt": LONG[:0] + [{"role": "user", "content": "Who?"}], "chosen": "A bear. " * 30, "rejected": "A cat."}
    cut = Counter()
    made = dpo_encoder(tokenizer, 60, "keep_start", cut)(row, 0)
    assert len(made["prompt_ids"]) + len(made["chosen_ids"]) == 60
    assert tokenizer.eos_token_id not in made["chosen_ids"] and made["rejected_ids"][-1] == tokenizer.eos_token_id
    assert cut == {"rows cut": 1, "answers without their end": 1}
    with pytest.raises(KitError, match="keep_start would cut off the end token, at which the reward is read"):
        reward_encoder(tokenizer, 60, "keep_start")
    with pytest.raises(KitError, match="keep_start would cut off the letter"):
        pairwise_encoder(tokenizer, 60, 0, "random", "keep_start")
    with pytest.raises(KitError, match="truncation is 'left'; it must be one of drop, keep_end, keep_start"):
        sft_encoder(tokenizer, 60, "left")


def test_what_cannot_be_cut_is_dropped_and_counted(tokenizer):
    long_answer = {"prompt": [{"role": "user", "content": "Who?"}], "chosen": "A bear. " * 60, "rejected": "A cat."}
    fits = {"prompt": LONG, "chosen": "A bear.", "rejected": "A cat."}
    for encode in (dpo_encoder, reward_encoder):
        cut = Counter()
        columns, ledger = encode_rows([long_answer, fits, long_answer], encode(tokenizer, 100, "keep_end", cut), "dpo")
        assert ledger.to_dict() == {
            "stage": "dpo", "rows_in": 3, "rows_out": 1, "dropped": {"longer than max_length": 2},
        }
        assert cut == {"rows cut": 1}


def test_sft_truncation(tokenizer):
    talk = [
        *LONG, {"role": "assistant", "content": "A bear."}, {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "On the mat."},
    ]
    whole = sft_encoder(tokenizer, 1000)({"messages": talk}, 0)
    end = sft_encoder(tokenizer, 80, "keep_end")({"messages": talk}, 0)
    assert end["input_ids"] == whole["input_ids"][:1] + whole["input_ids"][-79:] and end["labels"][1:] == whole["labels"][-79:]
    # the cut falls into the first answer: its rest is no longer trained, the second answer is
    tail = len(tokenizer("<end><user>Where?<end><assistant>On the mat.<end>", add_special_tokens=False)["input_ids"])
    inside = sft_encoder(tokenizer, tail + 2, "keep_end")({"messages": talk}, 0)
    assert tokenizer.decode([i for i in inside["labels"] if i != -100]) == "On the mat.<end>"
    cut = Counter()
    first = sft_encoder(tokenizer, len(whole["input_ids"]) - 3, "keep_start", cut)({"messages": talk}, 0)
    assert first["input_ids"] == whole["input_ids"][:-3] and cut["answers without their end"] == 1


def test_pairwise_keep_end_keeps_both_answers_and_the_letter(tokenizer):
    row = {"prompt": LONG * 1, "chosen": "A brave bear.", "rejected": "A cat."}
    encode = pairwise_encoder(tokenizer, 1000, 0, "both")
    whole, cut = encode(row, 0), Counter()
    limit = len(whole[0]["input_ids"]) - 40
    made = pairwise_encoder(tokenizer, limit, 0, "both", "keep_end", cut)(row, 0)
    for a, b in zip(whole, made, strict=True):
        assert b["input_ids"] == a["input_ids"][:1] + a["input_ids"][-(limit - 2) :]
        assert b["labels"][-1] == a["labels"][-1] and len(b["labels"]) == len(b["input_ids"])
    assert cut == {"rows cut": 2}


def test_trainings_report_what_was_cut(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.truncation = "keep_end"
    rows = [*tiny_rows.pairs[:7], {"prompt": LONG, "chosen": "A bear.", "rejected": "A cat."}]
    done = training.train_dpo(tiny_folder, tiny_folder, rows, tmp_path / "dpo", settings, machine, 0, 100)
    assert done.facts["truncated"] == {"rows cut": 1} and done.facts["ledger"]["rows_out"] == 8
    assert done.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


# ---------------------------------------------------------------- packing


def test_packed_conversations_do_not_see_each_other(tiny_folder, tiny_rows, machine, settings, tmp_path, tokenizer):
    """The packed training's first loss is the mean over the trained tokens of the rows one by one."""
    settings.batch_size, settings.packing = 64, True
    done = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT)
    packing = done.facts["packing"]
    assert packing["rows"] == 24 and 1 < packing["sequences"] < 24 and packing["leak"] < 1e-4
    settings.packing, settings.batch_size = False, 24
    plain = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "plain", settings, machine, 0, LIMIT)
    assert done.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], abs=1e-5)
    assert done.facts["ledger"]["rows_out"] == 24


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_leak_would_be_found(tiny_folder, tiny_rows, machine, tokenizer, attention):
    from datasets import Dataset

    model, _ = models.load_policy(tiny_folder, machine)
    model.set_attn_implementation(attention)
    columns, _ = encode_rows(tiny_rows.sft, sft_encoder(tokenizer, LIMIT), "sft")
    data, _ = packed(Dataset.from_dict(columns), LIMIT)
    assert check_packing(model, tokenizer, data) < 1e-4
    plain = model.forward

    def leaks(position_ids=None, **given):  # as a model whose attention ignores the positions
        return plain(**given, attention_mask=torch.ones_like(given["input_ids"]), position_ids=position_ids)

    model.forward = leaks
    with pytest.raises(KitError, match="packed conversations see each other"):
        check_packing(model, tokenizer, data)


# ---------------------------------------------------------------- lack of memory


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_lack_of_memory_is_one_sentence(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, error):
    def fails(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(training_dpo._DPO, "training_step", fails)
    with pytest.raises(KitError) as told:
        training.train_dpo(tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT)
    text = str(told.value)
    assert "dpo: the training does not fit into memory" in text and "dpo.micro_batch_size below 8" in text
    assert "dpo.gradient_checkpointing=true" in text and "model.lora" in text and "are kept" in text
    assert told.value.__context__ is None and not (tmp_path / "dpo" / "config.json").exists()


def test_other_errors_are_not_taken_for_lack_of_memory(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch):
    def fails(self, *args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(training._SFT, "training_step", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT)
    advice = training_memory._memory_advice(
        "train_dpo", {"micro_batch_size": 1, "gradient_checkpointing": True}, {"r": 4}, MemoryError()
    )
    assert "dpo.max_length, or model.lora.quantization=nf4" in advice


def test_encoded_conversations_are_the_chats(tokenizer):
    """The cut keeps what `chat` wrote; nothing is encoded a second way."""
    talk = [*LONG, {"role": "assistant", "content": "A bear."}]
    assert sft_encoder(tokenizer, 1000, "keep_end")({"messages": talk}, 0)["input_ids"] == chat.encode_conversation(tokenizer, talk)


def test_the_loop_over_folders_trains_adapters(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """Two iterations: each leaves the adapter of its own, and the second trains on from the first."""

    class Longer:
        def score(self, prompts, texts):
            return [float(len(text)) for text in texts]

    sampling = SimpleNamespace(n=4, temperature=1.0, top_p=1.0, max_new_tokens=8, batch_size=8)
    labeling = SimpleNamespace(rule="max_min", length_penalty=0.0, length_unit="chars", min_margin=0.0, max_pairs=None)
    dpo = SimpleNamespace(**{**vars(settings), "reference": "sft", "warm_start": True})
    batches = [[{"prompt_id": f"{t}-{i}", "prompt": row["prompt"]} for i, row in enumerate(tiny_rows.pairs[:8])] for t in (1, 2)]
    made = online.online_dpo(tiny_folder, Longer(), batches, tmp_path, sampling=sampling, labeling=labeling, dpo=dpo, machine=machine,
                             max_length=LIMIT, lora=LORA)  # fmt: skip
    first, second = (Path(one.policy) for one in made)
    adapters = [next(iter(folder.rglob("adapter_model.safetensors"))).read_bytes() for folder in (first, second)]
    assert adapters[0] != adapters[1]
