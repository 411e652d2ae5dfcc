"""The four training calls on a tiny model: what is trained on, what is dropped, references, resume, reload."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainerCallback

from rlhf_kit import chat, losses, models, training
from rlhf_kit.errors import KitError
from rlhf_kit.trainers import arguments as training_arguments
from rlhf_kit.trainers import dpo as training_dpo
from rlhf_kit.trainers.batches import LengthBatches
from rlhf_kit.trainers.rows import (
    EMPTY,
    Drop,
    as_list,
    dpo_encoder,
    encode_rows,
    pair_of,
    pairwise_encoder,
    reward_encoder,
    sft_encoder,
)

LIMIT = 160


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return models.load_tokenizer(tiny_folder)


# ---------------------------------------------------------------- rows


def test_sft_labels_are_all_assistant_turns_and_nothing_else(tokenizer):
    talk = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "A bear."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Here."},
    ]
    row = sft_encoder(tokenizer, LIMIT)({"messages": talk}, 0)
    trained = [i for i in row["labels"] if i != -100]
    assert tokenizer.decode(trained) == "A bear.<end>Here.<end>"
    assert all(label in (-100, i) for label, i in zip(row["labels"], row["input_ids"], strict=True))
    # a last question without an answer is left out
    assert (
        sft_encoder(tokenizer, LIMIT)({"messages": talk[:3]}, 0)["input_ids"]
        == row["input_ids"][: len(chat.encode_conversation(tokenizer, talk[:2]))]
    )


def test_ledger_counts_every_dropped_row(tiny_folder, machine, settings, tiny_rows, tmp_path):
    long = {"prompt": [{"role": "user", "content": "go"}], "chosen": "short", "rejected": "x " * LIMIT}
    same = {**long, "rejected": "short"}
    empty = {**long, "chosen": " ", "rejected": "short"}
    rows = [*tiny_rows.pairs[:8], long, same, empty, long]
    done = training.train_dpo(tiny_folder, tiny_folder, rows, tmp_path / "dpo", settings, machine, 0, LIMIT)
    assert done.facts["ledger"] == {
        "stage": "dpo",
        "rows_in": 12,
        "rows_out": 8,
        "dropped": {"longer than max_length": 2, "chosen and rejected are the same": 1, "empty response": 1},
    }
    with pytest.raises(KitError, match="no row is left"):
        training.train_reward(tiny_folder, [long], tmp_path / "rm", settings, machine, 0, LIMIT)
    assert not (tmp_path / "rm").exists()


def test_every_setting_reaches_trl(tiny_folder, machine, tiny_rows, tmp_path, monkeypatch):
    """Each field off its default, and off TRL's; what TRL's trainer was given says so."""
    given = SimpleNamespace(
        epochs=2, learning_rate=7e-4, batch_size=6, micro_batch_size=3, warmup_ratio=0.25, weight_decay=0.03, schedule="linear",
        max_grad_norm=0.7, gradient_checkpointing=True, beta=0.37, loss="sigmoid", label_smoothing=0.0, center_coefficient=0.02,
    )  # fmt: skip
    seen = []
    monkeypatch.setattr(Trainer, "train", lambda self, *_, **__: seen.append(self) or seen[-1].stop)  # no step is needed
    for call, *more in ((training.train_sft, tiny_folder, tiny_rows.sft), (training.train_reward, tiny_folder, tiny_rows.pairs),
                        (training.train_dpo, tiny_folder, tiny_folder, tiny_rows.pairs)):  # fmt: skip
        with pytest.raises(AttributeError, match="stop"):
            call(*more, tmp_path / call.__name__, given, machine, 11, LIMIT)
        args = seen[-1].args
        assert (args.num_train_epochs, args.learning_rate, args.weight_decay, args.max_grad_norm) == (2, 7e-4, 0.03, 0.7)
        assert (args.lr_scheduler_type, args.warmup_steps, args.gradient_checkpointing) == ("linear", 0.25, True)
        assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.seed, args.data_seed) == (3, 2, 11, 11)
    sft, reward, dpo = seen
    assert reward.args.center_rewards_coefficient == 0.02 and reward.args.disable_dropout
    assert dpo.args.beta == dpo.beta == 0.37 and dpo.args.precompute_ref_log_probs and dpo.args.disable_dropout


def with_dropout(folder, out):
    """The same weights in a model that drops half of its attention while it trains."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    return out


def test_dropout_of_the_model_is_off_where_rewards_are_compared(tiny_folder, machine, settings, tiny_rows, tmp_path):
    """With dropout on, the policy would differ from its own reference, and the reward of one text from step to step."""
    dropping = with_dropout(tiny_folder, tmp_path / "dropping")
    made = []
    for name, folder in (("with", dropping), ("without", tiny_folder)):
        dpo = training.train_dpo(folder, folder, tiny_rows.pairs, tmp_path / f"dpo-{name}", settings, machine, 0, LIMIT)
        reward = training.train_reward(folder, tiny_rows.pairs, tmp_path / f"rm-{name}", settings, machine, 0, LIMIT)
        made.append(([row["loss"] for row in dpo.history], [row["loss"] for row in reward.history]))
        assert made[-1][0][0] == pytest.approx(math.log(2), abs=1e-5)
    assert made[0] == made[1]


def test_dpo_learns_against_an_empty_answer_and_a_reward_model_does_not(tiny_folder):
    """What a policy that says nothing wrote is its end token alone; in public data an empty answer is a gap."""
    tokenizer = models.load_tokenizer(tiny_folder)
    row = {"prompt": [{"role": "user", "content": "go"}], "chosen": "short", "rejected": ""}
    made = dpo_encoder(tokenizer, LIMIT)(row, 0)
    assert made["rejected_ids"] == [tokenizer.eos_token_id] and made["chosen_ids"][-1] == tokenizer.eos_token_id
    with pytest.raises(Drop, match=EMPTY):  # cut off before its first token: nothing is left of it
        dpo_encoder(tokenizer, LIMIT)({**row, "rejected_finish": "length"}, 0)
    with pytest.raises(Drop, match=EMPTY):
        dpo_encoder(tokenizer, LIMIT)({**row, "chosen": " ", "rejected": "short"}, 0)
    with pytest.raises(Drop, match=EMPTY):
        reward_encoder(tokenizer, LIMIT)(row, 0)


def test_pair_rows_in_all_shapes(tiny_rows):
    for texts, talks in zip(tiny_rows.pairs, tiny_rows.preferences, strict=True):
        bare = {side: talks[side] for side in ("chosen", "rejected")}
        answers = {"prompt": talks["prompt"], **{side: talks[side][-1:] for side in ("chosen", "rejected")}}
        assert pair_of(texts) == pair_of(talks) == pair_of(bare) == pair_of(answers)
    with pytest.raises(KitError, match="rejected does not begin with the turns of the prompt"):
        pair_of(
            {"chosen": tiny_rows.preferences[0]["chosen"], "rejected": tiny_rows.preferences[1]["rejected"]}
        )


def test_a_missing_field_is_named(tokenizer):
    with pytest.raises(KitError, match="sft: row 0 has no field 'messages'; it has text"):
        encode_rows([{"text": "x"}], sft_encoder(tokenizer, LIMIT), "sft")


def test_an_answer_cut_off_at_the_limit_keeps_no_end_token(tokenizer):
    encode = dpo_encoder(tokenizer, LIMIT)
    row = {"prompt": [{"role": "user", "content": "Who?"}], "chosen": "A bear.", "rejected": "A cat"}
    whole = encode(row, 0)
    assert [whole[f"{side}_ids"][-1] for side in ("chosen", "rejected")] == [tokenizer.eos_token_id] * 2
    cut = encode({**row, "chosen_finish": "stop", "rejected_finish": "length"}, 0)
    assert cut["chosen_ids"] == whole["chosen_ids"]
    assert cut["rejected_ids"] == whole["rejected_ids"][:-1] and tokenizer.eos_token_id not in cut["rejected_ids"]


def test_pairwise_rows(tokenizer, tiny_rows):
    a, b = chat.letter_ids(tokenizer)
    columns, _ = encode_rows(tiny_rows.pairs, pairwise_encoder(tokenizer, 400, 0, "random"), "pairwise")
    letters = [labels[-1] for labels in columns["labels"]]
    assert {a, b} == set(letters) and 6 <= letters.count(a) <= 18
    for row, ids, labels in zip(tiny_rows.pairs, columns["input_ids"], columns["labels"], strict=True):
        assert [i for i in labels if i != -100] == [ids[-1]]  # the letter alone
        first, second = (row["chosen"], row["rejected"]) if ids[-1] == a else (row["rejected"], row["chosen"])
        assert ids[:-1] == chat.encode_prompt(tokenizer, chat.pair_messages(row["prompt"], first, second))
    again, _ = encode_rows(tiny_rows.pairs, pairwise_encoder(tokenizer, 400, 0, "random"), "pairwise")
    other, _ = encode_rows(tiny_rows.pairs, pairwise_encoder(tokenizer, 400, 1, "random"), "pairwise")
    assert again == columns != other
    both, ledger = encode_rows(tiny_rows.pairs, pairwise_encoder(tokenizer, 400, 0, "both"), "pairwise")
    assert len(both["labels"]) == 2 * len(letters) and ledger.rows_out == len(letters)
    assert [labels[-1] for labels in both["labels"]] == [a, b] * len(letters)


def test_batches_of_like_length():
    lengths = [(i * 37) % 100 for i in range(203)]
    sampler = LengthBatches(lengths, 8, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(203)) and first == list(LengthBatches(lengths, 8, seed=3))
    sampler.set_epoch(1)
    assert list(sampler) != first

    def padding(order):
        return sum(
            max(lengths[i] for i in order[k : k + 8]) * 8 - sum(lengths[i] for i in order[k : k + 8])
            for k in range(0, 200, 8)
        )

    assert padding(first) < 0.5 * padding(
        torch.randperm(203, generator=torch.Generator().manual_seed(0)).tolist()
    )


# ---------------------------------------------------------------- SFT


def test_sft_learns_and_is_reproducible(tiny_folder, tiny_rows, machine, settings, tmp_path, capsys):
    settings.epochs = 4
    done = [
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / name, settings, machine, seed, LIMIT)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert done[0].history[-1]["loss"] < done[0].history[0]["loss"] - 0.5
    assert done[0].facts["weights"] == done[1].facts["weights"] != done[2].facts["weights"]
    assert done[0].facts["weights"] == models.weights_hash(done[0].path)
    assert json.loads((done[0].path / "history.json").read_text()) == done[0].history
    assert done[0].facts["steps"] == 12 and done[0].history[-1]["epoch"] == 4
    assert not (done[0].path / "checkpoints").exists()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == ""


def test_trainer_sees_the_rows_in_a_new_order_each_epoch(
    tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch
):
    settings.epochs, orders = 2, []
    plain = LengthBatches.__iter__
    monkeypatch.setattr(
        LengthBatches, "__iter__", lambda self: iter(orders.append(list(plain(self))) or orders[-1])
    )
    training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT)
    assert len(orders) == 2 and orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_first_loss_is_the_mean_over_trained_tokens(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.batch_size = 24  # all rows in one batch
    done = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT)
    model, tokenizer = models.load_policy(tiny_folder, machine)
    total, count = 0.0, 0
    for row in tiny_rows.sft:
        ids, own = chat.encode_turns(tokenizer, row["messages"])
        with torch.inference_mode():
            logps = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
        total -= sum(float(logps[t - 1, ids[t]]) for t in range(1, len(ids)) if own[t])
        count += sum(own)
    assert done.history[0]["loss"] == pytest.approx(total / count, abs=1e-5)


def test_micro_batches_give_the_same_model(tiny_folder, tiny_rows, machine, settings, tmp_path):
    whole = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "whole", settings, machine, 0, LIMIT)
    settings.micro_batch_size = 2
    parts = training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "parts", settings, machine, 0, LIMIT)
    assert parts.facts["steps"] == whole.facts["steps"]
    assert [row["loss"] for row in parts.history] == pytest.approx(
        [row["loss"] for row in whole.history], abs=1e-4
    )
    settings.micro_batch_size = 3
    with pytest.raises(KitError, match="not a multiple of micro_batch_size 3"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "odd", settings, machine, 0, LIMIT)


def test_sft_of_a_new_model(tiny_folder, tiny_rows, machine, settings, tmp_path):
    init = {"hidden_size": 16, "layers": 1, "heads": 2, "tokenizer": str(tiny_folder)}
    done = training.train_sft(init, tiny_rows.sft, tmp_path / "new", settings, machine, 0, LIMIT)
    assert models.load_policy(done.path, machine)[0].config.hidden_size == 16
    with pytest.raises(KitError, match="needs a tokenizer"):
        training.train_sft({"hidden_size": 16}, tiny_rows.sft, tmp_path / "x", settings, machine, 0, LIMIT)


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_killed_run_continues_to_the_same_weights(
    tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(training_arguments, "SAVE_STEPS", 2)
    settings.epochs = 2

    def train(out, **more):
        if kind == "sft":
            return training.train_sft(tiny_folder, tiny_rows.sft, out, settings, machine, 0, LIMIT, **more)
        return training.train_dpo(
            tiny_folder, tiny_folder, tiny_rows.pairs, out, settings, machine, 0, LIMIT, **more
        )

    straight = train(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", callbacks=[Kill(5)])
    folder = tmp_path / "killed" / "checkpoints"
    assert [f.name for f in folder.iterdir()] == ["checkpoint-4"] and not (
        tmp_path / "killed" / "config.json"
    ).exists()
    (folder / "checkpoint-5").mkdir()  # as if killed while writing
    resumed = train(tmp_path / "killed")
    assert (
        resumed.facts["resumed_from"] == "checkpoint-4"
        and resumed.facts["steps"] == straight.facts["steps"] == 6
    )
    assert resumed.facts["weights"] == straight.facts["weights"]
    assert [row["step"] for row in resumed.history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", ["rows", "settings", "start"])
def test_a_killed_run_is_not_continued_as_another_training(
    tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, change
):
    """Into the same folder, with other rows, another rate or another start: the result is that of a fresh folder."""
    monkeypatch.setattr(training_arguments, "SAVE_STEPS", 2)
    settings.epochs, rows, start = 2, tiny_rows.sft, tiny_folder

    def train(out, **more):
        return training.train_sft(start, rows, out, settings, machine, 0, LIMIT, **more)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "same", callbacks=[Kill(5)])
    if change == "rows":
        rows = [*rows[:-1], rows[0]]
    elif change == "settings":
        settings.learning_rate = 1e-3
    else:
        start = models.save_model(*models.new_model({"hidden_size": 32, "layers": 2, "heads": 4}, tiny_folder, 7), tmp_path / "s")
    with pytest.warns(UserWarning, match="are of another training; they were removed"):
        done = train(tmp_path / "same")
    assert done.facts["resumed_from"] is None and done.facts["steps"] == 6
    assert done.facts["weights"] == train(tmp_path / "fresh").facts["weights"]
    assert not list(tmp_path.glob("*/.checkpoints.json"))


@pytest.mark.parametrize("change", ["reference", "alpha"])
def test_a_killed_dpo_is_not_continued_with_another_reference_or_adapter(
    tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(training_arguments, "SAVE_STEPS", 2)
    settings.epochs, reference, lora = 2, tiny_folder, {"r": 4, "alpha": 8} if change == "alpha" else None

    def train(out, **more):
        return training.train_dpo(tiny_folder, reference, tiny_rows.pairs, out, settings, machine, 0, LIMIT, lora=lora, **more)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "same", callbacks=[Kill(5)])
    if change == "alpha":
        lora["alpha"] = 32
    else:
        reference = models.save_model(*models.new_model({"hidden_size": 32, "layers": 2, "heads": 4}, tiny_folder, 7), tmp_path / "r")
    with pytest.warns(UserWarning, match="are of another training; they were removed"):
        done = train(tmp_path / "same")
    assert done.facts["resumed_from"] is None and done.facts["weights"] == train(tmp_path / "fresh").facts["weights"]


def test_a_loss_that_is_no_number_stops_the_run(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.learning_rate, settings.max_grad_norm, settings.epochs, settings.warmup_ratio = (
        1e30,
        1e30,
        3,
        0.0,
    )
    with pytest.raises(KitError, match="the loss is .*lower the learning rate"):
        training.train_sft(tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT)
    assert not (tmp_path / "sft" / "config.json").exists()


# ---------------------------------------------------------------- reward model, pairwise model


def test_reward_model_learns_and_reloads_with_the_same_scores(
    tiny_folder, tiny_rows, machine, settings, tmp_path
):
    settings.epochs = 4
    done = training.train_reward(
        tiny_folder, tiny_rows.preferences, tmp_path / "rm", settings, machine, 0, LIMIT
    )
    assert done.history[0]["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert done.history[-1]["accuracy"] > 0.9
    model, tokenizer = models.load_reward_model(done.path, machine)
    first = chat.encode_conversation(tokenizer, tiny_rows.preferences[0]["chosen"])
    with torch.inference_mode():
        score = float(model(input_ids=torch.tensor([first])).logits)
    assert any(score == pytest.approx(seen, abs=1e-5) for seen in done.facts["probe_scores"])


def test_reward_centering_is_passed_on(tiny_folder, tiny_rows, machine, settings, tmp_path):
    plain = training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "a", settings, machine, 0, LIMIT)
    settings.center_coefficient = 5.0
    centred = training.train_reward(tiny_folder, tiny_rows.pairs, tmp_path / "b", settings, machine, 0, LIMIT)
    assert centred.history[0]["loss"] > plain.history[0]["loss"]


def test_pairwise_model_learns_the_letter(tiny_folder, tiny_rows, machine, settings, tmp_path):
    settings.epochs, settings.learning_rate = 6, 2e-2
    done = training.train_pairwise(
        tiny_folder, tiny_rows.pairs, tmp_path / "pm", settings, machine, 0, 400, orders="both"
    )
    assert done.facts["share_answered_a"] == 0.5
    model, tokenizer = models.load_policy(done.path, machine)
    letters = list(chat.letter_ids(tokenizer))
    ids = chat.encode_prompt(tokenizer, chat.pair_messages(tiny_rows.pairs[0]["prompt"], "x", "y"))
    with torch.inference_mode():
        p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1)[letters]
    assert float(p.sum()) > 0.9  # it answers with a letter and nothing else


# ---------------------------------------------------------------- DPO


def test_dpo_step_zero_and_reference(tiny_folder, tiny_rows, machine, settings, tmp_path):
    before = models.weights_hash(tiny_folder)
    one = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "one", settings, machine, 0, LIMIT
    )
    assert one.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert one.facts["start"]["is_reference"] and abs(one.facts["step_zero"]["margin"]) < 1e-4
    assert one.history[-1]["rewards/margins"] > 0
    # warm start: from the first policy, but held to the initial model
    two = training.train_dpo(
        one.path, tiny_folder, tiny_rows.pairs, tmp_path / "two", settings, machine, 0, LIMIT
    )
    assert not two.facts["start"]["is_reference"] and two.facts["step_zero"]["margin"] > 0
    assert two.facts["step_zero"]["loss"] < math.log(2)
    for done in (one, two):
        assert done.facts["reference"]["before"] == done.facts["reference"]["after"] == before
    assert models.weights_hash(tiny_folder) == before


def test_dpo_reference_is_the_named_folder_not_the_policys_origin(
    tiny_folder, tiny_rows, machine, settings, tmp_path
):
    """Same policy, two references: the reference's log-probabilities must differ, run after run in one process."""
    one = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "one", settings, machine, 0, LIMIT
    )
    settings.learning_rate = 1e-12
    own = training.train_dpo(
        one.path, one.path, tiny_rows.pairs, tmp_path / "own", settings, machine, 0, LIMIT
    )
    other = training.train_dpo(
        one.path, tiny_folder, tiny_rows.pairs, tmp_path / "other", settings, machine, 0, LIMIT
    )
    again = training.train_dpo(
        one.path, one.path, tiny_rows.pairs, tmp_path / "again", settings, machine, 0, LIMIT
    )
    assert (
        own.facts["step_zero"]["loss"]
        == again.facts["step_zero"]["loss"]
        == pytest.approx(math.log(2), abs=1e-5)
    )
    assert other.facts["step_zero"]["loss"] < own.facts["step_zero"]["loss"] - 0.01


def test_precomputed_reference_is_the_references_own_log_probability(
    tiny_folder, tiny_rows, machine, settings, tmp_path, tokenizer
):
    """Row by row, by hand; batched and sorted by length in training."""
    one = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "one", settings, machine, 0, LIMIT
    )
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            seen.extend(train_dataloader.dataset.to_list())

    training.train_dpo(
        one.path, tiny_folder, tiny_rows.pairs, tmp_path / "two", settings, machine, 0, LIMIT, callbacks=[Look()]
    )
    reference, _ = models.load_policy(tiny_folder, machine)
    assert len(seen) == len(tiny_rows.pairs)
    for row in seen:
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
            mask = torch.tensor([[0] * len(row["prompt_ids"]) + [1] * len(row[f"{side}_ids"])])
            with torch.inference_mode():
                by_hand = losses.sequence_logps(reference(input_ids=ids).logits, ids, mask)
            assert row[f"ref_{side}_logps"] == pytest.approx(float(by_hand), abs=1e-3)


def test_conservative_dpo_is_not_plain_dpo(tiny_folder, tiny_rows, machine, settings, tmp_path):
    """TRL alone ignores label_smoothing under `sigmoid`; here it holds the margin back."""
    settings.epochs, settings.beta = 4, 1.0
    plain = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "plain", settings, machine, 0, LIMIT
    )
    settings.label_smoothing = 0.3
    smooth = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "smooth", settings, machine, 0, LIMIT
    )
    assert smooth.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert smooth.history[-1]["rewards/margins"] < plain.history[-1]["rewards/margins"] - 0.3
    settings.label_smoothing = 0.5
    with pytest.raises(KitError, match="label_smoothing is 0.5"):
        training.train_dpo(
            tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "x", settings, machine, 0, LIMIT
        )


def test_a_wrong_reference_is_caught(tiny_folder, tiny_rows, machine, settings, tmp_path, monkeypatch):
    """If the log-probabilities came from other weights than the reference's, the first loss would not be ln 2."""
    honest = training_dpo._DPO.compute_ref_log_probs
    monkeypatch.setattr(
        training_dpo._DPO,
        "compute_ref_log_probs",
        lambda self, model, batch: [x + i for i, x in enumerate(honest(self, model, batch))],
    )
    with pytest.raises(KitError, match="first DPO loss is .* not ln 2"):
        training.train_dpo(
            tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT
        )
    assert not (tmp_path / "dpo" / "config.json").exists()


def test_policy_and_reference_of_different_vocabularies(
    tiny_folder, stories_folder, tiny_rows, machine, settings, tmp_path
):
    with pytest.raises(KitError, match="different vocabularies"):
        training.train_dpo(
            tiny_folder, stories_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT
        )


# ---------------------------------------------------------------- LoRA, autocast, a real checkpoint


def test_lora_trains_adapters_and_saves_a_whole_model(tiny_folder, tiny_rows, machine, settings, tmp_path):
    lora = {"r": 4, "alpha": 8}
    settings.epochs = 4
    sft = training.train_sft(
        tiny_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, LIMIT, lora=lora
    )
    assert sft.history[-1]["loss"] < sft.history[0]["loss"] and (sft.path / "model.safetensors").is_file()
    settings.epochs = 1
    reward = training.train_reward(
        sft.path, tiny_rows.pairs, tmp_path / "rm", settings, machine, 0, LIMIT, lora=lora
    )
    assert models.load_reward_model(reward.path, machine)
    dpo = training.train_dpo(
        sft.path, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, LIMIT, lora=lora
    )
    assert not dpo.facts["start"]["is_reference"] and abs(dpo.facts["step_zero"]["margin"]) > 1e-3


def test_bf16_autocast_keeps_float32_weights(tiny_folder, tiny_rows, machine, settings, tmp_path):
    from dataclasses import replace

    mixed = replace(machine, autocast_bf16=True)
    done = training.train_dpo(
        tiny_folder, tiny_folder, tiny_rows.pairs, tmp_path / "dpo", settings, mixed, 0, LIMIT
    )
    assert done.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert models.load_policy(done.path, machine)[0].dtype == torch.float32


def test_the_whole_recipe_on_a_real_checkpoint(stories_folder, tiny_rows, machine, settings, tmp_path):
    sft = training.train_sft(stories_folder, tiny_rows.sft, tmp_path / "sft", settings, machine, 0, 256)
    reward = training.train_reward(sft.path, tiny_rows.pairs, tmp_path / "rm", settings, machine, 0, 256)
    pairwise = training.train_pairwise(sft.path, tiny_rows.pairs, tmp_path / "pm", settings, machine, 0, 400)
    dpo = training.train_dpo(
        stories_folder, stories_folder, tiny_rows.pairs, tmp_path / "dpo", settings, machine, 0, 256
    )
    assert all(math.isfinite(done.history[-1]["loss"]) for done in (sft, reward, pairwise, dpo))
    assert dpo.facts["step_zero"]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_rows_may_be_a_dataset(tiny_rows):
    from datasets import Dataset

    assert as_list(Dataset.from_list(tiny_rows.pairs)) == tiny_rows.pairs
