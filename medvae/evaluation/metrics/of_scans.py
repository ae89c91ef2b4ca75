"""Case-level metrics: how well one score per scan separates lesion scans from healthy ones."""

from __future__ import annotations

from medvae.evaluation.case_level import SCORES
from medvae.evaluation.metrics.registry import CaseMetric, Column, ScanMetric, Table, register

LEADING_SCORE = "p99"
"""The scan-level score that leaderboards show."""

register(
    CaseMetric(
        name="score",
        meaning="Mean, 99th percentile and maximum of the map in the brain.",
        unit="of the map",
        parts=SCORES,
        summarised=False,
    )
)
register(
    ScanMetric(
        name="case_auroc",
        key="auroc",
        meaning="Area under the ROC curve of lesion scans against healthy ones.",
        higher_is_better=True,
        parts=SCORES,
        tables={Table.SCANS: Column("AUROC"), Table.LEADERBOARD: Column("AUROC of scans")},
    )
)
register(
    ScanMetric(
        name="case_ap",
        key="ap",
        meaning="Average precision of the same, the sample-level number of the MOOD challenge.",
        higher_is_better=True,
        parts=SCORES,
        tables={Table.SCANS: Column("AP")},
    )
)
