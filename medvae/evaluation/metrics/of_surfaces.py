"""Metrics of surfaces and slices at an operating point."""

from __future__ import annotations

import math

from medvae.evaluation.metrics.registry import Column, PointMetric, Table, register
from medvae.evaluation.summaries import mean_sd

register(
    PointMetric(
        name="false_alarm_slices",
        meaning="Share of the axial brain slices without a lesion, of all cases, with a flagged voxel.",
        higher_is_better=False,
        of_cases=lambda cases: (
            cases.slices.with_alarm / cases.slices.lesion_free if cases.slices.lesion_free else math.nan
        ),
        compared=False,
        tables={Table.THRESHOLDS: Column("slices with false alarm", percent=True)},
    )
)
register(
    PointMetric(
        name="false_area_mm2",
        meaning="Flagged area on an axial brain slice without a lesion, mean over all of them.",
        unit="mm²",
        higher_is_better=False,
        of_cases=lambda cases: (
            cases.slices.area_mm2 / cases.slices.lesion_free if cases.slices.lesion_free else math.nan
        ),
        compared=False,
    )
)
register(
    PointMetric(
        name="hd95_mm",
        meaning="95th percentile of the Hausdorff distance, mean over the lesion cases in which it exists.",
        unit="mm",
        higher_is_better=False,
        of_case=lambda case: case.distances.hd95_mm,
        of_cases=lambda cases: mean_sd(cases.each("hd95_mm")).mean,
        tables={Table.THRESHOLDS: Column("HD95 mm", digits=1)},
    )
)
register(
    PointMetric(
        name="assd_mm",
        meaning="Average symmetric surface distance, mean over the lesion cases in which it exists.",
        unit="mm",
        higher_is_better=False,
        of_case=lambda case: case.distances.assd_mm,
        of_cases=lambda cases: mean_sd(cases.each("assd_mm")).mean,
        tables={Table.THRESHOLDS: Column("ASSD mm", digits=1)},
    )
)
register(
    PointMetric(
        name="no_surface",
        meaning="Lesion cases without a surface distance: nothing was flagged, or there is no lesion.",
        unit="cases",
        higher_is_better=False,
        of_cases=lambda cases: sum(math.isnan(value) for value in cases.each("hd95_mm")),
        compared=False,
    )
)
