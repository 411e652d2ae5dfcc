"""Measuring policies and reward models: numbers with intervals, ties counted half, prompts as clusters.

statistics          standard errors, intervals over prompts and over seeds, paired differences
win_rates           win rates, per category, paired, at equal length
alpaca_eval         AlpacaEval 2's own fit, the difficulty of prompts
judges              gold, reward models, the pairwise model, rules behind one face; what is wrong with a judge
planted             a judge whose faults are known: the annotator's dials
endpoint_judge      any OpenAI-compatible server as a judge
ratings             Bradley-Terry and Elo; arena_hard: the score with style control
reward_bench        RewardBench v1's averages; benches: the public sets, RM-Bench and the pocket world's bench
reward_quality      accuracy, calibration and taste for length of a reward model
over_optimisation   best-of-n; hacking: KL, what was sold for the reward, where the peak was
skills              lm-eval before and after; exporters, importers: official benchmarks there and back
tally               rows of answers and verdicts, picked and summed up for a report
own_labels          somebody's own labels beside other judges, and a small model fitted to them

`benches`, `endpoint_judge`, `exporters`, `importers` and `skills` are imported by name: they reach for files, models or servers.
So is `tally`.
"""

from __future__ import annotations

from rlhf_kit.evaluation.alpaca_eval import alpaca_eval_win_rate, estimate_difficulty, extreme_change
from rlhf_kit.evaluation.arena_hard import arena_hard_scores, style_of
from rlhf_kit.evaluation.hacking import (
    best_of_n_peak,
    hacking_report,
    parts_by_section,
    sampled_kl,
)
from rlhf_kit.evaluation.judges import (
    PairwiseJudge,
    RuleJudge,
    ScalarJudge,
    Verdicts,
    agreement,
    judge_policies,
    length_bias,
    longer,
    position_bias,
    shorter,
)
from rlhf_kit.evaluation.over_optimisation import best_of_n_curve, best_of_n_mean, bon_kl_bound
from rlhf_kit.evaluation.planted import AnnotatorJudge
from rlhf_kit.evaluation.ratings import bradley_terry, bradley_terry_intervals, elo
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
    mean_interval,
    paired_difference,
    share_interval,
    share_of,
    standard_error,
    without_means,
)
from rlhf_kit.evaluation.win_rates import (
    compare_policies,
    length_controlled_win_rate,
    win_rate,
    win_rate_of,
    win_rates_by_category,
)

__all__ = [
    "AnnotatorJudge", "Difference", "Interval", "PairwiseJudge", "RuleJudge", "ScalarJudge", "Verdicts", "agreement",
    "alpaca_eval_win_rate", "arena_hard_scores", "bayes_accuracy", "best_of_n_curve", "best_of_n_mean",
    "best_of_n_peak", "bon_kl_bound", "bradley_terry", "bradley_terry_intervals", "cluster_interval",
    "compare_policies", "diversity", "elo", "estimate_difficulty", "expected_calibration_error", "extreme_change",
    "hacking_report", "judge_policies", "length_bias", "length_controlled_win_rate", "longer",
    "mean_interval", "paired_difference", "parts_by_section", "position_bias", "reliability_table", "reward_accuracy",
    "reward_length_correlation", "rewardbench_sections", "sampled_kl", "share_interval", "share_of", "shorter",
    "standard_error", "style_of", "win_rate", "win_rate_of", "win_rates_by_category", "without_means",
]
