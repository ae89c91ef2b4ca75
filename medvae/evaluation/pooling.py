"""Numbers of many cases together: pooled over voxels, lesions and scans, with intervals over subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from medvae.evaluation.bootstrap import Interval, SubjectCurves, curve_intervals, sum_interval
from medvae.evaluation.case import CaseResult, voxel_dice
from medvae.evaluation.case_level import SCORES, case_level, ranked_scans
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.maps import CaseVoxels
from medvae.evaluation.points import Point, mean_sd
from medvae.evaluation.protocols import Protocol, best_threshold, trapezoid_area, without_small


def pooled_numbers(
    ill: Sequence[CaseResult],
    well: Sequence[CaseResult],
    missing: Sequence[str],
    pool: Sequence[CaseResult],
) -> dict[str, float]:
    """Numbers of cases, and the curve numbers over the voxels of ``pool``."""
    pooled: dict[str, float] = {
        "n_cases": len(ill), "n_healthy": len(well), "n_missing": len(missing),
        "n_subjects": len(subjects(ill)), "n_healthy_subjects": len(subjects(well)),
    }  # fmt: skip
    if ill:
        summary = SparseCounts.merged([case.counts for case in pool]).summary()
        pooled |= {
            "ap": summary.ap, "prevalence": summary.prevalence, "auroc": summary.auroc,
            "oracle_dice": summary.oracle_dice, "oracle_threshold": summary.oracle_threshold,
            "fpr_at_95_tpr": summary.fpr_at_95_tpr, "n_voxels": summary.n_lesion + summary.n_healthy,
        }  # fmt: skip
    return pooled


def protocol_numbers(
    rules: Protocol, pool: Sequence[CaseResult], read: Callable[[str], CaseVoxels]
) -> dict[str, float]:
    """The pooled numbers that only some protocols have; cases are read again, by id, to look for small components."""
    counts, found = SparseCounts.merged([case.counts for case in pool]), {}
    if rules.trapezoid:
        found["auprc_trapezoid"] = trapezoid_area(counts)
    if rules.smallest_component:
        found["oracle_dice"], found["oracle_threshold"] = best_threshold(counts, rules.dice_steps)
        hits = flagged = lesion = 0
        for case in pool:
            voxels = read(case.row["id"])
            above = (voxels.scores > found["oracle_threshold"]) & voxels.brain
            kept = without_small(above, rules.smallest_component)
            hits, flagged = hits + int((kept & voxels.truth).sum()), flagged + int(kept.sum())
            lesion += int(voxels.truth.sum())
        found["oracle_dice_components"] = voxel_dice(hits, flagged, lesion)
    return found


def brats_numbers(
    ill: Sequence[CaseResult], points: Sequence[Point], resamples: int
) -> tuple[list[dict[str, Any]], dict[str, Interval]]:
    """Lesion-wise numbers as means over cases, and intervals of the two that are scores."""
    rows, intervals = [], {}
    keys = [key for key in (ill[0].row if ill else ()) if key.startswith("brats_dice_")]
    for point in points:
        for key in (key for key in keys if key.endswith(f"_{point.name}")):
            name = key.removeprefix("brats_dice_")
            row: dict[str, Any] = {"region": name.removesuffix(f"_{point.name}"), "point": point.name}
            for what in ("dice", "hd95_mm"):
                sums = _subject_sums(ill, [f"brats_{what}_{name}"], count=True)
                intervals[f"brats_{what}_{name}"] = sum_interval(
                    sums, lambda s, n=f"brats_{what}_{name}": s[n] / s["cases"], resamples=resamples
                )
                row[what] = intervals[f"brats_{what}_{name}"].value
            rows.append(row | {w: sum(c.row[f"brats_{w}_{name}"] for c in ill) for w in ("lesions", "missed", "false")})
    return rows, intervals


def pooled_intervals(
    ill: Sequence[CaseResult],
    well: Sequence[CaseResult],
    points: Sequence[Point],
    resamples: int,
    pool: Sequence[CaseResult],
) -> dict[str, Interval]:
    """Intervals over subjects of the curve numbers of ``pool``, and of what each threshold flags."""
    found: dict[str, Interval] = {}
    if ill and sum(int(case.counts.lesion.sum()) for case in ill):
        counts = [(case.row["subject"], case.counts) for case in pool]
        found |= curve_intervals(SubjectCurves.of(counts), resamples=resamples)
    for name in (point.name for point in points):
        if ill:
            sums = _subject_sums(ill, [f"true_{name}", f"flagged_{name}", "lesion_voxels"])
            found[f"dice_{name}"] = sum_interval(
                sums,
                lambda s, n=name: 2 * s[f"true_{n}"] / (s[f"flagged_{n}"] + s["lesion_voxels"]),
                resamples=resamples,
            )
            found[f"sensitivity_{name}"] = sum_interval(
                sums, lambda s, n=name: s[f"true_{n}"] / s["lesion_voxels"], resamples=resamples
            )
        if well:
            found[f"fpr_{name}"] = sum_interval(
                _subject_sums(well, [f"flagged_{name}", "voxels"]),
                lambda s, n=name: s[f"flagged_{n}"] / s["voxels"],
                resamples=resamples,
            )
    return found


def per_case_summary(ill: Sequence[CaseResult]) -> dict[str, dict[str, float]]:
    """Mean, SD and number of each number over the lesion cases in which it exists."""
    rows = [case.row for case in ill]
    left_out = ("voxels", "flagged_", "true_", "lesion_voxels", "score_", "missing", "healthy")
    names = [
        name for name in (rows[0] if rows else {}) if not name.startswith(left_out) and name not in ("id", "subject")
    ]
    return {name: mean_sd([row[name] for row in rows]) for name in names}


def scan_numbers(results: Sequence[CaseResult], resamples: int) -> dict[str, Any]:
    """Lesion scans against healthy scans; see `case_level`."""
    rows = ranked_scans([case.row for case in results])
    scores = {name: [row[f"score_{name}"] for row in rows] for name in SCORES}
    return case_level(
        [row["subject"] for row in rows], [not row["healthy"] for row in rows], scores, resamples=resamples
    )


def all_voxel_numbers(results: Sequence[CaseResult]) -> dict[str, float]:
    """AP and AUROC over the voxels of all cases, healthy ones too."""
    summary = asdict(SparseCounts.merged([case.counts for case in results]).summary())
    return {key: summary[key] for key in ("ap", "auroc", "n_lesion", "n_healthy")}


def _subject_sums(cases: Sequence[CaseResult], names: Sequence[str], *, count: bool = False) -> list[dict[str, float]]:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys([*names, *["cases"] * count], 0.0))
    for case in cases:
        if count:
            sums[case.row["subject"]]["cases"] += 1
        for name in names:
            sums[case.row["subject"]][name] += case.row[name]
    return list(sums.values())


def subjects(cases: Sequence[CaseResult]) -> set[str]:
    """Who the cases are of."""
    return {case.row["subject"] for case in cases}
