"""Measuring policies and reward models: numbers with intervals, ties counted half, prompts as clusters."""

from __future__ import annotations

from rlhf_kit.evaluation.over_optimisation import best_of_n_curve, best_of_n_mean, bon_kl_bound
from rlhf_kit.evaluation.ratings import bradley_terry
from rlhf_kit.evaluation.reward_bench import rewardbench_sections
from rlhf_kit.evaluation.reward_quality import (
    bayes_accuracy,
    diversity,
    expected_calibration_error,
    reliability_table,
    reward_accuracy,
    reward_length_correlation,
)
from rlhf_kit.evaluation.statistics import (
    Difference,
    Interval,
    cluster_interval,
    paired_difference,
    seeds_interval,
)
from rlhf_kit.evaluation.win_rates import (
    compare_policies,
    length_controlled_win_rate,
    win_rate,
    win_rate_of,
    win_rates_by_category,
)

__all__ = [
    "Difference", "Interval", "bayes_accuracy", "best_of_n_curve", "best_of_n_mean", "bon_kl_bound",
    "bradley_terry", "cluster_interval", "compare_policies", "diversity", "expected_calibration_error",
    "length_controlled_win_rate", "paired_difference", "reliability_table", "reward_accuracy",
    "reward_length_correlation", "rewardbench_sections", "seeds_interval", "win_rate", "win_rate_of",
    "win_rates_by_category",
]
