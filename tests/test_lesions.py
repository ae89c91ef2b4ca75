import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.imaging.volume import Geometry, Volume, read_volume, write_volume
from medvae.lesions import Settings, Shapes, insert, insert_cohort, lesion_contrast, read_shapes, white_matter
from medvae.lesions.outlines import rasterise
from medvae.manifest import Case, Manifest, read_manifest, write_manifest

DATA = Path(__file__).parent.parent / "data_manifests"
EVERYWHERE = np.ones((3, 3, 3))


def ball(radius: float) -> np.ndarray:
    grid = np.indices((2 * int(radius) + 1,) * 3) - int(radius)
    return (grid**2).sum(axis=0) <= radius**2


def library(*shapes: np.ndarray, patients: list[int] | None = None) -> Shapes:
    lengths = np.array([shape.size for shape in shapes])
    return Shapes(
        np.packbits(np.concatenate([shape.ravel() for shape in shapes])),
        np.array([shape.shape for shape in shapes]),
        np.cumsum(lengths) - lengths,
        np.array(patients or [1] * len(shapes)),
        np.array([shape.sum() / 1000.0 for shape in shapes]),
        np.ones(3),
    )


SHAPES = library(ball(3), ball(4), ball(5), ball(7), np.ones((4, 14, 6), bool), patients=[1, 1, 2, 2, 2])


def head(spacing_mm: float = 2.0, seed: int = 0) -> tuple[Volume, np.ndarray, np.ndarray]:
    """An ellipsoid brain: white matter inside grey matter, with a ventricle and noise; its mask and white matter."""
    shape = tuple(int(n / spacing_mm) for n in (128, 144, 112))
    affine = np.array([[-spacing_mm, 0, 0, 60.0], [0, spacing_mm, 0, -70.0], [0, 0, spacing_mm, -55.0], [0, 0, 0, 1]])
    grid = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    radius = np.sqrt(sum((axis * spacing_mm / half) ** 2 for axis, half in zip(grid, (56, 64, 48), strict=True)))
    mask, white, fluid = radius < 1, (radius < 0.8) & (radius >= 0.3), radius < 0.3
    array = np.where(white, 150.0, np.where(fluid, 40.0, 105.0)) + np.random.default_rng(seed).normal(0, 4, shape)
    return Volume((array * mask).round().astype(np.float32), Geometry(affine, shape)), mask, white


@pytest.fixture(scope="module")
def case() -> tuple[Volume, np.ndarray, np.ndarray]:
    return head()


def test_the_same_seed_gives_the_same_lesions_and_another_seed_others(case):
    volume, mask, _ = case
    first, again, other = (insert(volume, mask, SHAPES, rng=seed) for seed in (3, 3, 4))
    assert first.array.tobytes() == again.array.tobytes()
    assert first.truth.tobytes() == again.truth.tobytes()
    assert first.lesions == again.lesions
    assert not np.array_equal(first.truth, other.truth)


def test_only_lesions_and_their_edges_differ_from_the_healthy_scan(case):
    volume, mask, _ = case
    before = volume.array.copy()
    result = insert(volume, mask, SHAPES, rng=5, settings=Settings(count=3))
    assert np.array_equal(volume.array, before)
    changed = result.array != volume.array
    assert changed[result.truth].mean() > 0.99
    far = ndimage.distance_transform_edt(~result.truth, volume.geometry.spacing_mm) > 3 * 1.2 + 4
    assert result.array[far].tobytes() == volume.array[far].tobytes()
    assert not changed[~mask].any()


def test_lesions_lie_apart_in_white_matter_and_the_table_describes_them(case):
    volume, mask, white = case
    result = insert(volume, mask, SHAPES, rng=7, settings=Settings(count=6))
    labels, count = ndimage.label(result.truth, EVERYWHERE)
    assert len(result.lesions) == count == 6
    found = np.bincount(labels.ravel())[1:] * volume.geometry.voxel_volume_ml
    assert sorted(found) == pytest.approx(sorted(one.volume_ml for one in result.lesions))
    assert found.min() >= 0.05
    assert (result.truth & white_matter(volume, mask)).sum() >= 0.8 * result.truth.sum()
    assert (result.truth & white).sum() >= 0.7 * result.truth.sum()
    to_voxel = np.linalg.inv(volume.geometry.affine)
    for one in result.lesions:
        voxel = np.rint(to_voxel[:3] @ [*one.centre_mm, 1.0]).astype(int)
        number = labels[tuple(voxel)]  # the shapes here are convex: their centre is lesion
        assert found[number - 1] == pytest.approx(one.volume_ml)


@pytest.mark.parametrize("contrast", [0.6, 0.8, 0.95, 1.3])
def test_the_contrast_is_the_one_asked_for(case, contrast):
    volume, mask, white = case
    even = Volume(np.where(mask, 100.0, 0.0).astype(np.float32), volume.geometry)
    settings = Settings(count=4, contrast={0.0: contrast, 1.0: contrast})
    result = insert(even, mask, SHAPES, rng=1, settings=settings, white=white)
    rows = lesion_contrast(Volume(result.array, even.geometry), result.truth, white)
    assert len(rows) == 4
    assert [row.ratio for row in rows] == pytest.approx([contrast] * 4, abs=0.02)
    assert [one.contrast for one in result.lesions] == pytest.approx([contrast] * 4, abs=1e-3)
    healthy = lesion_contrast(even, result.truth, white)
    assert [row.ratio for row in healthy] == pytest.approx([1.0] * 4)


def test_contrasts_follow_the_quantiles(case):
    volume, mask, white = case
    settings = Settings(count=30, contrast={0.0: 0.5, 0.5: 0.6, 1.0: 0.9})
    drawn = [one.contrast for one in insert(volume, mask, SHAPES, rng=0, settings=settings, white=white).lesions]
    assert min(drawn) < 0.55
    assert max(drawn) > 0.75
    assert np.median(drawn) == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0])
def test_rotation_keeps_the_volume_and_scaling_multiplies_it(spacing_mm):
    geometry = Geometry(np.diag([-spacing_mm, spacing_mm, spacing_mm * 1.5, 1.0]), (64, 64, 64))
    box = np.ones((8, 14, 10), bool)

    def volume_mm3(**deformation):
        volumes = []
        for seed in range(6):
            _, fraction, depth = rasterise(box, np.ones(3), geometry, np.random.default_rng(seed), **deformation)
            assert (depth[fraction >= 0.5] > 0).all()
            assert all(not depth[cut].any() for axis in range(3) for cut in _ends(axis))
            volumes.append(fraction.sum() * geometry.voxel_volume_ml * 1000)
        return np.mean(volumes)

    assert volume_mm3() == pytest.approx(box.sum(), rel=0.08)
    assert volume_mm3(rotation_deg=180.0) == pytest.approx(box.sum(), rel=0.08)
    assert volume_mm3(scale=(1.3, 1.3), rotation_deg=30.0) == pytest.approx(box.sum() * 1.3**3, rel=0.08)
    assert volume_mm3(warp=0.1, edge_mm=1.0, texture=0.4) == pytest.approx(box.sum(), rel=0.1)


def _ends(axis):
    for end in (0, -1):
        cut = [slice(None)] * 3
        cut[axis] = end
        yield tuple(cut)


def test_a_lesion_has_the_same_size_in_mm_on_any_grid():
    settings = Settings(count=4, scale=(1.0, 1.0), warp=0.0)
    loads = []
    for spacing_mm in (1.25, 2.0):
        volume, mask, white = head(spacing_mm)
        result = insert(volume, mask, library(ball(6)), rng=2, settings=settings, white=white)
        loads.append(sum(one.volume_ml for one in result.lesions) / 4)
    assert loads == pytest.approx([ball(6).sum() / 1000] * 2, rel=0.15)


def test_the_lesions_of_a_scan_are_as_many_as_one_patient_has(case):
    volume, mask, white = case
    counts = {len(insert(volume, mask, SHAPES, rng=seed, white=white).lesions) for seed in range(5)}
    assert counts == {2, 3}


def test_white_matter_is_found_through_a_bias_field():
    volume, mask, white = head(seed=3)
    slope = np.linspace(0.85, 1.15, volume.array.shape[1])[None, :, None]
    found = white_matter(Volume((volume.array * slope).astype(np.float32), volume.geometry), mask)
    assert 2 * (found & white).sum() / (found.sum() + white.sum()) > 0.95
    inner = white_matter(volume, mask, erode_mm=4.0)
    assert inner.any()
    assert not (inner & ~ndimage.binary_erosion(white)).any()


def test_no_room_is_an_error(case):
    volume, mask, _ = case
    tiny = np.zeros_like(mask)
    tiny[30:34, 30:34, 30:34] = True
    with pytest.raises(MedvaeError, match="room for 0 lesions"):
        insert(volume, mask, library(ball(9)), rng=0, settings=Settings(count=1), white=tiny)


def test_standardised_intensities_are_refused(case):
    volume, mask, _ = case
    standard = Volume((volume.array - 110.0) / 25.0, volume.geometry)
    with pytest.raises(MedvaeError, match="negative intensities"):
        insert(standard, mask, SHAPES, rng=0)


def test_shapes_come_back_from_the_file(tmp_path):
    shapes = [ball(3), np.ones((2, 3, 5), bool), ball(4)]
    made = library(*shapes)
    np.savez(
        tmp_path / "shapes.npz", bits=made.bits, shapes=made.boxes, offsets=made.offsets, patients=made.patients,
        volumes_mm3=[shape.sum() for shape in shapes], spacing_mm=np.ones(3),
    )  # fmt: skip
    read = read_shapes(tmp_path / "shapes.npz")
    assert len(read) == 3
    for index, shape in enumerate(shapes):
        assert np.array_equal(read.shape(index), shape)
    with pytest.raises(MedvaeError, match="no such file"):
        read_shapes(tmp_path / "missing.npz")
    (tmp_path / "bad.npz").write_bytes(b"not a library")
    with pytest.raises(MedvaeError, match="no library of lesion shapes"):
        read_shapes(tmp_path / "bad.npz")


@pytest.fixture
def heads(tmp_path) -> Manifest:
    cases = []
    for number, split in enumerate(("test", "test", "train")):
        volume, mask, _ = head(seed=number)
        name = f"h{number}"
        write_volume(tmp_path / f"{name}.nii.gz", volume.array.astype(np.uint8), volume)
        write_volume(tmp_path / f"{name}_mask.nii.gz", mask.astype(np.uint8), volume)
        cases.append(Case(id=name, image=f"{name}.nii.gz", mask=f"{name}_mask.nii.gz", split=split, age=40.0 + number))
    manifest = Manifest(name="heads", modality={"0": "T1"}, cases=cases)
    return read_manifest(write_manifest(manifest, tmp_path / "heads.json"))


def test_a_cohort_is_written_with_truth_and_manifest(heads, tmp_path):
    out = tmp_path / "inserted"
    written = insert_cohort(heads, out, shapes=SHAPES, seed=1, repeats=2)
    assert written == read_manifest(out / "inserted.json")
    assert [case.id for case in written.cases] == ["h0_inserted-0", "h0_inserted-1", "h1_inserted-0", "h1_inserted-1"]
    assert {case.subject_id for case in written.cases} == {"h0", "h1"}
    assert {case.split for case in written.cases} == {"test"}
    with open(out / "inserted_lesions.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    for case in written.cases:
        assert not case.healthy
        assert case.sha256 == sha256(written.images(case)[0])
        source, scan = read_volume(heads.images(heads.case(case.subject_id))[0]), read_volume(written.images(case)[0])
        truth, mask = read_volume(written.resolve(case.label)), read_volume(written.resolve(case.mask))
        assert scan.header.get_data_dtype() == truth.header.get_data_dtype() == np.uint8
        assert scan.geometry == truth.geometry == mask.geometry == source.geometry
        assert set(np.unique(truth.array)) == {0, 1}
        assert not (truth.array[mask.array == 0]).any()
        assert (scan.array[source.array > 0] > 0).all()
        assert scan.array[truth.array > 0].mean() < 0.95 * source.array[truth.array > 0].mean()
        volumes = [float(row["volume_ml"]) for row in table if row["case"] == case.id]
        assert sum(volumes) == pytest.approx(truth.array.sum() * 0.008, abs=0.001 * len(volumes))


def test_a_cohort_comes_out_the_same_whatever_else_is_in_it(heads, tmp_path):
    insert_cohort(heads, tmp_path / "a", shapes=SHAPES, seed=1)
    fewer = read_manifest(write_manifest(heads.model_copy(update={"cases": heads.cases[1:2]}), tmp_path / "fewer.json"))
    insert_cohort(fewer, tmp_path / "b", shapes=SHAPES, seed=1)
    insert_cohort(fewer, tmp_path / "c", shapes=SHAPES, seed=2)
    names = ["h1_inserted-0_T1.nii.gz", "h1_inserted-0_lesions.nii.gz"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "c" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()


def test_a_cohort_of_another_modality_or_without_healthy_cases_is_refused(heads, tmp_path):
    flair = heads.model_copy(update={"modality": {"0": "FLAIR"}})
    with pytest.raises(MedvaeError, match="FLAIR"):
        insert_cohort(flair, tmp_path / "out", shapes=SHAPES, seed=1)
    with pytest.raises(MedvaeError, match="no healthy case in the split validation"):
        insert_cohort(heads, tmp_path / "out", shapes=SHAPES, seed=1, split="validation")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (DATA / "included_t1.json").exists(), reason="the included cohort is not there")
def test_real_shapes_in_a_real_head():
    shapes = read_shapes(DATA / "included" / "lesion_shapes.npz")
    assert not {7, 26} & set(shapes.patients.tolist())
    assert [int(shapes.shape(index).sum()) for index in range(0, len(shapes), 100)] == [
        round(shapes.volumes_ml[index] * 1000) for index in range(0, len(shapes), 100)
    ]
    manifest = read_manifest(DATA / "included_t1.json")
    volume = read_volume(manifest.images(manifest.of_split("validation", healthy=True)[0])[0])
    mask = volume.array > 0
    result = insert(volume, mask, shapes, rng=0, settings=Settings(count=8))
    white = white_matter(volume, mask)
    assert 0.25 < white.sum() / mask.sum() < 0.5
    assert len(result.lesions) == 8
    assert (result.truth & white).sum() >= 0.8 * result.truth.sum()
    assert not (result.truth & ~mask).any()
    assert all(0.6 < one.contrast < 1.0 for one in result.lesions)
    json.dumps([one.__dict__ for one in result.lesions])
