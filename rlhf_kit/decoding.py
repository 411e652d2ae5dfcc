"""Decoding with transformers: a batch of prompts in, drawn tokens and their log-probabilities out."""

from __future__ import annotations

import numpy as np

from rlhf_kit.batching import pad


def draw(model, tokenizer, prompt_ids, seeds, temperature, top_p, max_new_tokens):
    """A plain decoding loop: nothing is read from the model's generation_config.json.

    Faster on a CPU than `generate`: a prompt is read once for all its samples, the key/value cache is written
    in place instead of copied at every token, and rows that have ended leave the batch.
    One uniform number a token, from each row's own generator.
    """
    import torch

    device = model.device
    # Double precision where the device has it: over 128,000 tokens a float32 cumulative sum is coarse.
    precision = torch.float32 if device.type == "mps" else torch.float64
    noise = np.stack([np.random.default_rng(s).random(max_new_tokens) for s in seeds])
    noise = torch.tensor(noise, dtype=precision, device=device)
    distinct = {ids: number for number, ids in enumerate(dict.fromkeys(map(tuple, prompt_ids)))}
    prompt_of = torch.tensor([distinct[tuple(ids)] for ids in prompt_ids], device=device)
    ids, mask = pad(list(distinct), tokenizer.pad_token_id, "left", device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    tokens = torch.full((len(seeds), max_new_tokens), tokenizer.eos_token_id, device=device)
    logps = torch.zeros(len(seeds), max_new_tokens, dtype=precision, device=device)
    rows = torch.arange(len(seeds), device=device)  # which response each row of the batch is
    ended = torch.zeros(len(seeds), dtype=torch.bool, device=device)
    with torch.inference_mode():
        cache = _cache_with_room(model.config, ids.shape[1] + max_new_tokens)
        for step in range(max_new_tokens):
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                           use_cache=True, logits_to_keep=1).logits[:, -1].float()
            if step == 0:  # from prompts to samples
                cache.batch_select_indices(prompt_of)
                logits, mask, positions = logits[prompt_of], mask[prompt_of], positions[prompt_of]
            token, logp = _choose(logits, noise[rows, step], temperature, top_p)
            tokens[rows, step] = torch.where(ended, tokenizer.eos_token_id, token)
            logps[rows, step] = torch.where(ended, 0.0, logp.to(precision))
            ended |= token == tokenizer.eos_token_id
            if bool(ended.all()):
                break
            if int(ended.sum()) * 4 >= len(rows):  # a quarter of the batch has ended: go on with the others
                going = (~ended).nonzero()[:, 0]
                cache.batch_select_indices(going)
                token, rows, mask = token[going], rows[going], mask[going]
                positions, ended = positions[going], ended[going]
            ids = token[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1
    drawn = []
    for row, row_logp in zip(tokens.tolist(), logps.sum(dim=1).tolist(), strict=True):
        end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
        drawn.append((row[:end], row_logp))
    return drawn


def _choose(logits, noise, temperature: float, top_p: float):
    """Next tokens (N,) and their log-probabilities (N,) from logits (N, vocabulary), uniform noise (N,)."""
    import torch

    logp = torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)
    if temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        if top_p < 1.0:
            logp = _nucleus(logp, top_p)
        cdf = logp.exp().to(noise.dtype).cumsum(dim=-1)
        token = torch.searchsorted(cdf, noise[:, None] * cdf[:, -1:], right=True)
        token = token.clamp_(max=logp.shape[-1] - 1)
    return token[:, 0], logp.gather(1, token)[:, 0]


def _cache_with_room(config, length: int):
    """A key/value cache whose layers have room for `length` positions and are written in place."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                rows, heads = key_states.shape[:2]
                both = key_states, value_states
                self.room = [s.new_empty(rows, heads, length, s.shape[-1]) for s in both]
                start = 0
            else:
                start = self.keys.shape[-2]
            end = start + key_states.shape[-2]
            for store, states in zip(self.room, (key_states, value_states), strict=True):
                store[:, :, start:end] = states
            self.keys, self.values = (store[:, :, :end] for store in self.room)
            return self.keys, self.values

        def batch_select_indices(self, indices):
            end = self.keys.shape[-2]
            self.room = [store[indices] for store in self.room]
            self.keys, self.values = (store[:, :, :end] for store in self.room)

    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _nucleus(logp, top_p):
    """Keep the fewest likeliest tokens whose mass reaches top_p, renormalised: (N, vocabulary) log-probs."""
    import torch

    ordered, index = logp.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()  # mass of the likelier tokens
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.log_softmax(torch.full_like(logp, -torch.inf).scatter_(1, index, ordered), dim=-1)
