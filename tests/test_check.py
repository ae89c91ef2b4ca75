"""Every kind of defect is found in a small cohort of ellipsoid brains, named, and nothing else is."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.manifest import read_manifest, read_manifest_as_it_is
from medvae.preparation.check import check_case
from medvae.preparation.cohort_check import check_cohort, write_report
from medvae.preparation.fingerprint import FEATURES, brain_features, fingerprint, intensity_features

GRID = Geometry(np.array([[4.0, 0, 0, -80], [0, 4, 0, -92], [0, 0, 4, -72], [0, 0, 0, 1]]), (40, 46, 36))
RADII_MM = (62, 76, 56)


def ellipsoid(*radii_mm: float) -> np.ndarray:
    centred = [(np.arange(n) - (n - 1) / 2) * 4 / radius for n, radius in zip(GRID.shape, radii_mm, strict=True)]
    x, y, z = np.meshgrid(*centred, indexing="ij")
    return x**2 + y**2 + z**2 < 1


def brain(seed: int, *, kind: str = "T1") -> np.ndarray:
    """Bright white matter, grey rim, dark ventricles (T1), or the other way round (T2)."""
    rng = np.random.default_rng(seed)
    inside, ventricles = ellipsoid(*RADII_MM), ellipsoid(18, 26, 12)
    rim = inside & ~ellipsoid(*(r - 8 for r in RADII_MM))
    white, grey, fluid = (200, 120, 40) if kind == "T1" else (60, 90, 220)
    values = np.full(GRID.shape, float(white))
    values[rim], values[ventricles] = grey, fluid
    values = ndimage.gaussian_filter(values, 0.7) + rng.normal(0, 4, GRID.shape)
    return np.where(inside, np.clip(values, 1, None), 0).astype(np.float32)


def lesion() -> np.ndarray:
    found = np.zeros(GRID.shape, np.uint8)
    found[12:15, 20:23, 18:20] = 1
    return found


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Ten healthy training scans of site A, a validation scan, and a patient with mask and label."""
    folder = tmp_path_factory.mktemp("pristine")
    cases = []
    for seed in range(12):
        name = f"p{seed:02d}"
        write_volume(folder / f"{name}.nii.gz", brain(seed), GRID)
        split = "train" if seed < 10 else "validation" if seed == 10 else "test"
        cases.append({"id": name, "image": f"{name}.nii.gz", "split": split, "site": "A"})
    write_volume(folder / "mask.nii.gz", ellipsoid(*RADII_MM).astype(np.uint8), GRID)
    write_volume(folder / "lesion.nii.gz", lesion(), GRID)
    cases[11] |= {"mask": "mask.nii.gz", "label": "lesion.nii.gz"}
    document = {"name": "small", "modality": {"0": "T1"}, "label_values": {"lesion": [1]}, "cases": cases}
    (folder / "cohort.json").write_text(json.dumps(document))
    return folder


class Cohort:
    """A copy of the pristine cohort that a test may spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "cohort.json"
        self.document = json.loads(self.path.read_text())
        self.cases = self.document["cases"]

    def write(self, name: str, array: np.ndarray, geometry: Geometry = GRID) -> None:
        write_volume(self.folder / name, array, geometry)

    def header(self, name: str, **fields) -> None:
        image = nib.load(self.folder / name)
        content = bytearray(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_bytes())
        header = nib.Nifti1Header(bytes(content[:348]))
        for key, value in fields.items():
            header[key] = value
        content[:348] = header.binaryblock
        (self.folder / name).write_bytes(content)

    def check(self, **options):
        self.path.write_text(json.dumps(self.document))
        return check_cohort(self.path, jobs=1, quiet=True, **options)


@pytest.fixture
def cohort(pristine, tmp_path) -> Cohort:
    return Cohort(Path(shutil.copytree(pristine, tmp_path / "a [b] ü cohort")))


DEFECTS = {}


def defect(severity, kind, case, words):
    def register(function):
        DEFECTS[function.__name__] = (function, severity, kind, case, words)
        return function

    return register


@defect("error", "file", "p03", "no such file")
def missing_image(c):
    (c.folder / "p03.nii.gz").unlink()


@defect("error", "file", "p11", "no such file")
def missing_mask(c):
    (c.folder / "mask.nii.gz").unlink()


@defect("error", "file", "p11", "no such file")
def missing_label(c):
    (c.folder / "lesion.nii.gz").unlink()


@defect("error", "file", "p03", "cut off")
def cut_image(c):
    path = c.folder / "p03.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])


@defect("error", "file", "p03", "cannot be read")
def text(c):
    (c.folder / "p03.nii.gz").write_text("hello")


@defect("error", "file", "p03", "single 3D volume")
def four_dimensions(c):
    nib.save(nib.Nifti1Image(np.stack([brain(3)] * 2, -1), GRID.affine), c.folder / "p03.nii.gz")


@defect("error", "file", "p03", "not at right angles")
def sheared(c):
    c.header("p03.nii.gz", srow_x=[4, 1.2, 0, -80])


@defect("warning", "header", "p03", "not quite at right angles")
def almost_sheared(c):
    c.header("p03.nii.gz", srow_x=[4, 0.02, 0, -80])


@defect("warning", "header", "p03", "qform and sform lie up to 6.0 mm apart")
def two_places(c):
    c.header("p03.nii.gz", qoffset_x=-74)


@defect("warning", "header", "p03", "left and right are a guess")
def no_place(c):
    c.header("p03.nii.gz", qform_code=0, sform_code=0)


@defect("warning", "header", "p03", "gives lengths in meter")
def metres(c):
    c.header("p03.nii.gz", xyzt_units=1)


@defect("warning", "values", "p03", "its background is NaN")
def nan_around(c):
    c.write("p03.nii.gz", np.where(brain(3) > 0, brain(3), np.nan))


@defect("error", "values", "p03", "2 voxels that are NaN or infinite")
def not_finite(c):
    array = brain(3)
    array[18, 20, 20], array[20, 20, 20] = np.nan, np.inf
    c.write("p03.nii.gz", array)


@defect("error", "values", "p03", "all voxels inside the brain are 7")
def constant(c):
    c.write("p03.nii.gz", np.where(ellipsoid(*RADII_MM), 7, 0).astype(np.float32))


@defect("warning", "values", "p10", "may be a label map")
def label_map(c):
    c.write("p10.nii.gz", np.digitize(brain(10), [1, 70, 160]).astype(np.uint8))


@defect("error", "mask", "p03", "is empty")
def empty_image(c):
    c.write("p03.nii.gz", np.zeros(GRID.shape, np.float32))


@defect("error", "mask", "p03", "looks like a whole head")
def with_its_skull(c):
    c.write("p03.nii.gz", brain(3) + np.random.default_rng(0).normal(30, 5, GRID.shape))


@defect("error", "mask", "p11", "the brain mask is empty")
def empty_mask(c):
    c.write("mask.nii.gz", np.zeros(GRID.shape, np.uint8))


@defect("error", "mask", "p11", "covers 100% of the volume")
def full_mask(c):
    c.write("mask.nii.gz", np.ones(GRID.shape, np.uint8))


@defect("warning", "mask", "p11", "values other than 0 and 1")
def soft_mask(c):
    c.write("mask.nii.gz", ellipsoid(*RADII_MM).astype(np.float32) * 0.9)


@defect("warning", "mask", "p11", "of the brain mask lies where")
def mask_larger_than_the_brain(c):
    c.write("mask.nii.gz", ellipsoid(*(r + 8 for r in RADII_MM)).astype(np.uint8))


@defect("warning", "mask", "p11", "its brain measures")
def a_brain_too_small(c):
    c.write("mask.nii.gz", ellipsoid(*(r - 20 for r in RADII_MM)).astype(np.uint8))


@defect("error", "grid", "p11", "has shape (10, 10, 10)")
def mask_of_another_shape(c):
    c.write("mask.nii.gz", np.ones((10, 10, 10), np.uint8), Geometry(GRID.affine, (10, 10, 10)))


@defect("error", "grid", "p11", "mm away from its image")
def label_elsewhere(c):
    affine = GRID.affine.copy()
    affine[0, 3] += 4
    c.write("lesion.nii.gz", lesion(), Geometry(affine, GRID.shape))


@defect("error", "label", "p11", "label values 7, which the manifest's label_values (1) do not name")
def unknown_label_value(c):
    c.write("lesion.nii.gz", lesion() * 7)


@defect("error", "label", "p11", "no whole numbers (as 0.5)")
def label_between(c):
    c.write("lesion.nii.gz", lesion().astype(np.float32) / 2)


@defect("warning", "label", "p11", "holds no lesion")
def empty_label(c):
    c.write("lesion.nii.gz", np.zeros(GRID.shape, np.uint8))


@defect("error", "label", "p11", "no lesion voxel lies inside the brain")
def lesion_outside(c):
    c.write("lesion.nii.gz", np.roll(lesion(), 18, axis=2))


@defect("warning", "label", "p11", "more than half of the brain")
def brain_mask_as_label(c):
    shutil.copy(c.folder / "mask.nii.gz", c.folder / "lesion.nii.gz")


@defect("error", "checksum", "p03", "the file has changed")
def another_checksum(c):
    c.cases[3]["sha256"] = "0" * 64


@defect("error", "duplicate", "p10", "One scan stands for several subjects")
def same_scan_of_two_subjects_packed_differently(c):
    write_volume(c.folder / "p10.nii.gz", brain(3).astype(np.float64), GRID)
    assert sha256(c.folder / "p10.nii.gz") != sha256(c.folder / "p03.nii.gz")


@defect("warning", "duplicate", "p04", "p03.nii.gz")
def same_scan_twice_of_a_subject(c):
    shutil.copy(c.folder / "p03.nii.gz", c.folder / "p04.nii.gz")
    c.cases[3]["subject"] = c.cases[4]["subject"] = "twin"


@defect("warning", "modality", "p11", "the manifest calls it T1, where fluid is dark")
def t2_as_t1(c):
    c.write("p11.nii.gz", brain(11, kind="T2"))


@defect("warning", "modality", "p11", "the manifest calls it T2w, where fluid is bright")
def t1_as_t2(c):
    c.document["modality"] = {"0": "T2w"}


@defect("error", "manifest", "p04", 'subject "somebody" is in two splits')
def subject_in_two_splits(c):
    c.cases[10]["subject"], c.cases[4]["subject"] = "somebody", "somebody"
    c.cases.insert(0, c.cases.pop(10))


@defect("error", "manifest", "p04", "used more than once")
def repeated_id(c):
    c.cases[5]["id"] = "p04"


@defect("error", "manifest", "p04", "2 image(s), the manifest names 1")
def too_many_images(c):
    c.cases[4] |= {"image": ["p04.nii.gz", "p04.nii.gz"], "sha256": ["0" * 64]}


@defect("error", "manifest", "p04", '"split"')
def unknown_split(c):
    c.cases[4]["split"] = "val"


@defect("error", "manifest", "p11", 'says "unlabelled"')
def labelled_and_unlabelled(c):
    c.cases[11]["unlabelled"] = True


@defect("error", "manifest", None, "an object with named keys was expected")
def a_case_that_is_none(c):
    c.cases[4] = "p04.nii.gz"


def test_a_good_cohort_has_no_findings(cohort):
    found = cohort.check()
    assert found.findings == ()
    assert [case.id for case in found.cases] == [f"p{seed:02d}" for seed in range(12)]
    patient = found.cases[-1]
    assert (patient.kind, patient.shape, patient.orientation) == ("lesion", GRID.shape, "RAS")
    assert patient.lesion_ml == pytest.approx(3 * 3 * 2 * 0.064)
    assert patient.brain_ml == pytest.approx(4 / 3 * np.pi * np.prod(RADII_MM) / 1000, rel=0.02)


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_found_and_named(cohort, name):
    spoil, severity, kind, case, words = DEFECTS[name]
    spoil(cohort)
    found = cohort.check()
    matching = [f for f in found.findings if (f.severity, f.kind, f.case) == (severity, kind, case)]
    assert any(words in f.message for f in matching), found.findings
    innocent = {f.case for f in found.findings} - {case, "p05"}  # p05 is the other one of a pair
    assert not innocent or name in ("t1_as_t2",), found.findings
    if severity == "warning":
        assert found.count("error") == 0


def test_everything_is_reported_at_once(cohort):
    chosen = ["missing_image", "missing_mask", "unknown_label_value", "repeated_id"]
    for name in chosen:
        DEFECTS[name][0](cohort)
    cohort.cases[10]["subject"] = cohort.cases[0]["subject"] = "somebody"
    del cohort.cases[7]["image"]
    found = cohort.check()
    text = "\n".join(f.message for f in found.findings)
    for words in (
        *(DEFECTS[name][4] for name in chosen),
        'subject "somebody" is in two splits',
        '"image" is missing',
    ):
        assert words in text
    assert found.entries == 12
    del cohort.cases[7]
    cohort.path.write_text(json.dumps(cohort.document))
    with pytest.raises(MedvaeError, match="more problems: medvae check") as caught:
        read_manifest(cohort.path)
    assert "used more than once" in str(caught.value)


def test_a_manifest_that_says_nothing_is_refused(cohort):
    for document, words in (([], "named keys"), ({"name": "x", "cases": []}, '"modality" is missing'),
                            ({"name": "x", "modality": {"0": "T1"}}, '"cases" is missing')):  # fmt: skip
        cohort.document = document
        with pytest.raises(MedvaeError, match=re.escape(words)):
            cohort.check()


def test_a_manifest_without_cases_is_an_error(cohort):
    cohort.document["cases"] = []
    assert [f.message for f in cohort.check().findings] == [f"{cohort.path}: lists no case."]


def test_reading_as_it_is_keeps_good_cases_and_paths(cohort):
    cohort.cases[0] = {"id": "odd"}
    cohort.path.write_text(json.dumps(cohort.document))
    manifest, malformed = read_manifest_as_it_is(cohort.path)
    assert [name for name, _ in malformed] == ["odd"]
    assert len(manifest.cases) == 11
    assert all(manifest.images(case)[0].is_file() for case in manifest.cases)


def test_the_number_of_processes_changes_nothing(cohort):
    cut_image(cohort)
    one = cohort.check()
    two = check_cohort(cohort.path, jobs=2, quiet=True)
    assert two == one


def test_another_site_is_told_once_and_a_lone_case_by_itself(cohort):
    for seed in (10, 11):
        array = brain(seed)
        noise = np.random.default_rng(seed).normal(0, 9, GRID.shape)
        array = np.where(array > 0, 150 + 0.3 * (array - 150) + noise, 0)  # flat and noisy
        cohort.write(f"p{seed}.nii.gz", array.astype(np.float32))
        cohort.cases[seed]["site"] = "B"
    found = cohort.check()
    sites = [f for f in found.findings if f.kind == "drift" and f.case is None]
    assert [f.severity for f in sites] == ["warning"]
    assert 'site "B" (2 cases) is unlike the 10 healthy training scans' in sites[0].message
    assert "T1.grain" in sites[0].message
    told = set(found.fingerprint.drift_of_sites()["B"])
    for finding in (f for f in found.findings if f.kind == "drift" and f.case):
        assert not any(f"{key} " in finding.message for key in told)

    cohort.cases[11]["site"] = "C"  # a site of one case has no median to speak of
    found = cohort.check()
    assert {f.case for f in found.findings if f.kind == "drift"} == {"p10", "p11"}


def test_too_few_training_scans_are_not_compared_with(cohort):
    for case in cohort.cases[:5]:
        case["unlabelled"] = True
    found = cohort.check()
    assert found.findings == ()
    assert found.fingerprint.z == {}


def test_reports_are_whole_json_and_say_what_was_printed(cohort, tmp_path):
    cut_image(cohort)
    found = cohort.check()
    report, prints = (json.loads(path.read_text()) for path in write_report(found, tmp_path / "out"))
    assert report["errors"] == 1
    assert [f["case"] for f in report["findings"] if f["severity"] == "error"] == ["p03"]
    assert [case["id"] for case in report["cases"]] == [f"p{seed:02d}" for seed in range(12)]
    assert prints["reference"]["cases"] == [f"p{seed:02d}" for seed in range(10) if seed != 3]
    assert prints["shapes"] == {"40 × 46 × 36": 11}
    quantiles = prints["reference"]["intensities"]["T1"]
    assert quantiles["p1"]["median"] < quantiles["p50"]["median"] < quantiles["p99"]["median"]
    assert set(prints["features"]) == set(FEATURES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "fingerprint.json"]


def test_features_do_not_depend_on_the_unit_of_intensity_nor_on_the_orientation():
    array, mask = brain(0), ellipsoid(*RADII_MM)
    features = intensity_features(array, mask, GRID)
    assert set(features) | set(brain_features(mask, GRID)) == set(FEATURES)
    scaled = intensity_features(array * 37 - 500, mask, GRID)
    turned = Geometry(GRID.affine[:, [2, 0, 1, 3]], tuple(GRID.shape[i] for i in (2, 0, 1)))
    moved = intensity_features(array.transpose(2, 0, 1), mask.transpose(2, 0, 1), turned)
    for key, value in features.items():
        assert scaled[key] == pytest.approx(value, rel=1e-3), key
        assert moved[key] == pytest.approx(value, rel=1e-3), key


def test_features_say_what_they_mean(repository):
    mask = ellipsoid(*RADII_MM)
    t1, t2 = (intensity_features(brain(0, kind=kind), mask, GRID) for kind in ("T1", "T2"))
    assert t1["fluid"] < -0.15 < 0.15 < t2["fluid"]
    assert t2["contrast"] < 0 < t1["contrast"]
    noisy = intensity_features(brain(0) + np.random.default_rng(1).normal(0, 12, GRID.shape), mask, GRID)
    assert noisy["grain"] > 2 * t1["grain"]
    scan = read_volume(repository / "data_manifests" / "included" / "ixi" / "IXI012_T1.nii.gz")
    sharp, blurred = (
        intensity_features(array, scan.array > 0, scan.geometry)
        for array in (scan.array, ndimage.gaussian_filter(scan.array, 0.8))
    )
    for key in ("sharpness", "grain"):
        assert blurred[key] < 0.9 * sharp[key]


def test_a_robust_z_value_is_not_moved_by_an_outlier():
    rng = np.random.default_rng(0)
    features = {f"c{i}": {"x": float(v)} for i, v in enumerate(rng.normal(10, 1, 400))}
    reference = list(features)
    features |= {"far": {"x": 20.0}}
    clean = fingerprint(features, reference, {}).z["far"]["x"]
    assert clean == pytest.approx(10, rel=0.15)
    features["c0"] = {"x": 1e6}
    assert fingerprint(features, reference, {}).z["far"]["x"] == pytest.approx(clean, rel=0.02)


def test_the_included_cohort_passes_and_the_other_scanner_is_noticed(repository):
    found = check_cohort(repository / "data_manifests" / "included_t1.json", jobs=1, quiet=True)
    assert found.count("error") == 0
    assert [(f.kind, f.case) for f in found.findings] == [("drift", None)]
    assert 'site "Ljubljana" (2 cases)' in found.findings[0].message


def test_a_second_modality_is_checked_too(repository):
    """FLAIR of a patient passes as FLAIR; called T2 it is doubted, and on another grid it is refused."""
    t1, flair = (read_manifest(repository / "data_manifests" / f"included_{n}.json") for n in ("t1", "flair_ms"))
    case = t1.case("patient26")
    both = case.model_copy(
        update={"image": [str(t1.images(case)[0].resolve()), str(flair.images(flair.case("patient26"))[0].resolve())]}
    )
    both = both.model_copy(update={"sha256": None})
    for name, kinds in (("FLAIR", []), ("T2", ["modality"])):
        manifest = t1.model_copy(update={"modality": {"0": "T1", "1": name}})
        found = check_case(manifest, both)
        assert [f.kind for f in found.findings] == kinds
        assert {"T1.fluid", f"{name}.fluid", "brain_ml"} <= set(found.features)
        assert len(set(found.contents.values())) == 2
    assert read_volume(both.image[1]).geometry.shape == found.shape


def test_ids_that_look_like_one_person_in_two_splits_are_told(tmp_path):
    names = [("P01_t0", "train"), ("P01_t1", "test"), ("P02_1", "train"), ("P02_2", "validation")]
    names += [("P03_1", "train"), ("P03_2", "train"), ("P04", "test"), ("P05", "train")]
    cases = [{"id": name, "image": f"{name}.nii", "split": split} for name, split in names]
    cases += [
        {"id": f"P06_{n}", "subject": f"p6{n}", "image": "x.nii", "split": s} for n, s in ((1, "train"), (2, "test"))
    ]
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"name": "c", "modality": {"0": "T1"}, "cases": cases}))
    found = [finding for finding in check_cohort(path, jobs=1, quiet=True).findings if finding.kind == "person"]
    assert [(f.severity, f.case) for f in found] == [("warning", "P02_2"), ("warning", "P01_t1")]
    assert '"subject": "P01"' in found[1].message
