"""The files that an evaluation writes, against those kept in ``tests/golden/evaluation``: layout, order and numbers.

They are compared as text where they are text and to a millionth where they are numbers, which differ in the last bits
between machines. To make them anew after a change that is meant: ``python tests/test_evaluation_files.py``.
"""

import csv
import json
import math
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import difference, evaluate
from medvae.evaluation.writing import read_study, write_study
from medvae.manifest import Case, Manifest, read_manifest, write_manifest

GOLDEN = Path(__file__).parent / "golden" / "evaluation"
SHAPE, AFFINE = (14, 12, 8), np.diag([-2.0, 2.0, 2.5, 1.0])


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), AFFINE), path)


def written(folder: Path) -> Path:
    """A healthy scan, two people with lesions of two regions, a healthy validation scan; every option that adds one."""
    rng = np.random.default_rng(0)
    cases, brain = [], np.pad(np.ones((10, 8, 6)), ((2, 2), (2, 2), (1, 1)))
    for person in ("well", "a", "b", "validation"):
        truth, label = np.zeros(SHAPE), None
        if person in "ab":
            truth[2:6, 3:7, 2:5], truth[9:11, 4:6, 3:5] = 1, 2
            label = f"{person}_label.nii.gz"
            save(folder / label, truth)
        save(folder / f"{person}.nii.gz", 100 * brain)
        for method, strength in (("good", 1.2), ("poor", 0.3)):
            noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.6)
            save(folder / method / f"{person}.nii.gz", np.round(noise + strength * (truth > 0), 2))
        split = "validation" if person == "validation" else "test"
        cases.append(Case(id=person, image=f"{person}.nii.gz", label=label, split=split))
    values = {"whole": [1, 2], "core": [2]}
    manifest = Manifest(name="golden", modality={"0": "T1"}, label_values=values, cases=cases)
    cohort = read_manifest(write_manifest(manifest, folder / "cohort.json"))
    options = EvaluationOptions(
        pattern="{id}.nii.gz", resamples=20, protocol="brats2023", thresholds=[0.8], free_response=True
    )
    good, poor = (evaluate(folder / method, cohort, options) for method in ("good", "poor"))
    write_study(good, folder / "out", differences={"poor": difference(good, poor, resamples=20)})
    return folder / "out"


def same(found: object, expected: object, at: str) -> None:
    """Compare what JSON holds: names and their order, words, and numbers to a millionth."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), at
        for name, value in expected.items():
            same(found[name], value, f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), at
        for index, pair in enumerate(zip(found, expected, strict=True)):
            same(*pair, f"{at}[{index}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9), at
    else:
        assert (type(found), found) == (type(expected), expected), at


def rows_of(path: Path) -> list[dict[str, object]]:
    with open(path, newline="") as stream:
        return [{k: float(v) if v[:1].isdigit() else v for k, v in row.items()} for row in csv.DictReader(stream)]


def test_written_files_are_those_that_were_kept(tmp_path):
    out = written(tmp_path)
    same(json.loads((out / "results.json").read_text()), json.loads((GOLDEN / "results.json").read_text()), "")
    for name in ("per_case.csv", "summary.csv"):
        same(rows_of(out / name), rows_of(GOLDEN / name), name)


def test_a_study_that_was_read_is_written_as_it_was(tmp_path):
    study, differences = read_study(GOLDEN)
    write_study(study, tmp_path, differences=differences)
    for name in ("results.json", "per_case.csv", "summary.csv"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        out = written(Path(folder))
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for path in out.iterdir():
            (GOLDEN / path.name).write_bytes(path.read_bytes())
            sys.stdout.write(f"written: {GOLDEN / path.name}\n")
