"""Detectors on real T1 scans: tumours, strokes and multiple sclerosis, and the healthy people of several sites.

    python pipelines/real_scans.py DATA --dry-run --out runs/real_t1                    which scans there are
    python pipelines/real_scans.py DATA --detector t1-2mm --detector RUN --out runs/real_t1
    python pipelines/real_scans.py DATA --config configs/z_score_baseline.yaml --only tumour,stroke --out runs/real_t1

DATA holds a folder per data set: brats18, stroke_t1, open_ms; ixi_t1_2mm, novosibirsk_t1, ibsr_t1;
elderly_t1_flair_2mm. Scans are read where they lie, one of each person; a data set that is missing is reported and
skipped. Of the IXI people only those of the split "test" of data_manifests/lists/ixi_t1_2mm.json are measured. The
elderly have white matter lesions, whose masks a program made on FLAIR: no truth for T1, so they count neither as
lesions nor as healthy and are reported apart.

*Rule.* These cases are for choosing detectors. Nothing learns from them, and no threshold is set on them: a detector
that did so is refused, by the content of its scans and, where only one data set calls people so, by their names. Every
look at the cases is counted in OUT/looks.jsonl (so measure all detectors into one OUT): the best of many on few cases
looks better than it is, and final results belong to cases that nobody has looked at.

*Written.* table.md: the leaderboards. cases.md: a row per case and detector. results.json: both, with intervals.
manifests/: a manifest per group; cohort.json: all of it, for configs/studies/real_t1.yaml. predictions/, measured/.
A scan that fails does not stop the others; if it has a lesion, it counts as one in which nothing was found. The exit
code is then 1. Run it again after Ctrl-C: it continues where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

from real_cases import APART, GROUPS, LESIONS, Scans, find_scans, refuse_learned
from real_results import RATES, TITLES, Method, Row, case_rows, leaderboard, log_look
from rich.markup import escape

from medvae import __version__
from medvae.benchmark import combine
from medvae.config import read_config
from medvae.detection.detector import find_detector
from medvae.detection.ensemble import load_detector, member_names
from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.result import MASK, PointResult, Quantity, Study
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import plain, read_study, write_study
from medvae.files import sha256, write_json, write_text
from medvae.fitting import fit
from medvae.locks import locked
from medvae.manifest import read_manifest
from medvae.prediction import Prediction, predict, scans_of_manifest
from medvae.preparation.cache import find, request
from medvae.progress import Progress
from medvae.reporting.tables import ABSENT, markdown_table, print_table
from medvae.schema import read_document
from medvae.training.run_folder import used_scans

COHORT = Path(__file__).resolve().parents[1] / "data_manifests" / "included_t1.json"
RULE = (
    "These cases are for choosing detectors: none of those below learned from them or set a threshold on them. Final "
    "results belong to cases that nobody has looked at."
)


def ready(
    sources: Sequence[str], configs: Sequence[Path], overrides: list[str], cohort: Path, found: Sequence[Scans],
    out: Path, cache: Path, *, leave_out: bool,
) -> tuple[list[Method], list[str]]:  # fmt: skip
    """Load the detectors and train the configs, unless one of them used a case; and doubts about that."""
    folders = {source: find_detector(source) for source in sources}
    used = {source: used_scans(folder) for source, folder in folders.items()}
    chosen = {str(path): read_config(path, overrides) for path in configs}
    healthy = read_manifest(cohort)
    if chosen:
        cases = [case for split in ("train", "validation") for case in healthy.of_split(split, healthy=True)]
        used[str(cohort)] = {case.id: {sha256(image) for image in healthy.images(case)} for case in cases}
    doubts = refuse_learned(found, used, leave_out=leave_out)
    for source, config in chosen.items():
        folders[source] = out / "runs" / config.name
        fit(config, healthy, folders[source], cache=cache, resume=True)
    loaded = [(source, load_detector(folder)) for source, folder in folders.items()]
    once = list({detector.fingerprint: (source, detector) for source, detector in loaded}.values())
    names = member_names([detector.config.name for _, detector in once])
    return [Method(name, *one) for name, one in zip(names, once, strict=True)], doubts


def predicted(
    method: Method, scans: Scans, folder: Path, cache: Path, times: Path
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """Predictions and failures by case; the file ``times`` keeps how long it took to prepare and to predict a scan."""
    seconds = read_document(times) if times.exists() else {}
    found: dict[str, Prediction] = {}
    failed: dict[str, str] = {}
    options = method.detector.config.preparation
    with Progress(f"{method.name}, {scans.group.name}", len(scans.cases)) as progress:
        for done, scan in enumerate(scans_of_manifest(scans.manifest), start=1):
            try:
                new, preparing = scan.id not in seconds, None
                if new and find(request(scan.images, options, mask=scan.mask, cache=cache)) is None:
                    begin = time.monotonic()
                    scan.prepare(method.detector, cache=cache)
                    preparing = round(time.monotonic() - begin, 2)
                begin = time.monotonic()
                made, problems = predict(method.detector, [scan], folder, cache=cache, quiet=True)
                found |= {item.id: item for item in made}
                failed |= problems
                if new and made:
                    seconds[scan.id] = [preparing, round(time.monotonic() - begin, 2)]
                    write_json(times, seconds)
            except MedvaeError as error:
                failed[scan.id] = str(error)
            progress.update(done, case=scan.id)
    return found, failed


def measured(method: Method, scans: Scans, folder: Path, failed: Mapping[str, str], place: Path) -> Study:
    """Measure a folder of predictions, unless ``place`` holds the same measurement."""
    manifest, done = scans.manifest, place / "key.json"
    files = {case.id: [manifest.resolve(file) for file in (case.label, case.mask) if file] for case in scans.cases}
    cases = [[case.id, case.sha256, *map(sha256, files[case.id])] for case in scans.cases]
    key = {"medvae": __version__, "detector": method.detector.fingerprint, "cases": cases, "failed": sorted(failed)}
    if done.exists() and read_document(done) == key:
        return read_study(place)[0]
    done.unlink(missing_ok=True)
    study = evaluate(folder, manifest, method=method.name, quiet=False)
    write_study(study, place)
    write_json(done, key)
    return study


def row_of(method: Method, scans: Scans, out: Path, cache: Path) -> Row:
    """Predict and measure a group with a detector."""
    group, where = scans.group, f"{method.folder}/{scans.group.name}"
    times = out / "seconds" / f"{where}.json"
    found, failed = predicted(method, scans, out / "predictions" / where, cache, times)
    study, problem = None, ""
    try:
        if not found:
            raise MedvaeError("every scan failed, so that nothing was found in any.")
        study = measured(method, scans, out / "predictions" / where, failed, out / "measured" / where)
    except MedvaeError as error:
        problem = str(error)
    masks = study and (study.point(MASK) or study.point(method.masks_at))
    numbers, intervals = numbers_of(study, masks, group.kind) if study and masks else ({}, {})
    numbers |= {"scans": len(scans.cases), "failed": len(failed), "noted": sum(bool(p.notes) for p in found.values())}
    if found and group.kind != LESIONS:
        volumes = [item.lesion_volume_ml for item in found.values()]
        numbers |= {"median_ml": median(volumes), "mean_ml": mean(volumes)}
    results = {result.id: result for result in study.per_case} if study else {}
    cases: dict[str, dict[str, object]] = {}
    for case in scans.cases:
        result, item = results.get(case.id), found.get(case.id)
        cases[case.id] = {
            "ap": result.number("ap") if result else math.nan,
            "dice": result.number("dice", masks.name) if result and masks else math.nan,
            "lesion_ml": result.number("lesion_ml") if result else math.nan,
            "mask_ml": item.lesion_volume_ml if item else math.nan,
            "notes": item.notes if item else (),
            "failed": failed.get(case.id, ""),
        }
    return Row(method.name, group.name, group.kind, numbers, intervals, cases, problem)


def numbers_of(study: Study, masks: PointResult, kind: str) -> tuple[dict[str, float], dict[str, Interval]]:
    """What the leaderboards show of a measurement, and intervals; ``masks`` are its numbers of the written masks."""
    numbers, intervals = {}, {}
    if kind == LESIONS:
        numbers = {name: study.pooled[name] for name in ("ap", "prevalence", "oracle_dice")}
        numbers["ap_per_case"] = study.per_case_summary[Quantity("ap")].mean
        of_masks = ("dice", "lesion_sensitivity", "lesion_f1", "false_positives_per_scan")
        numbers |= {name: masks[name] for name in of_masks}
        intervals = {name: study.interval(name) for name in ("ap", "oracle_dice")}
        intervals["dice"] = study.interval("dice", masks.name)
    else:
        for point in study.operating_points:
            if point.asked_fpr in RATES:
                name = f"fpr_{point.asked_fpr:g}"
                numbers[name], intervals[name] = point["fpr"], study.interval("fpr", point.name)
    return numbers, {name: interval for name, interval in intervals.items() if interval is not None}


def gaps(data: Path, looked: Sequence[Scans], rows: Sequence[Row] = ()) -> list[str]:
    """What is missing, in sentences: data sets, files that cannot be used, scans that failed."""
    said = []
    for scans in looked:
        if not scans.cases:
            said.append(f"{scans.group.name}: there is no scan to measure in {data / scans.group.folder}.")
        for why, times in Counter(scans.unused.values()).items():
            first = next(way for way, reason in scans.unused.items() if reason == why)
            more = f" and {times - 1} more" if times > 1 else ""
            said.append(f"{scans.group.name}: not used: {first}{more}: {why}")
    for row in rows:
        where = f"{row.group}, {row.detector}"
        said += [f"{where}: was not measured: {row.problem}"] if row.problem else []
        said += [f"{where}: {name} failed: {why}" for name, why in row.failed.items()]
    return said


def detector_rows(methods: Sequence[Method], out: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what the detectors are, with the median seconds for a scan."""
    rows = []
    for method in methods:
        files = (out / "seconds" / method.folder).glob("*.json")
        times = list(zip(*(pair for file in files for pair in read_document(file).values()), strict=True)) or [(), ()]
        kinds = [[second for second in kind if second is not None] for kind in times]
        trained = str(method.detector.calibrated_on.get("training", ABSENT))
        known = [method.name, method.source, method.detector.fingerprint[:12], method.masks_at, trained]
        rows.append(known + [f"{median(kind):.1f}" if kind else ABSENT for kind in kinds])
    header = ["detector", "from", "fingerprint", "masks at", "training scans", "s to prepare a scan", "s to predict it"]
    return header, rows


def write_cohort(found: Sequence[Scans], cohort: Path, out: Path) -> None:
    """One manifest of all groups but those apart, and of the healthy scans that a study trains on."""
    healthy = read_manifest(cohort)
    learning = [case for split in ("train", "validation") for case in healthy.of_split(split, healthy=True)]
    parts = [(scans.manifest, scans.cases) for scans in found if scans.group.kind != APART]
    try:
        combine(out / "cohort.json", "real T1", [(healthy, learning), *parts], modalities=["T1"])
    except MedvaeError as error:
        print(f"cohort.json was not written: {error}")


def write_tables(
    methods: Sequence[Method], found: Sequence[Scans], rows: Sequence[Row], missing: Sequence[str], out: Path
) -> None:
    """Log the look, then write and print everything."""
    looks, detectors = log_look(out / "looks.jsonl", methods, found, rows)
    look = f"Look {looks} at these cases, at {detectors} detector{'s' * (detectors > 1)} so far."
    tables = {title: leaderboard(rows, kind) for kind, title in TITLES.items()}
    tables = {title: table for title, table in tables.items() if table[1]} | {"Detectors": detector_rows(methods, out)}
    text = [f"# Real T1 scans\n\n{RULE} {look}\n"]
    for title, (header, lines) in tables.items():
        print_table(title, header, [[escape(text) for text in line] for line in lines])
        text.append(f"## {title}\n\n{markdown_table(header, lines)}")
    if missing:
        text.append("## What is missing\n\n" + "".join(f"- {' '.join(sentence.split())}\n" for sentence in missing))
    unused = {scans.group.name: scans.unused for scans in found}
    described = [
        {"name": one.name, "from": one.source, "fingerprint": one.detector.fingerprint, "masks_at": one.masks_at}
        for one in methods
    ]
    content = {"rule": RULE, "look": looks, "detectors": described, "rows": rows, "missing": missing, "unused": unused}
    written = [
        write_text(out / "table.md", "\n".join(text)),
        write_text(out / "cases.md", f"# Every case\n\n{markdown_table(*case_rows(rows))}"),
        write_json(out / "results.json", plain(content)),
    ]
    print("\n".join([*missing, look, f"written: {', '.join(map(str, written))}"]))


def main(
    data: Path, sources: Sequence[str], out: Path, *, configs: Sequence[Path] = (), overrides: Sequence[str] = (),
    cohort: Path = COHORT, cache: Path | None = None, only: Sequence[str] = (), quick: bool = False,
    leave_out: bool = False, dry_run: bool = False,
) -> bool:  # fmt: skip
    """Make ``out``; returns whether every scan was predicted and every group measured."""
    names = [group.name for group in GROUPS]
    if unknown := [name for name in only if name not in names]:
        raise MedvaeError(f'--only: there is no group "{unknown[0]}"; there are {", ".join(names)}.')
    if not (sources or configs or dry_run):
        raise MedvaeError("there is nothing to measure: give a --detector or a --config, or look with --dry-run.")
    cache = cache or out / "prepared"
    with locked(out, busy=f"{out}: this program is at work in this folder ({{owner}}). Wait until it has finished."):
        looked = [find_scans(data, group, out, few=quick) for group in GROUPS if not only or group.name in only]
        if dry_run:
            counts = [[scans.group.name, scans.group.kind, str(len(scans.cases))] for scans in looked]
            print_table("Real T1 scans", ["group", "kind", "scans"], counts)
            print("\n".join(gaps(data, looked)))
            return True
        if not any(scans.cases for scans in looked):
            raise MedvaeError("\n".join([f"{data}: holds no scan that can be measured.", *gaps(data, looked)]))
        methods, doubts = ready(
            sources, configs, list(overrides), cohort, looked, out, cache, leave_out=leave_out
        )  # fmt: skip
        found = [scans for scans in looked if scans.cases]
        if not (only or quick):
            write_cohort(found, cohort, out)
        rows = [row_of(method, scans, out, cache) for method in methods for scans in found]
        write_tables(methods, looked, rows, [*doubts, *gaps(data, looked, rows)], out)
    return not any(row.problem or row.failed for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = ",".join(group.name for group in GROUPS)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data sets")
    parser.add_argument(
        "--detector", action="append", default=[], metavar="RUN",
        help="run folder, detector's folder, or the name of one that comes with medvae; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="YAML",
        help="config to train on --cohort, if it is not yet, and to measure; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replaces a value of the configs; may be repeated",
    )
    parser.add_argument("--cohort", type=Path, default=COHORT, help="what configs learn from (default: included_t1)")
    parser.add_argument("--out", type=Path, default=Path("runs/real_t1"), help="folder for everything")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans (default: OUT/prepared)")
    parser.add_argument("--only", default="", metavar="GROUPS", help=f"some of {groups} (default: all)")
    parser.add_argument("--quick", action="store_true", help="two cases of each group")
    parser.add_argument(
        "--leave-out-learned", action="store_true",
        help="leave scans that a detector learned from out, for all detectors, instead of refusing it",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say which scans there are; predict nothing")
    chosen = parser.parse_args()
    try:
        whole = main(
            chosen.data, chosen.detector, chosen.out, configs=chosen.config, overrides=chosen.set,
            cohort=chosen.cohort, cache=chosen.cache, only=[name for name in chosen.only.split(",") if name],
            quick=chosen.quick, leave_out=chosen.leave_out_learned, dry_run=chosen.dry_run,
        )  # fmt: skip
    except MedvaeError as error:
        sys.exit(f"real_scans: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
    sys.exit(0 if whole else 1)
