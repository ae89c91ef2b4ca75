import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, read_volume, resample, write_volume

RNG = np.random.default_rng(0)


def oblique(shape=(20, 24, 18), spacing=(1.0, 1.5, 2.0)) -> Geometry:
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag(spacing)
    affine[:3, 3] = [-12.5, 7.25, 30]
    return Geometry(affine, shape)


def oriented(codes: str, shape=(20, 24, 18)) -> Geometry:
    image = nib.Nifti1Image(np.zeros(shape, np.float32), np.diag([1.0, 1.5, 2.0, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "A", "S")), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = image.as_reoriented(turn)
    return Geometry(turned.affine, turned.shape)


GRIDS = {"RAS": oriented("RAS"), "LAS": oriented("LAS"), "PIR": oriented("PIR"), "oblique": oblique()}


@pytest.mark.parametrize("name", GRIDS)
def test_written_file_lies_where_it_should_for_nibabel_and_itk(tmp_path, name):
    geometry = GRIDS[name]
    array = RNG.random(geometry.shape, dtype=np.float32)
    path = write_volume(tmp_path / "map.nii.gz", array, geometry)

    image = nib.load(path)
    np.testing.assert_allclose(image.get_sform(), geometry.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), geometry.affine, atol=1e-5)
    assert int(image.header["qform_code"]) > 0
    assert int(image.header["sform_code"]) > 0
    np.testing.assert_array_equal(read_volume(path).array, array)

    itk = sitk.ReadImage(str(path))
    index = (3, 5, 7)
    expected = geometry.affine @ [*index, 1]
    found = np.array(itk.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]  # ITK counts in LPS
    np.testing.assert_allclose(found, expected[:3], atol=1e-4)
    assert itk[index] == array[index]


@pytest.mark.filterwarnings("ignore::medvae.errors.MedvaeWarning")
@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 0), (0, 2), (1, 4), (0, 0), (2, 1)])
def test_overlay_carries_the_placement_of_its_scan_verbatim(tmp_path, qform_code, sform_code):
    scan = nib.Nifti1Image(RNG.integers(0, 99, (6, 7, 8)).astype(np.int16), oblique((6, 7, 8)).affine)
    scan.header.set_slope_inter(2.5, 10)
    scan.set_qform(scan.affine, code=qform_code)
    scan.set_sform(scan.affine, code=sform_code)
    nib.save(scan, tmp_path / "scan.nii.gz")
    source = read_volume(tmp_path / "scan.nii.gz")

    overlay = RNG.random((6, 7, 8), dtype=np.float32)
    write_volume(tmp_path / "map.nii.gz", overlay, source)
    written, original = nib.load(tmp_path / "map.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    for key in ("pixdim", "qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(written.header[key], original.header[key], err_msg=key)
    np.testing.assert_array_equal(written.affine, original.affine)
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), overlay)  # the scan's slope is not inherited
    itk = [sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("scan", "map")]
    assert itk[0].GetOrigin() == itk[1].GetOrigin()
    assert itk[0].GetDirection() == itk[1].GetDirection()


@pytest.mark.parametrize("name", GRIDS)
def test_resampling_to_a_turned_copy_copies_the_values(name):
    source = GRIDS["RAS"]
    array = RNG.random(source.shape, dtype=np.float32)
    if name == "oblique":
        target = Geometry(
            source.affine @ np.array([[1, 0, 0, 2], [0, 1, 0, -3], [0, 0, 1, 1], [0, 0, 0, 1.0]]), (9, 9, 9)
        )
        expected = np.zeros((9, 9, 9), np.float32)
        expected[:, 3:, :] = array[2:11, 0:6, 1:10]
        np.testing.assert_array_equal(resample(array, source, target), expected)
        return
    target = GRIDS[name]
    there = resample(array, source, target)
    index = (4, 6, 5)
    world = source.affine @ [*index, 1]
    voxel = np.rint(np.linalg.inv(target.affine) @ world).astype(int)[:3]
    assert there[tuple(voxel)] == array[index]
    np.testing.assert_array_equal(resample(there, target, source), array)


def test_linear_resampling_keeps_a_linear_image_exactly():
    source, target = oriented("RAS", (40, 40, 40)), oblique((10, 10, 10))
    target = Geometry(
        target.affine @ np.diag([0.5, 0.5, 0.5, 1]) + np.array([[0, 0, 0, 25.0]] * 3 + [[0] * 4]), (8, 8, 8)
    )
    slope = np.array([0.3, -0.2, 0.5])
    array = (np.indices(source.shape).reshape(3, -1).T @ np.diag([1, 1.5, 2.0]) @ slope).reshape(source.shape)
    found = resample(array, source, target, antialias=False)
    voxels = np.indices(target.shape).reshape(3, -1)
    world = target.affine[:3, :3] @ voxels + target.affine[:3, 3:]
    inside = ((world > 1) & (world < np.array([[38.0], [57], [76]]))).all(0)
    assert inside.sum() > 100
    np.testing.assert_allclose(found.ravel()[inside], (slope @ world)[inside], atol=1e-3)


def test_transform_leads_from_target_to_source():
    grid = oriented("RAS")
    array = np.zeros(grid.shape, np.float32)
    array[10, 12, 9] = 1
    shift = np.eye(4)
    shift[:3, 3] = [2.0, -3.0, 4.0]  # mm: +2, -2 and +2 voxels
    moved = resample(array, grid, grid, transform=shift)
    assert moved[8, 14, 7] == 1
    assert moved.sum() == 1


def test_coarser_grid_averages_instead_of_skipping():
    fine = Geometry(np.eye(4), (32, 32, 32))
    coarse = Geometry(np.diag([2.0, 2, 2, 1]), (16, 16, 16))
    noise = RNG.standard_normal(fine.shape).astype(np.float32)
    assert resample(noise, fine, coarse).std() < 0.5
    np.testing.assert_allclose(resample(np.ones(fine.shape), fine, coarse), 1, atol=1e-6)


def bad_files(tmp_path):
    good = nib.Nifti1Image(RNG.random((9, 9, 9)).astype(np.float32), np.eye(4))
    nib.save(good, tmp_path / "good.nii.gz")
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(gzip.decompress(whole)[:1500]))
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "folder.nii.gz").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "four.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), tmp_path / "slice.nii.gz")
    nan = np.ones((4, 4, 4), np.float32)
    nan[1, 1, 1] = np.nan
    nib.save(nib.Nifti1Image(nan, np.eye(4)), tmp_path / "nan.nii.gz")
    shear = np.eye(4)
    shear[0, 1] = 0.3
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), shear), tmp_path / "shear.nii.gz")
    (tmp_path / "empty.nii.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.nii.gz", "no such file"),
        ("cut.nii.gz", "cut off"),
        ("short.nii.gz", "cut off"),
        ("text.nii.gz", "cannot be read as a volume"),
        ("empty.nii.gz", "cannot be read as a volume"),
        ("folder.nii.gz", "is a folder"),
        ("four.nii.gz", "single 3D volume was expected. Split it"),
        ("slice.nii.gz", "single 3D volume was expected. It is a slice"),
        ("nan.nii.gz", "1 voxels that are NaN"),
        ("shear.nii.gz", "not at right angles"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, words):
    bad_files(tmp_path)
    with pytest.raises(MedvaeError, match=words) as caught:
        read_volume(tmp_path / name)
    assert name in str(caught.value)


def test_singleton_fourth_axis_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 1), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.shape == (3, 4, 5)
    write_volume(tmp_path / "b.nii.gz", np.zeros((3, 4, 5), np.uint8), volume)
    assert nib.load(tmp_path / "b.nii.gz").shape == (3, 4, 5)


def test_same_bytes_every_time(tmp_path):
    array = RNG.random((5, 5, 5), dtype=np.float32)
    first = write_volume(tmp_path / "a.nii.gz", array, Geometry(np.eye(4), (5, 5, 5))).read_bytes()
    assert write_volume(tmp_path / "b.nii.gz", array, Geometry(np.eye(4), (5, 5, 5))).read_bytes() == first


def test_wrong_shape_is_refused(tmp_path):
    with pytest.raises(MedvaeError, match="shape"):
        write_volume(tmp_path / "a.nii.gz", np.zeros((2, 2, 2)), Geometry(np.eye(4), (3, 3, 3)))
    assert not (tmp_path / "a.nii.gz").exists()


def test_volume_of_a_voxel():
    geometry = Geometry(np.diag([2.0, -2, 2, 1]), (2, 2, 2))
    assert geometry.voxel_volume_ml == pytest.approx(0.008)
    assert geometry.orientation == "RPS"
