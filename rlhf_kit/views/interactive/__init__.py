"""Views to touch: each shows your own run, static for a well-chosen setting, and live with controls.

    from rlhf_kit.views.interactive import goodhart_dial
    goodhart_dial(best_of_n_rows, interactive=INTERACTIVE)

Every view is one function with `interactive`: False (headless runs, pages) shows one picture and its words; True shows
the same picture above standard controls. `panel`, `markup` and `controls` hold what they share; each other module is one view. Nothing is
trained in a view; texts of models and people are escaped wherever they are shown.
"""

from __future__ import annotations

from rlhf_kit.views.interactive.bench import bradley_terry_bench
from rlhf_kit.views.interactive.chat import chat_side_by_side, recorded_answers
from rlhf_kit.views.interactive.force_field import dpo_force_field
from rlhf_kit.views.interactive.goodhart import goodhart_dial
from rlhf_kit.views.interactive.judge import be_the_judge
from rlhf_kit.views.interactive.judge_result import judged_pairs
from rlhf_kit.views.interactive.mass import where_did_the_mass_go
from rlhf_kit.views.interactive.microscope import reward_microscope
from rlhf_kit.views.interactive.pairs import pair_browser
from rlhf_kit.views.interactive.recorded import recorded_seeds
from rlhf_kit.views.interactive.verdict import is_it_really_better

__all__ = [
    "be_the_judge", "bradley_terry_bench", "chat_side_by_side", "dpo_force_field", "goodhart_dial",
    "is_it_really_better", "judged_pairs", "pair_browser", "recorded_answers", "recorded_seeds", "reward_microscope", "where_did_the_mass_go",
]  # fmt: skip
