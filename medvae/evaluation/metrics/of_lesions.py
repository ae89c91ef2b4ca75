"""Metrics of lesions and findings at an operating point, and those of BraTS 2023, lesion by lesion."""

from __future__ import annotations

from medvae.evaluation.metrics.registry import Column, PointMetric, RegionMetric, Table, register

register(
    PointMetric(
        name="false_positives",
        meaning="Findings that lie on no lesion.",
        unit="findings",
        higher_is_better=False,
        of_case=lambda case: case.lesions.false_positives,
        in_healthy=True,
    )
)
register(
    PointMetric(
        name="lesions",
        meaning="True lesions.",
        unit="lesions",
        of_case=lambda case: case.lesions.lesions,
        of_cases=lambda cases: cases.lesions.lesions,
        compared=False,
    )
)
register(
    PointMetric(
        name="lesions_found",
        meaning="True lesions that are found.",
        unit="lesions",
        higher_is_better=True,
        of_case=lambda case: case.lesions.lesions_found,
    )
)
register(
    PointMetric(
        name="lesion_sensitivity",
        meaning="Share of the lesions that are found.",
        higher_is_better=True,
        of_case=lambda case: case.lesions.lesion_sensitivity,
        of_cases=lambda cases: cases.lesions.lesion_sensitivity,
        tables={
            Table.THRESHOLDS: Column("lesions found", percent=True),
            Table.LEADERBOARD_THRESHOLDS: Column("lesions found", place=3),
        },
    )
)
register(
    PointMetric(
        name="lesion_precision",
        meaning="Share of the findings that lie on a lesion.",
        higher_is_better=True,
        of_case=lambda case: case.lesions.lesion_precision,
        of_cases=lambda cases: cases.lesions.lesion_precision,
    )
)
register(
    PointMetric(
        name="lesion_f1",
        meaning="Harmonic mean of the shares of lesions found and of findings on a lesion; 0 where nothing is flagged.",
        higher_is_better=True,
        of_case=lambda case: case.lesions.lesion_f1,
        of_cases=lambda cases: cases.lesions.lesion_f1,
        tables={Table.THRESHOLDS: Column("lesion F1"), Table.LEADERBOARD_THRESHOLDS: Column("lesion F1", place=2)},
    )
)
register(
    PointMetric(
        name="false_positives_per_scan",
        meaning="Findings that lie on no lesion, in a scan with a lesion label.",
        unit="findings",
        higher_is_better=False,
        of_cases=lambda cases: cases.lesions.false_positives_per_scan,
        tables={Table.THRESHOLDS: Column("false findings per scan", digits=1)},
    )
)
register(
    PointMetric(
        name="false_positives_per_healthy_scan",
        meaning="Findings in a healthy scan.",
        unit="findings",
        higher_is_better=False,
        of_cases=lambda cases: cases.healthy_lesions.false_positives_per_scan,
        tables={Table.THRESHOLDS: Column("in a healthy scan", digits=1)},
    )
)

# BraTS 2023

register(
    RegionMetric(
        name="brats_dice",
        key="dice",
        meaning="Lesion-wise Dice of the region, mean over cases.",
        higher_is_better=True,
        of_case=lambda found: found.dice,
        mean=True,
        tables={Table.REGIONS: Column("lesion-wise Dice")},
    )
)
register(
    RegionMetric(
        name="brats_hd95_mm",
        key="hd95_mm",
        meaning="Lesion-wise 95th percentile of the Hausdorff distance, mean over cases.",
        unit="mm",
        higher_is_better=False,
        of_case=lambda found: found.hd95_mm,
        mean=True,
        tables={Table.REGIONS: Column("lesion-wise HD95 mm", digits=1, interval=False)},
    )
)
register(
    RegionMetric(
        name="brats_lesions",
        key="lesions",
        meaning="Lesions of the region that count.",
        unit="lesions",
        of_case=lambda found: found.lesions,
        mean=False,
        tables={Table.REGIONS: Column("lesions", digits=0)},
    )
)
register(
    RegionMetric(
        name="brats_missed",
        key="missed",
        meaning="Lesions of the region that are missed.",
        unit="lesions",
        higher_is_better=False,
        of_case=lambda found: found.missed,
        mean=False,
        tables={Table.REGIONS: Column("missed", digits=0)},
    )
)
register(
    RegionMetric(
        name="brats_false",
        key="false",
        meaning="Flagged components that belong to no lesion.",
        unit="components",
        higher_is_better=False,
        of_case=lambda found: found.false,
        mean=False,
        tables={Table.REGIONS: Column("false", digits=0)},
    )
)
