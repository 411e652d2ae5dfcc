"""The losses against closed forms, and against the numbers that TRL's trainers compute on a batch."""

from __future__ import annotations

import math

import pytest
import torch
import trl_kit

from rlhf_kit import losses
from rlhf_kit.errors import KitError


def test_bradley_terry_closed_forms():
    zero = torch.zeros(3)
    assert float(losses.bradley_terry_loss(zero, zero)[0]) == pytest.approx(math.log(2))
    loss, metrics = losses.bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert float(loss) == pytest.approx((math.log1p(math.exp(-2)) + math.log(2)) / 2)
    assert metrics == {"chosen_rewards": 1.0, "rejected_rewards": 0.0, "margins": 1.0, "accuracy": 0.5}
    # a margin equal to the difference leaves a coin toss
    assert float(
        losses.bradley_terry_loss(torch.tensor([2.0]), zero[:1], margin=torch.tensor([2.0]))[0]
    ) == pytest.approx(math.log(2))
    # a constant on all rewards changes nothing
    r, s = torch.randn(5), torch.randn(5)
    assert torch.allclose(losses.bradley_terry_loss(r + 7, s + 7)[0], losses.bradley_terry_loss(r, s)[0])


def test_dpo_closed_forms():
    logps = torch.tensor([-3.0, -8.0])
    loss, metrics = losses.dpo_loss(logps, logps - 1, logps, logps - 1, beta=0.1)
    assert float(loss) == pytest.approx(math.log(2)) and metrics["margins"] == 0
    one = torch.tensor([1.0])
    loss, metrics = losses.dpo_loss(-one, -3 * one, -2 * one, -2 * one, beta=0.5)  # h = 0.5 * (1 + 1) = 1
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1)))
    assert metrics["chosen_rewards"] == pytest.approx(0.5) and metrics["rejected_rewards"] == pytest.approx(
        -0.5
    )
    smooth = losses.dpo_loss(-one, -3 * one, -2 * one, -2 * one, beta=0.5, label_smoothing=0.2)[0]
    assert float(smooth) == pytest.approx(0.8 * math.log1p(math.exp(-1)) + 0.2 * math.log1p(math.exp(1)))


def test_dpo_gradient_is_the_papers_weight():
    # d loss / d log pi(chosen) = -beta * sigmoid(-h): pairs already well ordered push less
    chosen = torch.tensor([-1.0], requires_grad=True)
    fixed = torch.tensor([-2.0])
    losses.dpo_loss(chosen, fixed, fixed, fixed, beta=0.3)[0].backward()
    assert float(chosen.grad) == pytest.approx(-0.3 / (1 + math.exp(0.3)))


def test_sequence_logps_sum_over_the_response_alone():
    logits = torch.randn(2, 5, 7)
    ids = torch.randint(0, 7, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    by_hand = [
        sum(float(torch.log_softmax(logits[n, t - 1], -1)[ids[n, t]]) for t in range(1, 5) if mask[n, t])
        for n in range(2)
    ]
    assert losses.sequence_logps(logits, ids, mask).tolist() == pytest.approx(by_hand, abs=1e-5)
    # uniform logits: tokens times -log V, so a sum and not a mean
    assert losses.sequence_logps(torch.zeros(2, 5, 7), ids, mask).tolist() == pytest.approx(
        [-3 * math.log(7), -2 * math.log(7)]
    )


def test_pairwise_probability_is_a_softmax_over_two():
    a, b = torch.tensor([0.0, 1.5]), torch.tensor([0.0, -0.5])
    assert torch.allclose(losses.pairwise_probability(a, b), torch.softmax(torch.stack([a, b], -1), -1)[:, 0])


def test_kl_estimators_have_the_exact_mean():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = float((p * (p / q).log()).sum())
    for estimator in (losses.kl_k1, losses.kl_k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(exact)
    assert bool((losses.kl_k3(p.log(), q.log()) >= 0).all())


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"beta": 0.1, "label_smoothing": 0.5}])
def test_impossible_settings(wrong):
    with pytest.raises(KitError):
        losses.dpo_loss(*[torch.zeros(2)] * 4, **wrong)
    with pytest.raises(KitError, match="one shape"):
        losses.bradley_terry_loss(torch.zeros(2), torch.zeros(2, 1))


@pytest.mark.parametrize("e", [0.0, 0.1, 0.3, 0.499])
def test_conservative_dpo_from_two_of_trls_losses(e):
    """The weights of `dpo_loss_args` on TRL's formulas of `sigmoid` and `robust`: loss and gradient in closed form."""
    from rlhf_kit.trainers.dpo import dpo_loss_args

    given = dpo_loss_args({"loss": "sigmoid", "label_smoothing": e})
    h = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    s, f = -torch.nn.functional.logsigmoid(h), -torch.nn.functional.logsigmoid(-h)
    parts = {"sigmoid": s, "robust": ((1 - e) * s - e * f) / (1 - 2 * e)}
    weights = given.get("loss_weights", [1.0])
    built = sum(w * parts[name] for name, w in zip(given["loss_type"], weights, strict=True))
    closed = -(1 - e) * torch.log(torch.sigmoid(h)) - e * torch.log(torch.sigmoid(-h))
    assert torch.allclose(built, closed, atol=1e-9)
    slope = torch.autograd.grad(built.sum(), h)[0]
    assert torch.allclose(slope, torch.sigmoid(h.detach()) - (1 - e), atol=1e-9)  # zero where sigmoid(h) = 1 - e


# ---------------------------------------------------------------- against TRL


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_dpo_equals_trl(tiny_folder, tiny_rows, machine, settings, tmp_path, smoothing):
    """Ours from plain logits = what the DPO trainer computes on the same batch, the conservative loss included."""
    from datasets import Dataset
    from trl import DPOConfig

    from rlhf_kit import models
    from rlhf_kit.trainers import dpo as training_dpo
    from rlhf_kit.trainers.arguments import trainer_args
    from rlhf_kit.trainers.rows import dpo_encoder, encode_rows

    settings.label_smoothing, settings.beta = smoothing, 0.3
    policy, tokenizer = models.load_policy(tiny_folder, machine)
    reference, _ = models.load_policy(tiny_folder, machine)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    columns, _ = encode_rows(tiny_rows.pairs[:6], dpo_encoder(tokenizer, 128), "dpo")
    trainer = training_dpo._DPO(
        model=policy,
        ref_model=reference,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        args=trainer_args(
            DPOConfig,
            tmp_path,
            settings,
            machine,
            0,
            6,
            False,
            disable_dropout=True,
            precompute_ref_log_probs=True,
            beta=0.3,
            **training_dpo.dpo_loss_args(settings),
        ),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    theirs = trainer.compute_loss(trainer.model, {**batch})
    margin = trainer._metrics["train" if trainer.model.training else "eval"]["rewards/margins"][-1]

    def logps(model):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return losses.sequence_logps(logits, batch["input_ids"], batch["completion_mask"]).chunk(2)

    ours, metrics = losses.dpo_loss(*logps(policy), *logps(reference), beta=0.3, label_smoothing=smoothing)
    gradients = [
        torch.autograd.grad(loss, [p for _, p in sorted(policy.named_parameters())]) for loss in (ours, theirs)
    ]
    assert max(float(g.abs().max()) for g in gradients[0]) > 1e-3
    for mine, trls in zip(*gradients, strict=True):
        assert torch.allclose(mine, trls, atol=1e-6, rtol=1e-3)
    ours, theirs = ours.detach(), theirs.detach()
    assert abs(float(ours) - math.log(2)) > 0.05  # the policies do differ
    assert float(theirs) == pytest.approx(float(ours), abs=1e-5)
    assert margin == pytest.approx(metrics["margins"], abs=1e-5)


def test_bradley_terry_equals_trl(tiny_folder, tiny_rows, machine, settings, tmp_path):
    trainer, theirs, chosen, rejected = trl_kit.reward_loss(tiny_folder, tiny_rows.pairs[:6], machine, settings, tmp_path)
    ours, metrics = losses.bradley_terry_loss(chosen, rejected)
    assert abs(float(ours) - math.log(2)) > 0.01
    assert float(theirs) == pytest.approx(float(ours), abs=1e-5)
    seen = trainer._metrics["train" if trainer.model.training else "eval"]
    assert seen["margin"][-1] == pytest.approx(metrics["margins"], abs=1e-5)
    assert seen["accuracy"][-1] == pytest.approx(metrics["accuracy"])


def test_a_rows_margin_does_not_enter_the_reward_loss(tiny_folder, machine, tiny_rows):
    """Public sets carry a margin; TRL would subtract it from the difference, equation 4 of the paper has none."""
    from rlhf_kit import models
    from rlhf_kit.trainers.rows import encode_rows, reward_encoder

    tokenizer = models.load_tokenizer(tiny_folder)
    scored = [{**row, "margin": 3.0, "chosen_score": 4.5, "rejected_score": 1.5} for row in tiny_rows.pairs[:4]]
    mixed = [*scored, *tiny_rows.pairs[4:6], {**tiny_rows.pairs[6], "margin": None}]
    columns, _ = encode_rows(mixed, reward_encoder(tokenizer, 128), "reward")
    assert set(columns) == {"chosen_ids", "rejected_ids"} and len(columns["chosen_ids"]) == 7


def test_encoded_rows_of_different_columns_are_refused(tiny_rows):
    from rlhf_kit.errors import KitError
    from rlhf_kit.trainers.rows import encode_rows

    with pytest.raises(KitError, match="encoded row 2 has other columns than the first"):
        encode_rows(tiny_rows.pairs[:3], lambda row, number: {"a": 1} | ({"b": 2} if number == 2 else {}), "reward")
