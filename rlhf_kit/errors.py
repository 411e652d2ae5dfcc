"""The one exception a user of the kit is meant to read."""

from __future__ import annotations


class KitError(ValueError):
    """One clear sentence: which file, row, field or parameter is wrong, and what to do about it."""
