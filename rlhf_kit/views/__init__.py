"""Figures and tables of the lessons. Every figure is a function `draw_*` that returns a matplotlib Figure.

    from rlhf_kit.views import reward as draw
    draw.draw_accuracy(...)

`style` holds the colours and the empty figure, `tables` the text tables; the other modules go by subject;
`interactive` has the views to touch.
"""

from __future__ import annotations

from rlhf_kit.views.tables import clip, escape, show, show_html, table, tokens_html

__all__ = ["clip", "escape", "show", "show_html", "table", "tokens_html"]
