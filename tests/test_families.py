"""Families of inserted lesions: exact truth, the sizes and contrasts asked for, and the same for the same seed."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage

from medvae.benchmark import make_plan, read_study
from medvae.cli import main
from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, Volume, read_volume, resample
from medvae.lesions import FAMILIES, SIZES_ML, insert_cohort, insert_family, read_shapes
from medvae.lesions import displacement as displacement_module
from medvae.lesions.families import BRIGHT
from medvae.lesions.geometry import Scene, signed_mm, soft
from medvae.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data_manifests"
OTHERS = [family for family in FAMILIES if family != "ms"]
EVERYWHERE = np.ones((3, 3, 3), bool)


@pytest.fixture(scope="module")
def scan():
    manifest = read_manifest(DATA / "included_t1.json")
    volume = read_volume(manifest.images(manifest.of_split("validation", healthy=True)[0])[0])
    mask = volume.array > 0
    return volume, mask, Scene.of(volume, mask)


@pytest.fixture(scope="module")
def made(scan):
    """A lesion of each family and size."""
    volume, mask, scene = scan
    return {
        (family, size): insert_family(volume, mask, family, size, rng=5, scene=scene)
        for family in OTHERS
        for size in SIZES_ML
    }


@pytest.mark.parametrize("family", OTHERS)
def test_truth_is_one_lesion_of_the_size_in_the_brain_and_what_is_far_from_it_is_untouched(scan, made, family):
    volume, mask, _ = scan
    for size, (low, high) in SIZES_ML.items():
        result = made[family, size]
        ml = result.truth.sum() * volume.geometry.voxel_volume_ml
        assert low <= ml <= high
        assert ml == pytest.approx(result.lesions[0].volume_ml)
        assert ndimage.label(result.truth, EVERYWHERE)[1] == 1
        assert not (result.truth & ~mask).any()
        assert result.array.dtype == np.float32
        assert np.isfinite(result.array).all()
        assert (result.array >= 0).all()
        changed = result.array != volume.array
        assert not changed[~mask].any()
        assert changed[result.truth].mean() > 0.9
        reach = 60.0 if family == "mass_effect" else 14.0
        far = ndimage.distance_transform_edt(~result.truth, volume.geometry.spacing_mm) > reach
        assert result.array[far].tobytes() == volume.array[far].tobytes()


@pytest.mark.parametrize("family", OTHERS)
def test_the_same_seed_gives_the_same_lesion_and_another_seed_another(scan, made, family):
    volume, mask, _ = scan
    again = insert_family(volume, mask, family, "small", rng=5)
    assert again.array.tobytes() == made[family, "small"].array.tobytes()
    assert again.truth.tobytes() == made[family, "small"].truth.tobytes()
    assert not np.array_equal(insert_family(volume, mask, family, "small", rng=6).truth, again.truth)


def test_each_family_looks_as_it_should(scan, made):
    volume, _, scene = scan

    def ratio(family, size):
        result = made[family, size]
        return result.array[result.truth] / volume.array[result.truth]

    for size in SIZES_ML:
        assert np.median(ratio("stroke", size)) < 0.95
        assert np.median(ratio("tumour", size)) < 0.95
        level = np.median(made["bright", size].array[made["bright", size].truth]) / scene.level
        assert BRIGHT[0] - 0.08 < level < BRIGHT[1] + 0.05  # an edge and a share of the tissue beneath
        result = made["texture", size]
        before, after = volume.array[result.truth], result.array[result.truth]
        assert after.mean() == pytest.approx(before.mean(), rel=1e-3)
        assert np.abs(after - before).mean() > 0.02 * scene.level
    core = made["tumour", "large"]
    assert np.quantile(core.array[core.truth], 0.02) < 0.65 * scene.level
    wet = core.truth & (core.array > 0.65 * scene.level) & scene.white
    assert np.median(core.array[wet] / volume.array[wet]) < 0.95  # oedema, too, is darker than it was
    stroke = made["stroke", "large"]
    assert scene.depth[stroke.truth].min() < 4.5  # cortex is included
    assert not (stroke.truth & ~scene.tissue).any()


def test_mass_effect_moves_tissue_and_folds_nothing(monkeypatch):
    """On stripes, which show where tissue came from: truth is the core and what has moved by 2 mm or more."""
    shape, spacing = (60, 60, 60), 2.0
    geometry = Geometry(np.diag([spacing, spacing, spacing, 1.0]), shape)
    x = np.indices(shape)[0] * spacing
    radius = np.sqrt(((np.indices(shape) - 29.5) ** 2).sum(axis=0)) * spacing
    mask = radius < 56
    array = np.where(mask, 100 + x, 0).astype(np.float32)
    scene = Scene(array, mask, mask & (radius < 20), mask, 58 - radius, 100.0, geometry)
    monkeypatch.setattr(displacement_module, "FADE", (0.0, 0.0))
    pulled, truth = displacement_module.mass_effect(scene, 15.0, np.random.default_rng(0))
    assert truth.sum() * geometry.voxel_volume_ml == pytest.approx(15.0, rel=0.1)
    came_from = np.where(mask, pulled - 100, 0.0)
    moved = np.abs(came_from - x)[mask & (radius < 40)]
    assert 2.0 < moved.max() < 12
    far = mask & ~truth & (radius < 40)
    assert np.abs(came_from - x)[far].max() < 2.0 + 0.1  # what has moved farther is truth
    steps = np.diff(came_from, axis=0)[mask[1:] & mask[:-1] & (radius[1:] < 40)]
    assert steps.min() > -1e-2  # order is kept along the stripes
    assert ndimage.label(truth, EVERYWHERE)[1] == 1


def test_edges_and_distances_are_in_mm(scan):
    _, _, scene = scan
    form = np.zeros(scene.mask.shape, bool)
    form[30:50, 30:50, 30:50] = True
    away = signed_mm(form, 10.0, scene)
    assert (away[30, 40, 40], away[29, 40, 40], away[27, 40, 40]) == (1, -1, -5)  # 2 mm voxels
    assert away[0, 0, 0] == -np.inf
    weight = soft(form, 2.0, scene)
    assert weight[40, 40, 40] == pytest.approx(1, abs=1e-4)
    assert weight[30, 40, 40] > 0.5 > weight[29, 40, 40] > 0
    assert (weight[:26] == 0).all()


@pytest.mark.parametrize("family", ["tumour", "stroke"])
def test_sizes_hold_on_another_grid(scan, family):
    volume, mask, _ = scan
    grid = Geometry(volume.geometry.affine @ np.diag([0.75, 0.75, 1.5, 1.0]), (106, 128, 53))
    finer = resample(volume.array, volume.geometry, grid, outside=0.0)
    brain = resample(mask.astype(np.float32), volume.geometry, grid, outside=0.0) > 0.5
    result = insert_family(Volume(np.where(brain, finer, 0), grid), brain, family, "medium", rng=3)
    assert SIZES_ML["medium"][0] <= result.truth.sum() * grid.voxel_volume_ml <= SIZES_ML["medium"][1]


def test_a_scan_without_room_or_of_standardised_intensities_is_refused(scan):
    volume, mask, _ = scan
    speck = np.zeros_like(mask)
    speck[38:42, 46:50, 38:42] = True
    with pytest.raises(MedvaeError, match="no room for a lesion of the family tumour, large"):
        insert_family(volume, speck, "tumour", "large", rng=0)
    with pytest.raises(MedvaeError, match="negative intensities"):
        insert_family(Volume(volume.array - 100, volume.geometry), mask, "bright", "small", rng=0)


def test_the_benchmark_is_independent_of_what_methods_learn_from():
    """No module of the benchmark families imports the training's synthesis, nor the other way round."""
    package = ROOT / "medvae" / "lesions"
    learned = {"medvae.lesions.synthesis", "medvae.lesions.fields", "medvae.lesions.patients"}
    for name in ("families", "geometry", "displacement", "cohort", "insertion", "outlines", "tissue"):
        tree = ast.parse((package / f"{name}.py").read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {module for module in modules if module and module.startswith("medvae.lesions")}
        assert not ours & learned
    for path in [package / "synthesis.py", package / "fields.py", *(package / "patients").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        ours = {module for module in modules if module.startswith("medvae.lesions")}
        assert all(module in learned or module.startswith("medvae.lesions.patients.") for module in ours), path


# --- cohorts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Two healthy test scans of the included cohort, and a validation scan."""
    from medvae.benchmark import combine

    included = read_manifest(DATA / "included_t1.json")
    healthy = [*included.of_split("test", healthy=True)[:2], *included.of_split("validation", healthy=True)[:1]]
    return combine(tmp_path / "two.json", "two", [(included, healthy)])


def test_lesions_of_ms_are_what_they_were_bit_by_bit(two, tmp_path):
    """Published results rest on them. Digests of arrays: compressed files differ between versions of zlib."""
    shapes = read_shapes(DATA / "included" / "lesion_shapes.npz")
    written = insert_cohort(two, tmp_path / "ms", shapes=shapes, seed=2026)
    digests = {}
    for case in written.cases:
        arrays = [read_volume(f).array for f in (written.images(case)[0], written.resolve(case.label))]
        digests[case.id] = hashlib.sha256(b"".join(a.astype(np.uint8).tobytes() for a in arrays)).hexdigest()[:16]
    assert digests == MS_DIGESTS
    table = (tmp_path / "ms" / "inserted_lesions.csv").read_bytes()
    assert hashlib.sha256(table).hexdigest()[:16] == MS_TABLE


MS_DIGESTS = {"IXI049_inserted-0": "80c98ac73e3c8d66", "IXI180_inserted-0": "4a7760cfde97d453"}
MS_TABLE = "f4bfb742b24a1491"


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0, "".join(capsys.readouterr())


def test_a_cohort_for_each_family_from_the_command_line(two, tmp_path, capsys, monkeypatch):
    out = tmp_path / "fämilies of lesions"
    command = ["manifest", "inserted", two.path, "--out", out, "--family", "bright", "--family", "stroke", "--quiet"]
    command += ["--size", "small"]
    code, said = run(capsys, monkeypatch, *command)
    assert code == 0, said
    assert said.count("2 scans with lesions, 3 healthy") == 2
    for family in ("bright", "stroke"):
        manifest = read_manifest(out / family / "cohort.json")
        ill = [case for case in manifest.cases if not case.healthy]
        assert len(ill) == 2
        assert {case.split for case in ill} == {"test"}
        assert {case.id.split("_")[1] for case in ill} == {f"{family}-small-0"}
        for case in ill:
            source = read_volume(two.images(two.case(case.subject_id))[0])
            image, truth = (read_volume(f) for f in (manifest.images(case)[0], manifest.resolve(case.label)))
            assert image.geometry == source.geometry == truth.geometry
            assert ((image.array > 0) == (source.array > 0)).all()  # the nonzero region is the brain still
            if family == "stroke":
                assert image.header.get_data_dtype() == source.header.get_data_dtype()
            else:  # brighter than the file's integers reach: they must not wrap around
                assert np.median(image.array[truth.array > 0]) > np.median(source.array[source.array > 0])
    code, said = run(capsys, monkeypatch, *command)
    assert (code, "holds bright, stroke already" in said) == (1, True)
    code, said = run(capsys, monkeypatch, *command, "--overwrite")
    assert code == 0
    for wrong, words in (
        (["--family", "tumor"], '"tumor" is none of ms, tumour'),
        (["--family", "ms"], "give a library"),
        (["--size", "huge"], '"huge" is none of small'),
        (["--split", "train"], '"train" is none of test'),
    ):
        code, said = run(capsys, monkeypatch, *command[:5], "--out", tmp_path / "other", *wrong)
        assert (code, words in " ".join(said.split())) == (1, True), said
    assert not (tmp_path / "other").exists()


def test_a_case_does_not_depend_on_the_other_cases_or_sizes(two, tmp_path):
    every = insert_cohort(two, tmp_path / "a", seed=1, family="bright", sizes=["small", "large"])
    one = two.model_copy(update={"cases": two.cases[1:2]})
    one._path = two.path
    alone = insert_cohort(one, tmp_path / "b", seed=1, family="bright", sizes=["large"])
    name = alone.cases[0].id
    assert alone.cases[0].sha256 == every.case(name).sha256
    other = insert_cohort(one, tmp_path / "c", seed=2, family="bright", sizes=["large"])
    assert other.cases[0].sha256 != alone.cases[0].sha256


def test_a_study_has_a_target_for_each_family_and_that_of_ms_keeps_its_key(tmp_path):
    def targets(**inserted):
        content = {"name": "s", "manifest": str(DATA / "included_t1.json"), "inserted": inserted}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return {target.name: target.key for target in make_plan(read_study(path)).targets}

    shapes = str(DATA / "included" / "lesion_shapes.npz")
    before = targets(shapes=shapes, seed=3)
    both = targets(shapes=shapes, seed=3, families=["ms", "tumour", "mass_effect"])
    assert list(both) == ["patients", "inserted", "inserted_tumour", "inserted_mass_effect"]
    assert both["inserted"] == before["inserted"]
    assert len(set(both.values())) == 4
    alone = targets(seed=3, families=["tumour"])
    assert alone["inserted_tumour"] == both["inserted_tumour"]
    assert targets(seed=3, families=["tumour"], sizes=["small"])["inserted_tumour"] != alone["inserted_tumour"]
    assert targets(seed=4, families=["tumour"])["inserted_tumour"] != alone["inserted_tumour"]
    json.dumps(both)
