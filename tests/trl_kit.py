"""TRL's own reward loss on rows of the tests, beside the scores that it is made of."""

from __future__ import annotations

from typing import Any

import torch


def reward_loss(folder, pairs, machine, settings, out, margins=None) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(trainer, its loss on all pairs in one batch, scores of the chosen answers, scores of the rejected ones).

    Each answer is scored alone and without padding, at its end token. margins: one a pair, None for none.
    """
    from datasets import Dataset
    from trl import RewardConfig

    from rlhf_kit import models, training
    from rlhf_kit.trainers.arguments import trainer_args
    from rlhf_kit.trainers.rows import encode_rows, reward_encoder

    model, tokenizer = models.new_reward_model(folder, machine, seed=3)
    with torch.no_grad():
        model.score.weight.mul_(40)
    columns, _ = encode_rows(pairs, reward_encoder(tokenizer, 128), "reward")
    rows = Dataset.from_dict(columns if margins is None else {**columns, "margin": margins})
    arguments = trainer_args(RewardConfig, out, settings, machine, 0, len(rows), False, center_rewards_coefficient=None)
    trainer = training._Reward(model=model, processing_class=tokenizer, args=arguments, train_dataset=rows)
    loss = trainer.compute_loss(trainer.model, {**trainer.data_collator(list(rows))})

    def score(ids):
        return model.score(model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])[0]

    chosen, rejected = (torch.stack([score(ids) for ids in columns[side]]) for side in ("chosen_ids", "rejected_ids"))
    return trainer, loss.detach(), chosen.detach(), rejected.detach()
