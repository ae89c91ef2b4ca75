"""The cases of real_scans.py: which real T1 scans there are, and which detectors may be measured on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.evaluation.maps import read_case
from medvae.files import sha256
from medvae.imaging.volume import read_placement
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.progress import Progress

IXI_LIST = Path(__file__).resolve().parents[1] / "data_manifests" / "lists" / "ixi_t1_2mm.json"
QUICK_CASES = 2
LESIONS, HEALTHY, APART = "lesions", "healthy", "apart"

Used = Mapping[str, set[str]]
"""Scans that a detector learned from or set its thresholds on: the SHA-256 of their images by their name."""


@dataclass(frozen=True)
class Group:
    """Scans of one kind: where they lie in the folder of the data, and what lies beside each."""

    name: str
    kind: str
    """`LESIONS`, with a truth; `HEALTHY`; or `APART`: people with lesions that have no truth."""
    image: str
    """What the path of a scan matches as a whole; ``id`` is the person."""
    beside: str = ""
    """Its lesion mask, or the brain mask of a scan without a truth; without one, the scan is skull-stripped."""
    own_names: bool = True
    """No other data set calls its people so: the name tells who it is."""

    @property
    def folder(self) -> str:
        """The data set's folder."""
        return self.image.split("/")[0]


GROUPS = (
    Group("tumour", LESIONS, r"brats18/(?P<id>[^/]+)/(?P=id)_t1\.nii\.gz", "brats18/{id}/{id}_seg.nii.gz"),
    Group(
        "stroke", LESIONS, r"stroke_t1/(?P<folder>[^/]+)/(?P<scan>(?P<id>[^/_]+)_[^/]+)_desc-brain_T1w\.nii\.gz",
        "stroke_t1/{folder}/{scan}_label-lesion_desc-T1lesion_mask.nii.gz",
    ),
    Group("ms", LESIONS, r"open_ms/(?P<id>patient[^/]+)/T1\.nii\.gz", "open_ms/{id}/lesions.nii.gz"),
    Group(
        "ixi", HEALTHY, r"ixi_t1_2mm/t1/(?P<scan>(?P<id>IXI\d+)-[^/]+)_T1\.nii\.gz",
        "ixi_t1_2mm/anatomy/{scan}_anatomy.nii.gz",
    ),
    Group("novosibirsk", HEALTHY, r"novosibirsk_t1/(?P<id>[^/]+)_T1\.nii\.gz", own_names=False),
    Group("ibsr", HEALTHY, r"ibsr_t1/(?P<id>[^/]+)\.nii\.gz"),
    Group(
        "elderly", APART, r"elderly_t1_flair_2mm/t1/(?P<id>[^/]+)_T1\.nii\.gz",
        "elderly_t1_flair_2mm/anatomy/{id}_T1_DLMUSE.nii.gz", own_names=False,
    ),
)  # fmt: skip


@dataclass
class Scans:
    """The cases of a group, and why other files of it cannot be used."""

    group: Group
    manifest: Manifest
    ways: dict[str, str]
    """The path of each case in the folder of the data."""
    unused: dict[str, str]

    @property
    def cases(self) -> list[Case]:
        """One for each person."""
        return self.manifest.cases

    def keep(self, cases: Sequence[Case]) -> None:
        """Go on with these cases only."""
        content = self.manifest.model_copy(update={"cases": list(cases)})
        self.manifest = read_manifest(write_manifest(content, self.manifest.path))


def find_cases(data: Path, group: Group) -> tuple[dict[str, Case], dict[str, str]]:
    """A case for each person by the path of its scan in ``data``, and by path why other files cannot be used."""
    listed = read_manifest(IXI_LIST, files_must_exist=False).cases if group.name == "ixi" else []
    splits = {Path(str(case.image)).name: case.split for case in listed}
    cases: dict[str, Case] = {}
    unused, paired, people = {}, set(), set()
    for path in sorted((data / group.folder).rglob("*.nii.gz")):
        way = path.relative_to(data).as_posix()
        if (match := re.fullmatch(group.image, way)) is None:
            continue
        person, beside = match["id"], group.beside.format(**match.groupdict())
        paired.add(beside)
        if listed and (split := splits.get(path.name)) != "test":
            unused[way] = f"is in the split {split} of {IXI_LIST.name}" if split else f"is not in {IXI_LIST.name}"
        elif beside and not (data / beside).is_file():
            unused[way] = f"has no {Path(beside).name}"
        elif person in people:
            unused[way] = "is another scan of a person, and each counts once"
        else:
            role = "label" if group.kind == LESIONS else "mask"
            more = {role: str((data / beside).absolute())} if beside else {}
            people.add(person)
            cases[way] = Case(id=person, image=str(path.absolute()), split="test", site=group.name, **more)
    others = data.glob(re.sub(r"\{\w+\}", "*", group.beside)) if group.beside else ()
    alone = [way for path in sorted(others) if (way := path.relative_to(data).as_posix()) not in paired]
    return cases, unused | dict.fromkeys(alone, "has no T1")


def find_scans(data: Path, group: Group, out: Path, *, few: bool = False) -> Scans:
    """The cases of a group that can be measured, and their manifest in ``out/manifests``; labels are read.

    ``few`` stops at `QUICK_CASES`.
    """
    path = out / "manifests" / f"{group.name}.json"
    cases, unused = find_cases(data, group)
    manifest = Manifest(name=f"real T1: {group.name}", modality={"0": "T1"}, cases=list(cases.values()))
    ways = {case.id: way for way, case in cases.items()}
    scans = Scans(group, read_manifest(write_manifest(manifest, path)), ways, unused)
    usable: list[Case] = []
    with Progress(f"Looking at {group.name}", len(cases)) as progress:
        for done, case in enumerate(scans.cases, start=1):
            image = scans.manifest.images(case)[0]
            try:
                if not case.label:
                    read_placement(image)
                elif not read_case(scans.manifest, case, None).truth.any():
                    raise MedvaeError("its label holds no lesion in the brain")
                usable.append(case.model_copy(update={"sha256": sha256(image)}))
            except MedvaeError as error:
                unused[ways[case.id]] = str(error)
            progress.update(done, case=case.id)
            if few and len(usable) == QUICK_CASES:
                break
    scans.keep(usable)
    return scans


def learned(found: Sequence[Scans], used: Used) -> list[tuple[Scans, Case]]:
    """The cases that are among the scans that a detector used."""
    content: set[str] = set().union(*used.values())
    return [
        (scans, case)
        for scans in found
        for case in scans.cases
        if case.sha256 in content or (scans.group.own_names and case.id in used)
    ]


def refuse_learned(found: Sequence[Scans], by: Mapping[str, Used], *, leave_out: bool) -> list[str]:
    """Refuse detectors that used a case, or leave such cases out for all detectors.

    Parameters
    ----------
    found
        The cases of each group.
    by
        What each detector used, by its name.
    leave_out
        Leave the cases out instead.

    Returns
    -------
    list of str
        Sentences about what cannot be told.

    Raises
    ------
    MedvaeError
        Naming the cases.
    """
    doubts = []
    for source, used in by.items():
        there = learned(found, used)
        if there and not leave_out:
            names = ", ".join(f"{scans.group.name} {case.id}" for scans, case in there)
            raise MedvaeError(
                f"{source}: learned from {len(there)} of the scans to be measured, or set its thresholds on them: "
                f"{names}. Numbers on them would be too good. Leave it out, choose other groups with --only, or leave "
                f"these scans out for all detectors with --leave-out-learned."
            )
        for scans, case in there:
            scans.unused[scans.ways[case.id]] = f"{source} learned from it, or set its thresholds on it"
            scans.keep([other for other in scans.cases if other.id != case.id])
        if not used:
            doubts.append(f"{source}: does not say which scans it learned from. Make sure that none of these is one.")
        alike = [f"{scans.group.name} {case.id}" for scans in found for case in scans.cases if case.id in used]
        if alike:
            doubts.append(
                f"{source}: learned from scans called as {', '.join(alike)}, but of other content. Make sure that they "
                f"are of other people."
            )
    return doubts
