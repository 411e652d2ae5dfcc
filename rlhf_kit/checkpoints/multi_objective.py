"""ArmoRM (arXiv 2406.12845): 19 named rewards at the answer's end, weighed by a gate that has read the prompt.

The checkpoint comes with Python code of its own. None of it runs here: this file builds the same forward pass from its
description and reads the weights by their names.

    rewards = W h(last token)                        19 numbers, such as helpfulness, correctness, verbosity
    gate    = scale * softmax(MLP(h(prompt)) / T)    h(prompt): the token before the answer's header
    score   = sum_k gate_k (rewards M)_k             M takes the liking for length out of the others
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rlhf_kit import chat
from rlhf_kit.batching import by_length, pad
from rlhf_kit.checkpoints import released
from rlhf_kit.errors import KitError
from rlhf_kit.scoring import check_length, messages_of, same_length

OBJECTIVES = (
    "helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity",
    "helpsteer-verbosity", "ultrafeedback-overall_score", "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness", "ultrafeedback-honesty", "ultrafeedback-helpfulness", "beavertails-is_safe",
    "prometheus-score", "argilla-overall_quality", "argilla-judge_lm", "code-complexity", "code-style",
    "code-explanation", "code-instruction-following", "code-readability",
)  # fmt: skip
# The end of the prompt's last turn and the header of the answer; the gate reads the first token of the last such run.
_ANSWER_OPENS = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@lru_cache(maxsize=1)
def architecture():
    """The model class: names of weights as in the checkpoint, heads in float32 whatever the backbone's format."""
    import torch
    from torch import nn
    from transformers import LlamaModel, LlamaPreTrainedModel

    class Gate(nn.Module):
        def __init__(self, config):
            super().__init__()
            inner = getattr(config, "gating_hidden_dim", 1024)
            widths = [config.hidden_size] + [inner] * getattr(config, "gating_n_hidden", 3) + [_objectives(config)]
            self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False))
            self.logit_scale = nn.Parameter(torch.ones(1))
            self.temperature = float(getattr(config, "gating_temperature", 10))

        def forward(self, hidden):
            for layer in self.layers[:-1]:
                hidden = torch.relu(layer(hidden))
            return self.logit_scale * torch.softmax(self.layers[-1](hidden) / self.temperature, dim=-1)

    class MultiObjectiveLlama(LlamaPreTrainedModel):
        _keep_in_fp32_modules_strict = ("regression_layer", "reward_transform_matrix", "gating")

        def __init__(self, config):
            super().__init__(config)
            size = _objectives(config)
            self.model = LlamaModel(config)
            self.regression_layer = nn.Linear(config.hidden_size, size, bias=False)
            self.reward_transform_matrix = nn.Parameter(torch.eye(size), requires_grad=False)
            self.gating = Gate(config)
            self.post_init()

        def forward(self, input_ids, attention_mask, prompt_end, answer_end):
            """(rewards (N, K), gate (N, K)), read at the two positions (N,) of each row."""
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            row = torch.arange(len(input_ids), device=hidden.device)
            return self.regression_layer(hidden[row, answer_end].float()), self.gating(hidden[row, prompt_end].float())

    return MultiObjectiveLlama


def _objectives(config) -> int:
    return int(getattr(config, "num_objectives", len(OBJECTIVES)))


class MultiObjective:
    """A multi-objective reward model with a gate, behind the same call as the other scorers.

    path: folder or hub id (RLHFlow/ArmoRM-Llama3-8B-v0.1). The text is its own template's, one BOS in front.
    """

    def __init__(self, path, machine, name: str = "multi-objective", batch_size: int = 32):
        from rlhf_kit.models import load_gated

        self.model, self.tokenizer = load_gated(path, machine, architecture())
        self.name, self.batch_size = name, batch_size
        self.bos = known.bos if (known := released.find(path)) else True
        self.opens = self.tokenizer(_ANSWER_OPENS, add_special_tokens=False)["input_ids"]
        size = _objectives(self.model.config)
        self.names = OBJECTIVES if size == len(OBJECTIVES) else tuple(f"objective-{k}" for k in range(size))

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        """Rewards (N,) float32: the gated sum. KitError if a conversation is too long or opens no answer."""
        rewards, gate = self.objectives(prompts, responses)
        mixed = rewards @ self.model.reward_transform_matrix.detach().double().cpu().numpy()
        return (gate * mixed).sum(axis=1).astype(np.float32)

    def objectives(self, prompts: Sequence, responses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(rewards, gate), each (N, K) float64, K as in `names`. HelpSteer's own 0-4 scale is reward * 5 - 0.5."""
        import torch

        same_length(prompts, responses)
        rows, opens = [], []
        for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            talk = [*messages_of(prompt), {"role": "assistant", "content": response}]
            ids = chat.encode_rendered(self.tokenizer, talk, self.bos)
            check_length(ids, self.model.config, number)
            rows.append(ids)
            opens.append(self._last_opening(ids, number))
        rewards = np.zeros((len(rows), len(self.names)))
        gate = np.zeros_like(rewards)
        for index in by_length([len(ids) for ids in rows], self.batch_size):
            ids, mask = pad([rows[i] for i in index], self.tokenizer.pad_token_id, "right", self.model.device)
            with torch.inference_mode():
                found = self.model(ids, mask, torch.tensor([opens[i] for i in index], device=ids.device),
                                   mask.sum(dim=1) - 1)
            rewards[index], gate[index] = (part.double().cpu().numpy() for part in found)
        if not (np.isfinite(rewards).all() and np.isfinite(gate).all()):
            raise KitError("the multi-objective reward model gave numbers that are not finite; its weights are damaged")
        return rewards, gate

    def _last_opening(self, ids: list[int], number: int) -> int:
        size = len(self.opens)
        for start in range(len(ids) - size, -1, -1):
            if ids[start:start + size] == self.opens:
                return start
        raise KitError(
            f"prompt {number} does not end a turn and open the assistant's as Llama-3 does ({_ANSWER_OPENS!r}), where the "
            "gate reads; keep the model's own chat template"
        )
