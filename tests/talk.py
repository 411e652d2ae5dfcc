"""Rows and turns that tests of reading and cleaning are made of."""

from __future__ import annotations


def pair(number, chosen="yes", rejected="no", **more):
    return {"prompt": f"question {number}?", "chosen": chosen, "rejected": rejected, **more}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}
