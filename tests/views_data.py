"""Tiny inputs for the views to touch: for their tests, and for the notebook that the browser test opens."""

from __future__ import annotations

import math

import numpy as np

from rlhf_kit.views import interactive as live

HOSTILE = '<script>alert("x")</script> | **bold** $x$ <img src=x onerror=alert(1)>'


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def answers(n: int = 4) -> list[dict]:
    return [
        {
            "text": f"answer {i} {HOSTILE}",
            "reward": [0.5, -1.25, 2.0, 0.0, 1.0][i],
            "gold": [5.0, 6.0, 3.0, 1.0, 2.0][i],
        }
        for i in range(n)
    ]


def pair_rows(n: int = 12, known: bool = True) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        row = {
            "prompt_id": str(i),
            "prompt": asked(f"question {i} {HOSTILE}"),
            "chosen": f"chosen {i} " + "x" * int(rng.integers(30)),
            "rejected": f"rejected {i} " + "y" * int(rng.integers(30)),
            "chosen_reward": float(i),
            "rejected_reward": float(i) / 2 - 0.5,
            "category": ("chat", "safety")[i % 2],
        }
        rows.append(row | ({"chosen_gold": float(i % 3), "rejected_gold": 1.0} if known else {}))
    return rows


def histories() -> dict:
    step = lambda s, c, r: {"step": s, "rewards/chosen": c, "rewards/rejected": r, "loss": 0.6}  # noqa: E731
    return {
        "mine": [step(i, -0.05 * i, -0.2 * i) for i in range(8)] + [{"step": 8, "note": 1}],
        "other": [step(i, 0.1 * i, 0.0) for i in range(4)],
    }


def mass_rows(hostile: str = "") -> list[dict]:
    rows = []
    for k in range(2):
        told = [
            ("chosen", [-2.0, -2.5, -3.0]),
            ("rejected", [-2.0, -4.0, -6.0]),
            ("other of SFT", [-3.0, -2.8, -2.6]),
            ("new", [-4.0, -2.0, -1.0]),
        ]
        for role, logps in told:
            rows.append(
                {
                    "prompt_id": str(k),
                    "prompt": asked(f"{k} {hostile}"),
                    "text": f"{role} {hostile}",
                    "role": role,
                    "logps": [lp + 0.1 * k * t for t, lp in enumerate(logps)],
                    "reward": 1.0,
                    "gold": 5.0,
                }
            )
    return rows


def best_rows(known: bool = True) -> list[dict]:
    rng = np.random.default_rng(1)
    return [
        {
            "prompt_id": str(p),
            "reward": float(rng.normal()),
            "gold": float(rng.uniform(0, 10)) if known else None,
            "length": int(rng.integers(20, 90)),
        }
        for p in range(6)
        for _ in range(8)
    ]


MEANS = [
    {"arm": "sft", "iteration": 0, "kl": 0.0, "reward": 0.2, "gold": 4.0, "length": 70.0},
    *(
        {"arm": arm, "iteration": t, "kl": 0.5 * t, "reward": 0.2 + t, "gold": gold[t], "length": 70.0 + t}
        for arm, gold in (("online", [4, 5, 6]), ("offline", [4, 5.5, 5]))
        for t in (1, 2)
    ),
]


def evaluation_rows(n: int = 40) -> list[dict]:
    rng = np.random.default_rng(2)
    rows = []
    for name, lift in (("sft", 0.0), ("online-1", 1.0)):
        for t in (1.0, 0.0):
            for i in range(n):
                rows.append(
                    {
                        "policy": name,
                        "temperature": t,
                        "prompt_id": str(i),
                        "sample": 0,
                        "reward": float(rng.normal() + lift),
                        "gold": float(np.round(rng.normal() + lift)),
                        "length": int(rng.integers(40, 90) + 5 * lift),
                        "text": "t",
                        "category": "chat",
                    }
                )
    return rows


def score(prompts, texts):
    """A reward that likes length and the word nice, and is not a number of anything real."""
    return np.array([0.02 * len(text) + text.count("nice") for text in texts], dtype=np.float32)


class Truth:
    def __init__(self, text: str):
        self.parts = {"brief": 1 / (1 + len(text) / 50), "honest": float("lie" not in text)}
        self.utility = 10 * math.prod(self.parts.values())


class Scorer:
    """Something with a score, as the kit's scorers."""

    score = staticmethod(score)


def truth(prompt, text):
    return Truth(text)


def judge_pairs(n: int = 12, known: bool = True) -> list[dict]:
    rows = []
    for i in range(n):
        row = {
            "prompt_id": str(i),
            "pair": f"p{i}",
            "prompt": asked(f"Tell of animal number{i} {HOSTILE}"),
            "chosen": f"The animal number{i} sat. {'It sat. ' * (i % 3)}",
            "rejected": f"Sorry, I will not {'help ' * (i % 4)}",
            "kept": i,
        }
        rows.append(
            row
            | (
                {"chosen_gold": 5.0 + i, "rejected_gold": 8.0, "chosen_reward": 1.0, "rejected_reward": 0.0}
                if known
                else {}
            )
        )
    return rows


CHAT = [
    {
        "prompt": asked(f"hello {HOSTILE}"),
        "answers": {
            n: {"text": f"{n} {HOSTILE}", "reward": r, "gold": 2 * r}
            for n, r in (("SFT", 1.0), ("online", 2.0))
        },
    },
    {
        "prompt": asked("second"),
        "answers": {n: {"text": n, "reward": r, "gold": r} for n, r in (("SFT", 4.0), ("online", -3.0))},
    },
]


def views(folder) -> dict:
    return {
        "judge": lambda i: live.be_the_judge(judge_pairs(), folder / "my_labels.jsonl", n=8, interactive=i),
        "bench": lambda i: live.bradley_terry_bench(answers(), interactive=i),
        "microscope": lambda i: live.reward_microscope(
            [
                {"prompt": asked("q " + HOSTILE), "text": f"One. Two nice. {HOSTILE}"},
                {"prompt": asked("r"), "text": "Three. A lie."},
            ],
            score,
            gold=truth,
            interactive=i,
        ),
        "force field": lambda i: live.dpo_force_field(
            histories(), 0.1, pairs=([0.1, -0.3], [0.2, -1.0]), interactive=i
        ),
        "mass": lambda i: live.where_did_the_mass_go(mass_rows(HOSTILE), interactive=i),
        "pairs": lambda i: live.pair_browser(pair_rows(), interactive=i),
        "goodhart": lambda i: live.goodhart_dial(best_rows(), recorded=MEANS, interactive=i),
        "verdict": lambda i: live.is_it_really_better(
            evaluation_rows(), "online-1", seeds=[0.5, 0.9, 0.1], interactive=i
        ),
        "chat": lambda i: live.chat_side_by_side(
            {"SFT": "a", "online": "b"}, Scorer, CHAT, None, max_new_tokens=4, interactive=i
        ),
    }
