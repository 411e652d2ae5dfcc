"""What lesson 06 says of its pairs beside the figures of `policy`: margins alone, wrong labels by section, lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import style


def draw_margins(margins: Sequence[float]) -> Figure:
    """Histogram of the pairs' margins: all that can be drawn where no truth is known."""
    fig, (ax,) = style.figure(width=6.4, height=3.4)
    ax.hist(margins, bins=30, color=style.BLUE)
    style.label(ax, "Margins of the pairs", "reward(chosen) - reward(rejected)", "pairs")
    return fig


def wrong_by_section(
    wrong: Sequence[float], rows: Sequence[Mapping], section_of: Mapping[str, str]
) -> list[dict]:
    """Rows for `draw_wrong_by_section`: {category, wrong, low, high, n}, in the order of the sections in `section_of`.

    wrong: 1, 0 or 1/2 a row. section_of: prompt_id -> section.
    """
    found = []
    for name in dict.fromkeys(section_of.values()):
        mine = [value for value, row in zip(wrong, rows, strict=True) if section_of[row["prompt_id"]] == name]
        if mine:
            mean, low, high = cluster_interval(mine, n_resamples=300)
            found.append({"category": name, "wrong": mean, "low": low, "high": high, "n": len(mine)})
    return found


def say_lengths(row: Mapping) -> str:
    """One sentence on a row of `draw_penalty_sweep`: by how much chosen answers are longer or shorter than rejected ones."""
    gap = row["chosen"] - row["rejected"]
    way = "longer" if gap > 0 else "shorter"
    return f"at {row['penalty']:.3f} per character, chosen answers are {abs(gap):.1f} characters {way} on average than rejected ones"
