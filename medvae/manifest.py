"""Which scans, which split, which labels: the manifest of a cohort.

A manifest is one JSON file. Paths are relative to the manifest itself, so that a cohort can be moved as a folder.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, sha256, write_text
from medvae.modality import modality_name, places_of
from medvae.schema import Strict, parse, read_document

Split = Literal["train", "validation", "test"]
IGNORED = "ignore"
"""The region of voxels that do not count, neither as lesion nor as healthy."""


_BIDS_PERSON = re.compile(r"(?:[^_]+_)*?sub-[^_]+?(?=_|[-.]ses-|$)")


def person_of(case_id: str) -> str:
    """The person a case's id names in BIDS' way, ``sub-01`` of ``sub-01_ses-2_run-1``; any other id is a person."""
    match = _BIDS_PERSON.match(case_id)
    return match[0] if match else case_id


class Case(Strict):
    """One scan session of one subject: its images on one common grid, and what is known about it."""

    id: str = Field(min_length=1, max_length=180, pattern=r"^[^/\\\s\p{Cc}]+$")
    """Name of the case, unique in the manifest; output files begin with it."""
    image: str | list[str]
    """Path of the image, or one path per modality in the order of the manifest's ``modality``."""
    mask: str | None = None
    """Path of the brain mask. Without it the mask is the nonzero region of a skull-stripped image."""
    label: str | None = None
    """Path of the lesion label map. A case without a label is healthy, unless it says ``unlabelled``."""
    unlabelled: bool = False
    """True for a case that may contain lesions but has no ground truth; it is never used as healthy."""
    split: Split
    """Training, validation and test cases never share a subject."""
    subject: str | None = None
    """The subject; if not given, the ``sub-LABEL`` with which the case's id begins, or the whole id."""
    site: str | None = None
    """Hospital or scanner."""
    age: float | None = None
    """Age at the scan, in years."""
    sex: Literal["F", "M", "O"] | None = None
    """As recorded by the study."""
    sha256: str | list[str] | None = None
    """SHA-256 of the image file, or one for each image."""

    @field_validator("image", "mask", "label")
    @classmethod
    def _possible_paths(cls, paths: str | list[str] | None) -> str | list[str] | None:
        for path in [paths] if isinstance(paths, str) else paths or []:
            if longest := [part for part in path.split("/") if len(part.encode()) > 255]:
                raise ValueError(f"is no path: a part of it has {len(longest[0]):,} characters.")
            if len(path.encode()) > 4000:
                raise ValueError(f"is no path: it has {len(path):,} characters.")
        return paths

    @property
    def healthy(self) -> bool:
        """Whether the case is declared free of lesions."""
        return self.label is None and not self.unlabelled

    @property
    def kind(self) -> Literal["healthy", "lesion", "unlabelled"]:
        """Its status in the manifest: free of lesions, with a lesion label, or neither."""
        return "unlabelled" if self.unlabelled else "healthy" if self.healthy else "lesion"

    @property
    def subject_id(self) -> str:
        """The person this scan belongs to."""
        return self.subject or person_of(self.id)


class Manifest(Strict):
    """A cohort: its cases, their modalities and the meaning of their label values."""

    name: str
    """Name of the cohort, used in reports."""
    licence: str | None = None
    """Terms of use of the scans, and whom to cite."""
    modality: dict[str, str]
    """Index (as a string, from "0") to modality name, for instance {"0": "T1", "1": "FLAIR"}. Common spellings, such as
    "T1w" or "flair", mean the same sequence."""
    label_values: dict[str, list[int]] | None = None
    """Region name to the label values it is made of; the first region is the one evaluated, and voxels of one called
    "ignore" count neither as lesion nor as healthy. Without it every label above 0 is lesion."""
    cases: list[Case]
    """The scans."""
    _path: Path = PrivateAttr(default=Path("manifest.json"))

    @field_validator("modality")
    @classmethod
    def _consecutive(cls, modality: dict[str, str]) -> dict[str, str]:
        expected = [str(index) for index in range(len(modality))]
        if not modality or sorted(modality, key=int if all(k.isdigit() for k in modality) else str) != expected:
            raise ValueError(f'the keys must be "0", "1", … without a gap; found {list(modality)}.')
        return modality

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        problems = [problem for _, problem in self.inconsistencies()]
        if problems:
            more = f" ({len(problems) - 1} more problems: medvae check lists them.)" if len(problems) > 1 else ""
            raise ValueError(problems[0] + more)
        return self

    def inconsistencies(self) -> list[tuple[str, str]]:
        """Contradictions in the manifest: case id and problem, in the order of the cases."""
        problems = []
        count = Counter(case.id for case in self.cases)
        for name in (name for name, times in count.items() if times > 1):
            problems.append((name, f'case id "{name}" is used more than once; every case needs its own id.'))
        splits: dict[str, Case] = {}
        for case in self.cases:
            first = splits.setdefault(case.subject_id, case)
            if first.split != case.split:
                problem = (
                    f'subject "{case.subject_id}" is in two splits: case "{first.id}" in {first.split}, case '
                    f'"{case.id}" in {case.split}. Put all scans of a person into one split: otherwise the '
                    f"network is tested on somebody it has trained on."
                )
                problems.append((case.id, problem))
            images = [case.image] if isinstance(case.image, str) else case.image
            if len(images) != len(self.modality):
                problem = (
                    f'case "{case.id}" has {len(images)} image(s), the manifest names {len(self.modality)} '
                    f"modalities ({', '.join(self.modality.values())}). Give one image per modality, in that order."
                )
                problems.append((case.id, problem))
            if isinstance(case.sha256, list) and len(case.sha256) != len(images):
                problem = f'case "{case.id}" has {len(case.sha256)} sha256 values for {len(images)} image(s).'
                problems.append((case.id, problem))
            if case.label and case.unlabelled:
                problem = f'case "{case.id}" has a label and says "unlabelled": remove one of the two.'
                problems.append((case.id, problem))
        return problems

    @property
    def path(self) -> Path:
        """The JSON file this manifest was read from."""
        return self._path

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities in the order of a case's images, in their common spelling."""
        return tuple(modality_name(self.modality[str(index)]) for index in range(len(self.modality)))

    def images(self, case: Case) -> list[Path]:
        """Paths of a case's images, one per modality."""
        return [self.resolve(image) for image in ([case.image] if isinstance(case.image, str) else case.image)]

    def with_modalities(self, wanted: Sequence[str]) -> Manifest:
        """The same cohort with only these modalities, in this order.

        Raises
        ------
        MedvaeError
            If it lacks one of them, or two of its modalities share a name.
        """
        places = places_of(wanted, self.modalities)
        if places is None:
            found = ", ".join(self.modalities)
            raise MedvaeError(
                f'{self._path}: its "modality" names {found}; {", ".join(wanted)} was expected. Add what is missing, '
                f"one image for each in every case, or correct the names."
            )
        if places == list(range(len(self.modality))):
            return self
        cases = []
        for case in self.cases:
            images, sums = [case.image] if isinstance(case.image, str) else case.image, case.sha256
            change = {
                "image": [images[place] for place in places],
                "sha256": [sums[place] for place in places] if isinstance(sums, list) else None,
            }
            cases.append(case.model_copy(update=change))
        named = {str(index): self.modality[str(place)] for index, place in enumerate(places)}
        chosen = self.model_copy(update={"modality": named, "cases": cases})
        chosen._path = self._path
        return chosen

    def resolve(self, relative: str) -> Path:
        """A path written in the manifest, relative to the manifest's folder."""
        return self._path.parent / relative

    def of_split(self, split: Split, *, healthy: bool | None = None) -> list[Case]:
        """Cases of a split; ``healthy=True`` or ``False`` keeps only those (not) declared healthy."""
        return [c for c in self.cases if c.split == split and (healthy is None or c.healthy == healthy)]

    def case(self, case_id: str) -> Case:
        """The case named ``case_id``.

        Raises
        ------
        MedvaeError
            If there is none; the message proposes the nearest name.
        """
        for case in self.cases:
            if case.id == case_id:
                return case
        near = difflib.get_close_matches(case_id, [case.id for case in self.cases], n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise MedvaeError(f'{self._path}: there is no case "{case_id}".{hint}')


def read_manifest(path: Path | str, *, files_must_exist: bool = True) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    path
        The JSON file.
    files_must_exist
        Also check that every file it names is there (its content is not read; ``medvae check`` does that).

    Raises
    ------
    MedvaeError
        For an unknown or missing key, a repeated id, a subject in two splits, or a missing file.
    """
    path = Path(path)
    manifest = parse(Manifest, read_document(path), path)
    manifest._path = path
    if files_must_exist:
        for case in manifest.cases:
            for file in [*manifest.images(case), *(manifest.resolve(f) for f in (case.mask, case.label) if f)]:
                if not file.is_file():
                    raise MedvaeError(
                        f'{path}: case "{case.id}": {file} does not exist. Paths are relative to the manifest. '
                        f"Run: medvae check {path}"
                    )
    return manifest


class _Unchecked(Manifest):
    """A manifest that may contradict itself."""

    @model_validator(mode="after")
    def _consistent(self) -> _Unchecked:
        return self


def read_manifest_as_it_is(path: Path | str) -> tuple[Manifest, list[tuple[str | None, str]]]:
    """Read a manifest for checking: as much of it as can be understood, and what is wrong with the rest.

    Returns
    -------
    manifest, malformed
        The cases that are well formed, which may contradict each other (`Manifest.inconsistencies`); and for each of
        the others its id, if it has one, and what is wrong with it. Files are not looked for.

    Raises
    ------
    MedvaeError
        If the document, or what it says about the cohort as a whole, cannot be understood.
    """
    path = Path(path)
    document = read_document(path)
    entries = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        parse(Manifest, document, path)  # says what is wrong
        raise MedvaeError(f'{path}: "cases" must be a list.')
    manifest = parse(_Unchecked, document | {"cases": []}, path)
    cases, malformed = [], []
    for index, entry in enumerate(entries):
        name = entry.get("id") if isinstance(entry, dict) else None
        try:
            cases.append(parse(Case, entry, f"{path}: case {index + 1}"))
        except MedvaeError as error:
            malformed.append((name if isinstance(name, str) else None, str(error)))
    manifest = manifest.model_copy(update={"cases": cases})
    manifest._path = path
    return manifest, malformed


def write_manifest(manifest: Manifest, path: Path | str) -> Path:
    """Write a manifest as JSON, one line per case so that versions compare well."""
    remove_leftovers(Path(path).parent, of=Path(path).name)
    content = manifest.model_dump(exclude_none=True, exclude_defaults=True)
    cases = content.pop("cases")
    head = json.dumps(content, indent=2, ensure_ascii=False)[:-2]
    lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
    return write_text(path, f'{head},\n  "cases": [\n{lines}\n  ]\n}}\n')


def checksum_problems(manifest: Manifest, case: Case) -> list[str]:
    """What differs between a case's image files and the SHA-256 values written in the manifest."""
    if case.sha256 is None:
        return []
    expected = [case.sha256] if isinstance(case.sha256, str) else case.sha256
    files = manifest.images(case)
    if len(expected) != len(files):
        return [f"{len(expected)} sha256 values are given for {len(files)} image(s)"]
    return [
        f"{file.name}: sha256 is {found[:12]}…, the manifest says {wanted[:12]}…: the file has changed"
        for file, wanted in zip(files, expected, strict=True)
        if (found := sha256(file)) != wanted
    ]
