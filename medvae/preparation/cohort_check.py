"""A whole cohort checked: every case in worker processes, then what only shows between cases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvae import __version__
from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, write_json
from medvae.importing.sessions import people_of_sessions, perhaps_one_person
from medvae.jobs import default_jobs, shared_out
from medvae.manifest import Manifest, read_manifest_as_it_is
from medvae.preparation.check import CaseCheck, Finding, check_case
from medvae.preparation.fingerprint import FEATURES, QUANTILES, FeatureRange, Fingerprint, fingerprint
from medvae.progress import Progress

REPORT, FINGERPRINT = "check.json", "fingerprint.json"


@dataclass(frozen=True)
class CohortCheck:
    """What was found for a cohort."""

    path: Path
    cohort: str
    cases: tuple[CaseCheck, ...]
    """In the order of the manifest; cases that are not well formed are missing, and a finding says so."""
    entries: int
    """Cases that the manifest lists, well formed or not."""
    findings: tuple[Finding, ...]
    """Of the manifest, of the cases in their order, and between cases."""
    fingerprint: Fingerprint

    def count(self, severity: str) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def cases_with(self, severity: str) -> list[str | None]:
        """Ids of the cases with a finding of a severity; None stands for cases without an id and for the cohort."""
        return list(dict.fromkeys(finding.case for finding in self.findings if finding.severity == severity))


def check_cohort(path: Path | str, *, jobs: int | None = None, quiet: bool = False) -> CohortCheck:
    """Check a manifest and every file it names.

    Parameters
    ----------
    path
        The manifest.
    jobs
        Worker processes; by default one per core, but none for a handful of cases. Each holds one volume at a time.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If the manifest cannot be understood at all, or a worker process was killed.
    """
    path = Path(path)
    manifest, malformed = read_manifest_as_it_is(path)
    findings = [
        Finding("error", "manifest", problem, case) for case, problem in [*malformed, *manifest.inconsistencies()]
    ]
    if not manifest.cases and not malformed:
        findings.append(Finding("error", "manifest", f"{path}: lists no case."))
    checks: list[CaseCheck | None] = [None] * len(manifest.cases)
    with Progress("Checking", len(checks), quiet=quiet) as progress, closing(_each_case(manifest, jobs)) as results:
        for done, (index, check) in enumerate(results, start=1):
            checks[index] = check
            progress.update(done, case=check.id)
    cases = tuple(check for check in checks if check is not None)
    findings += [finding for case in cases for finding in case.findings]
    findings += _perhaps_one_person(manifest)
    findings += _duplicates(cases)
    prints = _fingerprint(cases)
    findings += _drift(cases, prints)
    return CohortCheck(path, manifest.name, cases, len(cases) + len(malformed), tuple(findings), prints)


def write_report(check: CohortCheck, folder: Path | str) -> list[Path]:
    """Write ``check.json`` (findings and cases) and ``fingerprint.json`` (distributions, drift) to a folder."""
    cases = [
        {
            "id": case.id, "subject": case.subject, "split": case.split, "site": case.site, "kind": case.kind,
            "shape": case.shape, "spacing_mm": case.spacing_mm, "orientation": case.orientation,
            "brain_ml": case.brain_ml, "lesion_ml": case.lesion_ml, "contents_sha256": case.contents,
        }
        for case in check.cases
    ]  # fmt: skip
    report = {
        "manifest": check.path.name,
        "cohort": check.cohort,
        "medvae": __version__,
        "errors": check.count("error"),
        "warnings": check.count("warning"),
        "findings": [asdict(finding) for finding in check.findings],
        "cases": cases,
    }
    folder = Path(folder)
    remove_leftovers(folder)
    return [
        write_json(folder / REPORT, report),
        write_json(folder / FINGERPRINT, _fingerprint_document(check)),
    ]


def _fingerprint_document(check: CohortCheck) -> dict[str, Any]:
    prints, cases = check.fingerprint, [case for case in check.cases if case.shape]
    reference = [case for case in cases if case.id in prints.reference]
    modalities = dict.fromkeys(name for case in reference for name in case.quantiles)
    return {
        "cohort": check.cohort,
        "medvae": __version__,
        "features": FEATURES,
        "shapes": Counter(" × ".join(map(str, case.shape)) for case in cases if case.shape),
        "spacings_mm": Counter(" × ".join(f"{n:.2f}" for n in case.spacing_mm) for case in cases if case.spacing_mm),
        "orientations": Counter(case.orientation for case in cases),
        "reference": {
            "what": "healthy training cases without an error",
            "cases": prints.reference,
            "features": {key: asdict(found) for key, found in prints.ranges.items()},
            "intensities": {
                name: {
                    f"p{100 * level:g}": _spread(
                        [case.quantiles[name][i] for case in reference if name in case.quantiles]
                    )
                    for i, level in enumerate(QUANTILES)
                }
                for name in modalities
            },
        },
        "sites": {
            site: {
                "cases": sum(case.site == site for case in cases),
                "z": prints.site_z.get(site, {}),
                "unlike_the_reference": prints.drift_of_sites().get(site, []),
            }
            for site in dict.fromkeys(case.site for case in cases if case.site)
        },
        "cases": [
            {
                "id": case.id,
                "features": case.features,
                "z": prints.z.get(case.id, {}),
                "unlike_the_reference": prints.drift_of_cases().get(case.id, []),
                "intensities": {
                    name: {f"p{100 * level:g}": value for level, value in zip(QUANTILES, values, strict=True)}
                    for name, values in case.quantiles.items()
                },
            }
            for case in cases
        ],
    }


def _spread(values: list[float]) -> dict[str, float]:
    found = FeatureRange.of(values)
    return {"minimum": found.minimum, "median": found.median, "maximum": found.maximum}


def _each_case(manifest: Manifest, jobs: int | None) -> Generator[tuple[int, CaseCheck]]:
    """Index and result of every case, as they come."""
    count = len(manifest.cases)
    if jobs is None:
        jobs = default_jobs(count, each=16)
    if not count:
        return
    with shared_out(range(count), partial(_check_at, manifest), min(jobs, count)) as results:
        for index, check in results:
            if isinstance(check, MedvaeError):
                raise MedvaeError(
                    f"{manifest.path}: a worker process was killed, probably because memory ran out. Try again with "
                    f"fewer processes (--jobs 1)."
                )
            yield index, check


def _check_at(manifest: Manifest, index: int) -> CaseCheck:
    return check_case(manifest, manifest.cases[index])


def _perhaps_one_person(manifest: Manifest) -> list[Finding]:
    """Warnings for ids that look like sessions of one person, in different splits and without a subject."""
    splits = {case.id: case.split for case in manifest.cases if case.subject is None}
    groups = perhaps_one_person(splits)
    for name, person in people_of_sessions(splits).items():
        if name != person:
            groups.setdefault(person, []).append(name)
    findings = []
    for person, names in groups.items():
        own = [*names, *({person} & set(splits) - set(names))]
        if len({splits[name] for name in own}) > 1:
            listed = ", ".join(f'"{name}" ({splits[name]})' for name in own)
            told = (
                f"the cases {listed} look like scans of one person, {person}, in different splits. If they are, write "
                f'"subject": "{person}" into each and give them one split: otherwise the network is tested on '
                f"somebody it has trained on. If they are not, give each its own subject."
            )
            findings.append(Finding("warning", "person", told, own[-1]))
    return findings


def _duplicates(cases: tuple[CaseCheck, ...]) -> list[Finding]:
    """Files with the same values: an error between subjects or splits, a warning within a subject."""
    same = defaultdict(list)
    for case in cases:
        for name, content in case.contents.items():
            same[content].append((case, name))
    findings = []
    for files in same.values():
        if len(files) < 2:
            continue
        subjects, splits = {case.subject for case, _ in files}, {case.split for case, _ in files}
        listed = "; ".join(f'{name} (case "{case.id}", {case.split})' for case, name in files)
        told = f"the same voxel values are in {len(files)} files: {listed}."
        if len(subjects) > 1 or len(splits) > 1:
            where = "subjects" if len(subjects) > 1 else "splits"
            told += f" One scan stands for several {where}: remove all but one, or correct the paths."
            findings.append(Finding("error", "duplicate", told, files[-1][0].id))
        else:
            findings.append(Finding("warning", "duplicate", told, files[-1][0].id))
    return findings


def _fingerprint(cases: tuple[CaseCheck, ...]) -> Fingerprint:
    reference = [case.id for case in cases if case.kind == "healthy" and case.split == "train" and not case.errors]
    return fingerprint({case.id: case.features for case in cases}, reference, {case.id: case.site for case in cases})


def _drift(cases: tuple[CaseCheck, ...], prints: Fingerprint) -> list[Finding]:
    """Warnings for sites and cases unlike the healthy training scans; a case does not repeat the warnings of its
    site."""
    sites, findings = prints.drift_of_sites(), []
    for site, keys in sites.items():
        members = [case for case in cases if case.site == site]
        shown = ", ".join(
            f"{key} {np.median([c.features[key] for c in members if key in c.features]):.3g} "
            f"against {prints.ranges[key].median:.3g} (z {prints.site_z[site][key]:+.1f})"
            for key in keys
        )
        findings.append(
            Finding(
                "warning",
                "drift",
                f'site "{site}" ({len(members)} cases) is unlike the {len(prints.reference)} healthy training scans: '
                f"{shown}. Expect more false alarms there than the operating point says; healthy scans of that site in "
                f"training and validation would mend it.",
            )
        )
    for case in cases:
        keys = [key for key in prints.drift_of_cases().get(case.id, []) if key not in sites.get(case.site or "", [])]
        if keys:
            shown = ", ".join(
                f"{key} {case.features[key]:.3g} against {prints.ranges[key].median:.3g} "
                f"(z {prints.z[case.id][key]:+.1f})"
                for key in keys
                if key in case.features
            )
            findings.append(
                Finding(
                    "warning",
                    "drift",
                    f"is unlike the {len(prints.reference)} healthy training scans: {shown}. Look at it.",
                    case.id,
                )
            )
    return findings
