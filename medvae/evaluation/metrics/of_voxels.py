"""Case and voxel counts, and voxel metrics: of the scores, and of the voxels flagged at an operating point."""

from __future__ import annotations

import math

import numpy as np

from medvae.evaluation.metrics.registry import (
    CaseMetric,
    CohortMetric,
    Column,
    OfSums,
    PointMetric,
    Table,
    VoxelMetric,
    register,
)


def voxel_dice(hits: float, flagged: float, lesion: float) -> float:
    """Dice from counts; 1 if both are empty: no lesion and nothing flagged."""
    return 2 * hits / (flagged + lesion) if flagged + lesion else 1.0


register(CohortMetric(name="n_cases", meaning="Cases with a lesion label.", unit="cases"))
register(CohortMetric(name="n_healthy", meaning="Healthy cases.", unit="cases"))
register(CohortMetric(name="n_missing", meaning="Cases without a map.", unit="cases"))
register(CohortMetric(name="n_subjects", meaning="People with a lesion label.", unit="people"))
register(CohortMetric(name="n_healthy_subjects", meaning="Healthy people.", unit="people"))
register(CaseMetric(name="voxels", meaning="Voxels of the case that count.", unit="voxels", summarised=False))
register(
    VoxelMetric(
        name="ap",
        meaning="Average precision; compare it with the prevalence, the AP of a random score.",
        higher_is_better=True,
        of_pool=lambda summary: summary.ap,
        of_case=lambda summary, _: summary.ap,
        compared=True,
        tables={
            Table.METHODS: Column("AP"),
            Table.DIFFERENCES: Column("AP"),
            Table.REPORT_CASES: Column("AP", place=101),
            Table.CASE_PAGE: Column("AP", place=1),
            Table.LEADERBOARD: Column("AP"),
            Table.LEADERBOARD_DIFFERENCES: Column("AP"),
        },
    )
)
register(
    VoxelMetric(
        name="prevalence",
        meaning="Share of lesion voxels among the pooled ones.",
        of_pool=lambda summary: summary.prevalence,
        tables={Table.METHODS: Column("prevalence")},
    )
)
register(
    VoxelMetric(
        name="auroc",
        meaning="Area under the ROC curve; ties count half.",
        higher_is_better=True,
        of_pool=lambda summary: summary.auroc,
        of_case=lambda summary, _: summary.auroc,
        compared=True,
        tables={
            Table.METHODS: Column("AUROC"),
            Table.DIFFERENCES: Column("AUROC"),
            Table.CASE_PAGE: Column("AUROC", place=2),
            Table.LEADERBOARD: Column("AUROC"),
        },
    )
)
register(
    VoxelMetric(
        name="oracle_dice",
        meaning="⌈Dice⌉: the largest Dice over all thresholds, which needs the truth.",
        higher_is_better=True,
        of_pool=lambda summary: summary.oracle_dice,
        of_case=lambda summary, _: summary.oracle_dice,
        compared=True,
        tables={
            Table.METHODS: Column("⌈Dice⌉ oracle"),
            Table.DIFFERENCES: Column("⌈Dice⌉ oracle"),
            Table.CASE_PAGE: Column("⌈Dice⌉, oracle"),
            Table.LEADERBOARD: Column("⌈Dice⌉ oracle"),
            Table.LEADERBOARD_DIFFERENCES: Column("⌈Dice⌉ oracle"),
        },
    )
)
register(
    VoxelMetric(
        name="oracle_threshold",
        meaning="A threshold that reaches ⌈Dice⌉.",
        unit="of the map",
        of_pool=lambda summary: summary.oracle_threshold,
    )
)
register(
    VoxelMetric(
        name="fpr_at_95_tpr",
        meaning="The smallest false-positive rate of a threshold that finds 95 % of the lesion voxels or more.",
        higher_is_better=False,
        of_pool=lambda summary: summary.fpr_at_95_tpr,
        of_case=lambda summary, _: summary.fpr_at_95_tpr,
        compared=True,
    )
)
register(
    VoxelMetric(
        name="n_voxels",
        meaning="Voxels that are pooled.",
        unit="voxels",
        of_pool=lambda summary: summary.n_lesion + summary.n_healthy,
    )
)
register(
    VoxelMetric(
        name="lesion_voxels",
        meaning="Lesion voxels of the case that count.",
        unit="voxels",
        of_case=lambda summary, _: summary.n_lesion,
        summarised=False,
    )
)
register(
    VoxelMetric(
        name="lesion_ml",
        meaning="Volume of the lesion voxels that count.",
        unit="ml",
        of_case=lambda summary, voxel_ml: summary.n_lesion * voxel_ml,
        tables={
            Table.REPORT_CASES: Column("lesion, ml", digits=2),
            Table.CASE_PAGE: Column("Lesion", digits=2, after=" ml in the brain", place=0),
        },
    )
)
register(
    VoxelMetric(
        name="auprc_trapezoid",
        meaning="Area under the precision-recall curve by trapezoids, where the protocol asks for it.",
        higher_is_better=True,
    )
)
register(
    VoxelMetric(
        name="oracle_dice_components",
        meaning="Dice at the threshold of ⌈Dice⌉ without small components, where the protocol asks for it.",
        higher_is_better=True,
        tables={Table.METHODS: Column("⌈Dice⌉ without small components")},
    )
)

# At an operating point

register(
    PointMetric(
        name="asked_fpr",
        meaning="The false-positive rate that was asked for on healthy validation scans.",
        compared=False,
    )
)
register(PointMetric(name="threshold", meaning="Voxels above it are flagged.", unit="of the map", compared=False))
register(
    PointMetric(
        name="flagged",
        meaning="Flagged voxels.",
        unit="voxels",
        of_case=lambda case: case.n_flagged,
        in_healthy=True,
        summarised=False,
    )
)
register(
    PointMetric(
        name="true",
        meaning="Flagged voxels that are lesion.",
        unit="voxels",
        of_case=lambda case: case.n_true,
        in_healthy=True,
        summarised=False,
    )
)
register(
    PointMetric(
        name="dice",
        meaning="Dice of each lesion case, and of all of them pooled.",
        higher_is_better=True,
        of_case=lambda case: voxel_dice(case.n_true, case.n_flagged, case.n_lesion),
        of_cases=lambda cases: (
            voxel_dice(cases.total("true"), cases.total("flagged"), cases.lesion_voxels) if cases.ill else math.nan
        ),
        of_sums=OfSums(
            ("true", "flagged", "lesion_voxels"), lambda true, flagged, lesion: 2 * true / (flagged + lesion)
        ),
        tables={
            Table.METHODS: Column("Dice"),
            Table.REPORT_CASES: Column("Dice of the mask", place=102),
            Table.CASE_PAGE: Column("Dice of the mask", place=3),
            Table.LEADERBOARD: Column("Dice"),
            Table.LEADERBOARD_THRESHOLDS: Column("Dice", place=0),
            Table.LEADERBOARD_DIFFERENCES: Column("Dice"),
        },
    )
)
register(
    PointMetric(
        name="mean_dice",
        meaning="Mean Dice of the lesion cases.",
        higher_is_better=True,
        of_cases=lambda cases: float(np.mean(cases.each("dice"))) if cases.ill else math.nan,
        tables={Table.THRESHOLDS: Column("Dice, mean of cases")},
    )
)
register(
    PointMetric(
        name="sensitivity",
        meaning="Share of the lesion voxels that are flagged, pooled.",
        higher_is_better=True,
        of_cases=lambda cases: cases.total("true") / cases.lesion_voxels if cases.lesion_voxels else math.nan,
        of_sums=OfSums(("true", "lesion_voxels"), lambda true, lesion: true / lesion),
        tables={Table.LEADERBOARD_THRESHOLDS: Column("sensitivity", place=1)},
    )
)
register(
    PointMetric(
        name="precision",
        meaning="Share of the flagged voxels that are lesion, pooled over lesion cases.",
        higher_is_better=True,
        of_cases=lambda cases: cases.total("true") / cases.total("flagged") if cases.total("flagged") else math.nan,
    )
)
register(
    PointMetric(
        name="fpr",
        meaning="Realised false-positive rate: share of the brain voxels of healthy cases that are flagged.",
        of_cases=lambda cases: (
            sum(case.numbers["flagged"] for case in cases.well) / sum(case.voxels for case in cases.well)
            if cases.well
            else math.nan
        ),
        of_sums=OfSums(("flagged", "voxels"), lambda flagged, voxels: flagged / voxels, healthy=True),
        tables={
            Table.METHODS: Column("realised FPR", percent=True, interval=False),
            Table.LEADERBOARD_THRESHOLDS: Column("realised FPR", digits=4, place=4),
        },
    )
)
