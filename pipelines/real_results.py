"""The tables of real_scans.py, and the log of how often one has looked at the cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from real_cases import APART, GROUPS, HEALTHY, LESIONS, Scans

from medvae.detection.base import Calibrated
from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.metrics import Column
from medvae.evaluation.writing import plain
from medvae.files import write_text
from medvae.reporting.tables import ABSENT, cell

RATES = (0.001, 0.01, 0.05)
COUNTS = {"scans": Column("scans", digits=0), "failed": Column("failed", digits=0)}
OF_LESIONS = COUNTS | {
    "ap": Column("AP"),
    "ap_per_case": Column("AP per case"),
    "prevalence": Column("prevalence"),
    "oracle_dice": Column("⌈Dice⌉ oracle"),
    "dice": Column("Dice of masks"),
    "lesion_sensitivity": Column("lesions found", percent=True),
    "lesion_f1": Column("lesion F1"),
    "false_positives_per_scan": Column("false findings per scan", digits=1),
}
OF_HEALTHY = COUNTS | {
    **{f"fpr_{rate:g}": Column(f"realised FPR @ {100 * rate:g} %", digits=4) for rate in RATES},
    "median_ml": Column("ml of mask, median", digits=2),
    "mean_ml": Column("mean", digits=2),
    "noted": Column("scans with a note", digits=0),
}
COLUMNS = {LESIONS: OF_LESIONS, HEALTHY: OF_HEALTHY, APART: OF_HEALTHY}
"""What a leaderboard shows, by the name of the number."""
OF_CASES = {
    "ap": Column("AP"),
    "dice": Column("Dice of mask"),
    "lesion_ml": Column("lesion ml", digits=2),
    "mask_ml": Column("mask ml", digits=2),
}
TITLES = {
    LESIONS: "Scans with lesions",
    HEALTHY: "Healthy people",
    APART: "Elderly people, with white matter lesions that have no truth here",
}
PLACES = {group.name: place for place, group in enumerate(GROUPS)}


@dataclass(frozen=True)
class Method:
    """A detector to measure."""

    name: str
    source: str
    detector: Calibrated

    @property
    def folder(self) -> str:
        """Its name in OUT, another one for another detector of the same name."""
        return f"{self.detector.config.name}-{self.detector.fingerprint[:8]}"

    @property
    def masks_at(self) -> str:
        """The operating point of its masks."""
        return self.detector.point(self.detector.config.calibration.mask_at).name


@dataclass(frozen=True)
class Row:
    """What a detector did on a group."""

    detector: str
    group: str
    kind: str
    numbers: Mapping[str, float]
    """By their names in `COLUMNS`, as far as there are any."""
    intervals: Mapping[str, Interval]
    """95 % over people, of those that have one."""
    cases: Mapping[str, Mapping[str, object]]
    """Numbers (see `OF_CASES`), ``notes`` of the detector, and why it ``failed``."""
    problem: str = ""
    """Why the group could not be measured."""

    @property
    def failed(self) -> dict[str, str]:
        """Why scans could not be predicted, by case."""
        return {name: str(case["failed"]) for name, case in self.cases.items() if case["failed"]}


def leaderboard(rows: Sequence[Row], kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a kind of groups; in each group by AP, or by the mean volume of masks without lesions."""
    name, sign = ("ap", -1) if kind == LESIONS else ("mean_ml", 1)

    def place(row: Row) -> tuple[int, float]:
        value = row.numbers.get(name, math.nan)
        return PLACES[row.group], math.inf if math.isnan(value) else sign * value

    lines = []
    for row in sorted((row for row in rows if row.kind == kind), key=place):
        cells = [cell(row.numbers.get(name), shown, row.intervals.get(name)) for name, shown in COLUMNS[kind].items()]
        lines.append([row.group, row.detector, *cells])
    return ["group", "detector", *(column.title for column in COLUMNS[kind].values())], lines


def case_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all cases, those of a case together."""
    lines = []
    for row in rows:
        for name, case in row.cases.items():
            said = f"failed: {case['failed']}" if case["failed"] else " ".join(case["notes"])
            numbers = [cell(case[key], column) for key, column in OF_CASES.items()]
            lines.append([row.group, name, row.detector, *numbers, " ".join(said.replace("|", "/").split()) or ABSENT])
    lines.sort(key=lambda line: (PLACES[line[0]], line[1]))
    return ["group", "case", "detector", *(column.title for column in OF_CASES.values()), "notes"], lines


def log_look(path: Path, methods: Sequence[Method], found: Sequence[Scans], rows: Sequence[Row]) -> tuple[int, int]:
    """Append a look to the log; how many looks at any of these cases it holds now, and of how many detectors.

    Raises
    ------
    MedvaeError
        If the log cannot be understood: it is never begun anew.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    now = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "detectors": {method.name: method.detector.fingerprint for method in methods},
        "numbers": {f"{row.group}: {row.detector}": plain(row.numbers) for row in rows},
        "cases": {f"{scans.group.name} {case.id}": case.sha256 for scans in found for case in scans.cases},
    }
    try:
        looks = [*(json.loads(line) for line in text.splitlines() if line.strip()), now]
        same = [one for one in looks if set(one["cases"].values()) & set(now["cases"].values())]
        seen = {fingerprint for one in same for fingerprint in one["detectors"].values()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MedvaeError(f"{path}: is not what this program wrote ({error}). Repair it, or move it away.") from None
    lines = text + "\n" * bool(text and not text.endswith("\n")) + json.dumps(now, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{lines}\n")
    return len(same), len(seen)
