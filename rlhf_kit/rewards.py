"""Scorers with one face: `score(prompts, responses)` -> float32 (N,), higher is better, and a `name`.

prompts: one list of messages per response (or a row with "prompt"); responses: texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_kit import chat
from rlhf_kit.batching import by_length, pad
from rlhf_kit.checkpoints import released
from rlhf_kit.errors import KitError
from rlhf_kit.runs import derive_seed
from rlhf_kit.scoring import check_length, messages_of, same_length


class BradleyTerry:
    """A trained scalar reward model (arXiv 2405.07863 eq. 1): the raw logit at the end-of-turn token.

    path: folder of the model, a hub id, or a loaded (model, tokenizer).
    like: the hub id of the released model that `path` is a copy of. Released models (`released.find`) are asked as
        their authors do: the text is their own template's to its last character, and the last token is read.
    bos: for those, whether one BOS stands in front (default: as their scripts do).
    """

    def __init__(self, path, machine, name: str = "bt", batch_size: int = 128, *, like: str | None = None,
                 bos: bool | None = None):
        from rlhf_kit.models import load_reward_model

        known = _known(path, like, "reward")
        self.rendered = known is not None and known.kind == "reward"
        self.bos = bos if bos is not None else known is None or known.bos
        self.model, self.tokenizer = path if isinstance(path, tuple) else load_reward_model(path, machine)
        self.model.eval()
        self.name, self.batch_size = name, batch_size
        if self.tokenizer.pad_token_id is None or self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            raise KitError("the reward model's tokenizer needs a padding token of its own: with pad = eos "
                           "the score would be read one token too early")

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        """Rewards (N,) float32. KitError if a conversation is too long or does not end its last turn."""
        import torch

        same_length(prompts, responses)
        rows = []
        for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            talk = [*messages_of(prompt), {"role": "assistant", "content": response}]
            ids = self._encode(talk)
            if not self.rendered and ids[-1] != self.tokenizer.eos_token_id:
                raise KitError(f"response {number} does not end with the end-of-turn token, where the reward is read")
            check_length(ids, self.model.config, number)
            rows.append(ids)
        rewards = np.zeros(len(rows), dtype=np.float32)
        for index in by_length([len(ids) for ids in rows], self.batch_size):
            ids, mask = pad([rows[i] for i in index], self.tokenizer.pad_token_id, "right", self.model.device)
            with torch.inference_mode():
                # transformers reads the rightmost token that is not padding: the last one of the row.
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            rewards[index] = logits[:, 0].float().cpu().numpy()
        if not np.isfinite(rewards).all():
            raise KitError(f"the reward model gave {rewards[~np.isfinite(rewards)][0]} for response "
                           f"{int(np.flatnonzero(~np.isfinite(rewards))[0])}; its weights are damaged")
        return rewards

    def _encode(self, talk) -> list[int]:
        if self.rendered:
            return chat.encode_rendered(self.tokenizer, talk, self.bos)
        return chat.encode_conversation(self.tokenizer, talk)


class Pairwise:
    """The pairwise preference model (paper section 2.1): P(A) / (P(A) + P(B)) at the next token.

    path: folder, hub id, .gguf file, or a loaded (model, tokenizer). like, bos: as in `BradleyTerry`; the released model
    was trained and is asked without BOS.
    """

    def __init__(self, path, machine, name: str = "pairwise", batch_size: int = 64, *, like: str | None = None,
                 bos: bool | None = None):
        from rlhf_kit.models import load_judge

        known = _known(path, like, "pairwise")
        self.bos = bos if bos is not None else known is None or known.bos
        self.model, self.tokenizer = path if isinstance(path, tuple) else load_judge(path, machine)
        self.model.eval()
        self.name, self.batch_size = name, batch_size
        self.letters = chat.letter_ids(self.tokenizer)
        self.last_report: dict[str, float] = {}

    def preference(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """P(a over b), (N,) float64: the two orders averaged, so P(a over b) + P(b over a) = 1.

        `last_report` then holds "flip_rate" (share of pairs whose verdict follows the place), "first_place"
        (mean probability of the answer shown first) and "letter_mass" (mean P(A) + P(B) out of the whole
        vocabulary; far below 1 means that the model was not trained to answer with a letter).
        """
        first, second = self.both_orders(prompts, a, b)
        return (first + second) / 2

    def both_orders(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]):
        """P(a over b) with a shown as response A, and with a shown as response B: two (N,) float64 arrays."""
        same_length(prompts, a)
        same_length(prompts, b)
        shown_first, mass = self._probability_of_a(prompts, a, b)
        shown_second, mass_back = self._probability_of_a(prompts, b, a)
        self.last_report = {
            "flip_rate": flip_rate(shown_first, shown_second),
            "first_place": float(np.mean(np.concatenate([shown_first, shown_second]))),
            "letter_mass": float(np.mean(np.concatenate([mass, mass_back]))),
        }
        return shown_first, 1 - shown_second

    def tournament(self, prompt, texts: Sequence[str]) -> int:
        """Index of the winner of n texts by n-1 matches, the holder against the next (linear cost)."""
        if not len(texts):
            raise KitError("a tournament needs at least one response")
        best = 0
        for challenger in range(1, len(texts)):
            if self.preference([prompt], [texts[best]], [texts[challenger]])[0] < 0.5:
                best = challenger
        return best

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        """Mean P(this over another) among the responses to the same prompt, (N,) float32; a prompt's only
        response gets 0.5. Costs n(n-1) passes a prompt."""
        same_length(prompts, responses)
        groups: dict[str, list[int]] = {}
        for number, prompt in enumerate(prompts):
            groups.setdefault(repr(messages_of(prompt)), []).append(number)
        pairs = [(i, j) for group in groups.values() for k, i in enumerate(group) for j in group[k + 1:]]
        total, count = np.zeros(len(responses)), np.zeros(len(responses))
        if pairs:
            wins = self.preference([prompts[i] for i, _ in pairs], [responses[i] for i, _ in pairs],
                                   [responses[j] for _, j in pairs])
            for (i, j), win in zip(pairs, wins, strict=True):
                total[[i, j]] += win, 1 - win
                count[[i, j]] += 1
        return np.where(count > 0, total / np.maximum(count, 1), 0.5).astype(np.float32)

    def _probability_of_a(self, prompts, a, b):
        """(P(A) / (P(A) + P(B)), P(A) + P(B)) with a shown as A, b as B."""
        import torch

        rows = [chat.encode_prompt(self.tokenizer, chat.pair_messages(messages_of(prompt), x, y))
                for prompt, x, y in zip(prompts, a, b, strict=True)]
        if not self.bos:
            rows = [ids[1:] if ids[0] == self.tokenizer.bos_token_id else ids for ids in rows]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        probability, mass = np.zeros(len(rows)), np.zeros(len(rows))
        for number, ids in enumerate(rows):
            if limit is not None and len(ids) > limit:
                raise KitError(f"pair {number} has {len(ids)} tokens; the pairwise model takes {limit}")
        for index in by_length([len(ids) for ids in rows], self.batch_size):
            batch = [rows[i] for i in index]
            ids, attention = pad(batch, self.tokenizer.pad_token_id, "left", self.model.device)
            positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = self.model(input_ids=ids, attention_mask=attention, position_ids=positions,
                                    use_cache=False, logits_to_keep=1).logits[:, -1].float()
            letters = torch.log_softmax(logits, dim=-1)[:, list(self.letters)].double()
            probability[index] = torch.softmax(letters, dim=-1)[:, 0].cpu().numpy()
            mass[index] = letters.exp().sum(dim=-1).cpu().numpy()
        return probability, mass


class Gold:
    """The pocket world's true utility, 0 to 10."""

    name = "gold"

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        from rlhf_kit import world

        same_length(prompts, responses)
        gold = world.gold_utility([messages_of(p) for p in prompts], list(responses))
        return np.asarray(gold, dtype=np.float32)


class Random:
    """The control: a number in [0, 1) that depends on prompt, text and seed only."""

    def __init__(self, seed: int = 0, name: str = "random"):
        self.seed, self.name = seed, name

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        same_length(prompts, responses)
        draws = [derive_seed(self.seed, "random-reward", repr(messages_of(p)), text) / 2**31
                 for p, text in zip(prompts, responses, strict=True)]
        return np.array(draws, dtype=np.float32)


class Ensemble:
    """Mean (or minimum: a cautious reward) of several scorers.

    standardise: first centre and scale each on the given batch, since reward models share no scale.
    """

    def __init__(self, scorers: Sequence, combine: str = "mean", standardise: bool = False,
                 name: str = "ensemble"):
        if not scorers:
            raise KitError("an ensemble needs at least one scorer")
        if combine not in ("mean", "min"):
            raise KitError(f"unknown way to combine scorers {combine!r}; one of mean, min")
        self.scorers, self.combine, self.standardise, self.name = list(scorers), combine, standardise, name

    def score(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        table = self.all_scores(prompts, responses).astype(np.float64)
        if self.standardise:
            spread = table.std(axis=1, keepdims=True)
            table = (table - table.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
        return (table.mean(axis=0) if self.combine == "mean" else table.min(axis=0)).astype(np.float32)

    def all_scores(self, prompts: Sequence, responses: Sequence[str]) -> np.ndarray:
        """Each scorer's own rewards: (scorers, N) float32."""
        return np.stack([scorer.score(prompts, responses) for scorer in self.scorers])


def flip_rate(shown_first: np.ndarray, shown_second: np.ndarray) -> float:
    """Share of pairs whose verdict changes with the order of showing.

    Both arrays are the P(A) of a call, the second with the answers swapped: a judge that looks at the answers
    alone gives shown_second = 1 - shown_first.
    """
    a_wins, a_wins_swapped = np.asarray(shown_first) - 0.5, 0.5 - np.asarray(shown_second)
    return float(np.mean(np.sign(a_wins) * np.sign(a_wins_swapped) < 0))


def open_reward(path, machine, *, like: str | None = None):
    """The scorer for a reward model of whichever kind: `BradleyTerry`, or `MultiObjective` for ArmoRM's kind."""
    from rlhf_kit.models import is_multi_objective

    if isinstance(path, tuple) or not is_multi_objective(path):
        return BradleyTerry(path, machine, like=like)
    from rlhf_kit.checkpoints.multi_objective import MultiObjective

    return MultiObjective(path, machine)


def _known(path, like: str | None, kind: str):
    """The released checkpoint to ask like, or None. KitError when `like` is none or of another kind."""
    known = released.find(like or path)
    if like is not None and known is None:
        names = ", ".join(row["id"] for row in released.rows(kind))
        raise KitError(f"like={like!r} is no released model that the kit knows; one of {names}")
    if known is not None and known.kind not in (kind, "gguf", "base"):
        hint = {"reward": "rewards.BradleyTerry", "pairwise": "rewards.Pairwise",
                "multi-objective": "rewards.open_reward"}.get(known.kind, "models.load_policy")
        raise KitError(f"{like or path} is a {known.kind} model; open it with {hint}")
    return known
