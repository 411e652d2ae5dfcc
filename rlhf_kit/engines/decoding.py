"""Generation by transformers: a batch of prompts in, drawn tokens and their log-probabilities out."""

from __future__ import annotations

import numpy as np

from rlhf_kit import chat
from rlhf_kit.batching import pad


def draw(model, tokenizer, prompt_ids, seeds, temperature, top_p, max_new_tokens):
    """One response a prompt: [(token_ids, logprob)] in the order given, by `model.generate`.

    prompt_ids: token ids, one list a response (the same list n times for n samples); seeds: one each.
    token_ids end with an end token (`chat.stop_ids`), if one came within max_new_tokens. logprob: the sum over token_ids of the
    log-probability under the distribution drawn from; at temperature 0, under the model's own.

    `generate` itself would draw the whole batch from one global stream of random numbers. To give each
    response its own, the last logits processor draws the token and lets no other through.
    """
    import torch
    from transformers import GenerationConfig, TemperatureLogitsWarper, TopPLogitsWarper

    ids, mask = pad(prompt_ids, tokenizer.pad_token_id, "left", model.device)
    drawing = Draw(seeds, max_new_tokens, temperature == 0, model.device)
    warpers = []
    if temperature > 0:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            warpers.append(TopPLogitsWarper(float(top_p)))
    stop = chat.stop_ids(tokenizer)
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens,
                                eos_token_id=stop, pad_token_id=tokenizer.pad_token_id)
    # `generate` fills what `settings` leave open from the model's own (a repetition penalty, for example).
    own, model.generation_config = model.generation_config, settings
    try:
        with torch.inference_mode():
            sequences = model.generate(ids, attention_mask=mask, generation_config=settings,
                                       logits_processor=[*warpers, drawing])
    finally:
        model.generation_config = own
    drawn = []
    logps = torch.stack(drawing.logps, dim=1).double().cpu().numpy()
    for row, row_logps in zip(sequences[:, ids.shape[1]:].tolist(), logps, strict=True):
        end = next((k + 1 for k, token in enumerate(row) if token in stop), len(row))
        drawn.append((row[:end], float(row_logps[:end].sum())))
    return drawn


class Draw:
    """A logits processor that draws the next token of each row from the row's own stream of random numbers.

    Inverse transform sampling: the token at which the cumulative probability passes a uniform number. One
    number a token is enough, whatever the vocabulary. `logps` collects, step by step, the log-probabilities
    (N,) of the tokens drawn under the scores that came in, that is after temperature and top-p.
    """

    def __init__(self, seeds, max_new_tokens: int, greedy: bool, device):
        import torch

        # Double precision where the device has it: over 128,000 tokens a float32 cumulative sum is coarse.
        precision = torch.float32 if device.type == "mps" else torch.float64
        noise = np.stack([np.random.default_rng(seed).random(max_new_tokens) for seed in seeds])
        # Below 1 also after rounding: at 1 itself no token would be found.
        below = 1 - torch.finfo(precision).eps
        self.noise = torch.tensor(noise, dtype=precision, device=device).clamp_(max=below)
        self.greedy = greedy
        self.logps: list = []

    def __call__(self, input_ids, scores):
        """Scores (N, vocabulary) -> the same shape: 0 for the token drawn, minus infinity for all others."""
        import torch

        logp = torch.log_softmax(scores, dim=-1)
        if self.greedy:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            cdf = logp.exp().to(self.noise.dtype).cumsum(dim=-1)
            noise = self.noise[:, len(self.logps), None]
            token = torch.searchsorted(cdf, noise * cdf[:, -1:], right=True)
        self.logps.append(logp.gather(1, token)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)
