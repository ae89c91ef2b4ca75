"""The included cohort is what its manifests say."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvae.imaging.volume import read_placement, read_volume
from medvae.manifest import Manifest, checksum_problems, read_manifest
from medvae.preparation.mask import mask_from_background
from tests.conftest import STANDARD_GRID

DATA = Path(__file__).parents[1] / "data_manifests"


@pytest.fixture(scope="module", params=["included_t1.json", "included_flair_ms.json"])
def manifest(request) -> Manifest:
    return read_manifest(DATA / request.param)


def test_the_files_are_those_that_were_made(manifest):
    for case in manifest.cases:
        assert case.sha256
        assert checksum_problems(manifest, case) == []


def test_every_scan_is_one_brain_on_the_standard_grid(manifest):
    for case in manifest.cases:
        volume = read_volume(manifest.images(case)[0])
        assert volume.geometry == STANDARD_GRID
        assert (int(volume.header["qform_code"]), int(volume.header["sform_code"])) == (4, 4)
        inside = volume.array > 0
        # The darkest voxels are 1, the background threshold counts from the brightest: nothing else is left out.
        found = mask_from_background(volume.array, volume.geometry, threshold=1e-4)
        assert np.count_nonzero(found != inside) < 10
        assert 1800 < np.count_nonzero(inside) * STANDARD_GRID.voxel_volume_ml < 2050
        for axis, ends in ((0, (0, -1)), (1, (0, -1)), (2, (-1,))):  # below, the brain stem leaves the grid
            for end in ends:
                assert inside.take(end, axis).mean() < 0.06


def test_lesions_lie_in_the_brain_and_are_bright_on_flair():
    flair = read_manifest(DATA / "included_flair_ms.json")
    for case in flair.cases:
        volume = read_volume(flair.images(case)[0])
        lesions = read_volume(flair.resolve(case.label)).array > 0
        assert read_placement(flair.resolve(case.label)).geometry == STANDARD_GRID
        assert lesions.any()
        assert not (lesions & (volume.array == 0)).any()
        assert np.median(volume.array[lesions]) > np.percentile(volume.array[volume.array > 0], 85)


def test_t1_and_flair_of_a_patient_share_their_brain_and_their_truth():
    t1, flair = read_manifest(DATA / "included_t1.json"), read_manifest(DATA / "included_flair_ms.json")
    for case in flair.cases:
        twin = t1.case(case.id)
        assert twin.label == case.label
        arrays = [read_volume(m.images(c)[0]).array > 0 for m, c in ((t1, twin), (flair, case))]
        assert np.array_equal(*arrays)


def test_the_splits_are_alike_and_patients_are_only_tested():
    manifest = read_manifest(DATA / "included_t1.json")
    healthy = [case for case in manifest.cases if case.healthy]
    assert Counter(case.split for case in healthy) == {"train": 20, "validation": 6, "test": 6}
    assert len({case.subject_id for case in manifest.cases}) == len(manifest.cases) == 34
    assert {case.split for case in manifest.cases if not case.healthy} == {"test"}
    for split in ("train", "validation", "test"):
        cases = [case for case in healthy if case.split == split]
        ages = [case.age for case in cases]
        assert Counter(case.sex for case in cases)["F"] == len(cases) / 2
        assert 43 < np.mean(ages) < 55
        assert min(ages) < 36
        assert max(ages) > 60


def test_the_table_shows_good_registrations():
    with (DATA / "included" / "preparation.csv").open(newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {case.id for case in read_manifest(DATA / "included_t1.json").cases}
    assert min(float(row["dice"]) for row in rows.values()) > 0.95


def test_left_is_left():
    """In all people together, right of the midline in the file is right: the right frontal lobe bulges forward."""
    manifest = read_manifest(DATA / "included_t1.json")
    mean = np.mean([read_volume(manifest.images(case)[0]).array > 0 for case in manifest.cases], axis=0)
    front, back = mean[:, 80:], mean[:, :16]  # petalia: right frontal and left occipital protrusion
    right, left = slice(40, None), slice(None, 40)
    assert front[right].sum() > front[left].sum()
    assert back[left].sum() > back[right].sum()


def test_the_shape_library_holds_no_test_patient_and_reads_back():
    library = np.load(DATA / "included" / "lesion_shapes.npz", allow_pickle=False)
    assert not {7, 26} & set(library["patients"].tolist())
    flat = np.unpackbits(library["bits"])
    for index in range(0, len(library["shapes"]), 50):
        start, box = library["offsets"][index], library["shapes"][index]
        shape = flat[start : start + box.prod()].reshape(box)
        assert shape.sum() == library["volumes_mm3"][index] >= 20
        for axis in range(3):
            assert shape.take(0, axis).any()
            assert shape.take(-1, axis).any()


def test_the_whole_cohort_stays_small_and_its_licences_lie_beside_it():
    files = [path for path in (DATA / "included").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    text = (DATA / "included" / "LICENCES.md").read_text(encoding="utf-8")
    for word in ("IXI", "CC BY-SA 3.0", "10.1007/s12021-017-9348-7", "brain-development.org"):
        assert word in text
    assert isinstance(nib.load(next(path for path in files if path.suffix == ".gz")), nib.Nifti1Image)
