"""Every format gives the same values at the same places, and bad files one clear message."""

import gzip
import os
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.formats import ENDINGS, scan_name
from medvae.imaging.volume import Geometry, read_placement, read_volume, resample, write_volume
from medvae.prediction import scans_of_files
from medvae.preparation.itk import to_image

CODES = ["RAS", "LAS", "LPS", "PIR", "ASL", "SRP", "ILA"]
FEW = settings(max_examples=25, deadline=None)


@st.composite
def geometries(draw) -> Geometry:
    """Any axis order and flips, spacing from 0.4 to 6 mm, turned by up to 25 degrees about each axis, any origin."""
    shape = tuple(draw(st.integers(2, 7)) for _ in range(3))
    spacing = [draw(st.floats(0.4, 6.0)) for _ in range(3)]
    axes = np.eye(3)
    for axis in range(3):
        angle = np.deg2rad(draw(st.floats(-25, 25)))
        turn = np.eye(3)
        rest = [i for i in range(3) if i != axis]
        turn[np.ix_(rest, rest)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        axes = turn @ axes
    codes = nib.orientations.axcodes2ornt(tuple(draw(st.sampled_from(CODES))))
    order = np.zeros((3, 3))
    for voxel_axis, (world_axis, sign) in enumerate(codes):
        order[int(world_axis), voxel_axis] = sign
    affine = np.eye(4)
    affine[:3, :3] = axes @ order * spacing
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return Geometry(affine, shape)


@st.composite
def scans(draw) -> tuple[np.ndarray, Geometry]:
    geometry = draw(geometries())
    return draw(arrays(np.float32, geometry.shape, elements=st.floats(-1e4, 1e4, width=32))), geometry


def save(path: Path, array: np.ndarray, geometry: Geometry) -> Path:
    name = path.name
    if name.endswith((".mgz", ".mgh")):
        nib.save(nib.MGHImage(array, geometry.affine), path)
    elif name.endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        sitk.WriteImage(to_image(array, geometry), str(path), useCompression=name.endswith("d"))
    else:
        kind = nib.Nifti2Image if name.startswith("two") else nib.Nifti1Image
        nib.save(kind(array, geometry.affine), path)
    return path


@FEW
@given(scans(), st.sampled_from(["a.nii", "a.nii.gz", "two.nii.gz", "a.mgz", "a.mgh", "a.mha", "a.mhd", "a.nrrd"]))
def test_every_format_gives_the_same_values_at_the_same_places(scan, name):
    array, geometry = scan
    with TemporaryDirectory() as folder:
        volume = read_volume(save(Path(folder) / name, array, geometry))
        np.testing.assert_array_equal(volume.array, array)
        assert volume.array.dtype == np.float32
        np.testing.assert_allclose(volume.geometry.corners_mm(), geometry.corners_mm(), atol=1e-3)
        assert read_placement(volume.path).geometry == volume.geometry

        out = write_volume(Path(folder) / "map.nii.gz", array, volume)
        again = read_volume(out)
        np.testing.assert_array_equal(again.array, array)
        assert again.geometry.same_grid(volume.geometry)
        # Overlays are NIfTI-1: exactly the affine of such a scan, as float32 has it of any other.
        np.testing.assert_array_equal(again.geometry.affine, volume.geometry.affine.astype(np.float32))
        if volume.header is None:  # a fresh header, with the source's affine in sform and qform
            # Near half a turn the three float32 numbers of a quaternion hold an angle to 7e-4 only.
            np.testing.assert_allclose(nib.load(out).get_qform(), volume.geometry.affine, atol=1e-3 * 6)


@FEW
@given(scans(), st.sampled_from(CODES), st.data())
def test_turned_cropped_and_back_again_keeps_the_values(scan, codes, data):
    """Axis order, flips and a crop are a resampling that copies; on the way back the crop comes back at its place."""
    array, geometry = scan
    start = [data.draw(st.integers(0, n - 1)) for n in geometry.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, geometry.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(geometry.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = nib.Nifti1Image(array, geometry.affine).slicer[box].as_reoriented(turn)
    target = Geometry(turned.affine, turned.shape)

    there = resample(array, geometry, target)
    np.testing.assert_array_equal(there, np.asarray(turned.dataobj))
    back = resample(there, target, geometry)
    expected = np.zeros_like(array)
    expected[box] = array[box]
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8", ">i2", ">f4", ">f8"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_number_types_byte_orders_and_slopes_are_decoded(tmp_path, dtype, scaled, version):
    stored = np.arange(60).reshape(3, 4, 5).astype(dtype)
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=">" if ">" in dtype else "<")
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(stored, np.eye(4), header, dtype=stored.dtype)
    content = bytearray(image.to_bytes())
    if scaled:  # nibabel would divide the values by the slope when it writes
        header = image.header.copy()
        header["scl_slope"], header["scl_inter"], header["vox_offset"] = 2.5, -10, 352 if version == 1 else 544
        content[: len(header.binaryblock)] = header.binaryblock
    (tmp_path / "a.nii").write_bytes(content)
    found = read_volume(tmp_path / "a.nii").array
    np.testing.assert_array_equal(found, np.arange(60).reshape(3, 4, 5) * (2.5 if scaled else 1) - 10 * scaled)


def test_content_counts_and_not_whether_the_name_says_gz(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    (tmp_path / "plain.nii.gz").write_bytes(image.to_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(image.to_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        assert read_volume(tmp_path / name).array.sum() == np.arange(60).sum()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".mgh", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path, ending, share):
    array = np.random.default_rng(0).random((9, 8, 7), dtype=np.float32)
    whole = save(tmp_path / f"a{ending}", array, Geometry(np.eye(4), array.shape)).read_bytes()
    if ending == ".mgh":
        whole = whole[: 284 + array.nbytes]  # what follows are notes
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MedvaeError, match=r"cut off|cannot be read") as caught:
        read_volume(cut)
    assert str(cut) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_packed_file_is_noticed(tmp_path):
    array = np.random.default_rng(0).random((9, 8, 7), dtype=np.float32)
    path = save(tmp_path / "a.nii.gz", array, Geometry(np.eye(4), array.shape))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the length that gzip writes last: all voxels are there, but gzip disagrees
    path.write_bytes(content)
    with pytest.raises(MedvaeError, match="damaged"):
        read_volume(path)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_header_gives_a_volume_or_one_message(changes):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([1.0, 2, 3, 1]))
    content = bytearray(image.to_bytes())
    for place, value in changes:
        content[place] = value
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", MedvaeWarning)
        path = Path(folder) / "a.nii"
        path.write_bytes(content)
        message = str(path)
        try:
            volume = read_volume(path)
        except MedvaeError as error:
            message = str(error)
        else:
            assert volume.array.shape == volume.geometry.shape
            assert np.isfinite(volume.geometry.affine).all()
        assert str(path) in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_empty_files_and_folders_are_refused(tmp_path, ending):
    (tmp_path / f"text{ending}").write_text("no image at all, but quite a long text\n" * 50)
    (tmp_path / f"empty{ending}").write_bytes(b"")
    (tmp_path / f"folder{ending}").mkdir()
    for name, words in (("text", "cannot be read"), ("empty", "cannot be read"), ("folder", "is a folder")):
        with pytest.raises(MedvaeError, match=words) as caught:
            read_volume(tmp_path / f"{name}{ending}")
        assert f"{name}{ending}" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
def test_a_locked_file_is_told(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", np.ones((3, 4, 5), np.float32), Geometry(np.eye(4), (3, 4, 5)))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything
        import medvae.imaging.formats

        def refuse(*arguments):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(medvae.imaging.formats, "open", refuse, raising=False)
    with pytest.raises(MedvaeError, match="may not be read by you"):
        read_volume(path)


def colours(path):
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)


def vectors(path):
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), str(path))


def complex_numbers(path):
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.complex64), np.eye(4)), path)


def several(path):
    sitk.WriteImage(sitk.Image([3, 4, 5, 2], sitk.sitkUInt8), str(path))


def huge(path):
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 1e300), np.eye(4)), path)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (colours, "a.nii.gz", "one intensity per voxel"),
        (complex_numbers, "a.nii.gz", "one intensity per voxel"),
        (vectors, "a.mha", "one intensity per voxel"),
        (vectors, "a.nrrd", "one intensity per voxel"),
        (several, "a.mha", "single 3D volume"),
        (huge, "a.nii.gz", "60 voxels that are NaN or infinite"),
    ],
)
def test_what_is_no_scan_is_refused(tmp_path, make, name, words):
    make(tmp_path / name)
    with pytest.raises(MedvaeError, match=words):
        read_volume(tmp_path / name)


def test_a_detached_header_without_its_voxels_is_told(tmp_path):
    save(tmp_path / "a.mhd", np.ones((3, 4, 5), np.float32), Geometry(np.eye(4), (3, 4, 5)))
    for voxels in (tmp_path / "a.raw", tmp_path / "a.zraw"):
        voxels.unlink(missing_ok=True)
    with pytest.raises(MedvaeError, match=r"a\.mhd"):
        read_volume(tmp_path / "a.mhd")


def with_sform(path, affine, *, qform=None):
    image = nib.Nifti1Image(np.ones((40, 40, 40), np.uint8), np.eye(4))
    image.set_qform(qform, code=0 if qform is None else 1)
    content = bytearray(image.to_bytes())
    header = image.header.copy()  # in bytes: nibabel would not write an affine that cannot be
    header["vox_offset"], header["sform_code"] = 352, 1
    for row, name in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
        header[name] = row
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


def sheared(cosine):
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 1] = 2 * cosine
    return affine


def test_almost_right_angles_are_mended_about_the_centre_and_the_overlay_follows(tmp_path):
    affine = sheared(0.004)
    with pytest.warns(MedvaeWarning, match="not quite at right angles"):
        volume = read_volume(with_sform(tmp_path / "a.nii", affine))
    mended = volume.geometry.affine
    axes = mended[:3, :3] / volume.geometry.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    centre = [19.5, 19.5, 19.5, 1]
    np.testing.assert_allclose(mended @ centre, affine @ centre, atol=1e-5)
    moved = np.abs(volume.geometry.corners_mm() - Geometry(affine, volume.geometry.shape).corners_mm()).max()
    assert 0 < moved < 1
    write_volume(tmp_path / "b.nii", volume.array, volume)
    with pytest.warns(MedvaeWarning):
        assert read_placement(tmp_path / "b.nii").geometry == volume.geometry


@pytest.mark.parametrize("cosine", [0.05, 0.3])
def test_shear_that_moves_voxels_is_refused(tmp_path, cosine):
    with pytest.raises(MedvaeError, match="not at right angles"):
        read_volume(with_sform(tmp_path / "a.nii", sheared(cosine)))


SINGULAR = [np.zeros((4, 4)), np.diag([1.0, 1, 0, 1]), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]),
            np.full((4, 4), np.nan)]  # fmt: skip


@pytest.mark.parametrize("affine", SINGULAR)
def test_a_singular_sform_gives_way_to_the_qform_or_is_refused(tmp_path, affine):
    qform = np.diag([-2.0, 2, 3, 1])
    with pytest.warns(MedvaeWarning, match="its qform is used"):
        volume = read_volume(with_sform(tmp_path / "a.nii", affine, qform=qform))
    np.testing.assert_allclose(volume.geometry.affine, qform, atol=1e-6)
    write_volume(tmp_path / "map.nii", volume.array, volume)
    with pytest.warns(MedvaeWarning, match="its qform is used"):  # the map is as the scan is, for every viewer
        assert read_placement(tmp_path / "map.nii").geometry == volume.geometry
    with pytest.raises(MedvaeError, match="singular or not finite"):
        read_volume(with_sform(tmp_path / "b.nii", affine))


def test_a_place_that_is_a_guess_is_told(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), None)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    with pytest.warns(MedvaeWarning, match="left and right are a guess"):
        read_volume(tmp_path / "a.nii")


def test_names_lose_their_endings(tmp_path):
    for ending in ENDINGS:
        assert scan_name(f"/data/sub 01.T1{ending}") == "sub 01.T1"
        assert scan_name(f"A{ending.upper()}") == "A"
    assert scan_name("notes.txt") == "notes.txt"
    assert [scan.id for scan in scans_of_files(["a b.mgz", "ü.nii.gz", "c.NRRD"])] == ["a_b", "ü", "c"]
    with pytest.raises(MedvaeError, match="would both be written"):
        scans_of_files(["a.mgz", "a.nii.gz"])


def test_only_nifti_is_written(tmp_path):
    with pytest.raises(MedvaeError, match=r"ends in \.nii"):
        write_volume(tmp_path / "a.mha", np.ones((3, 4, 5), np.uint8), Geometry(np.eye(4), (3, 4, 5)))
    assert not list(tmp_path.iterdir())


def test_odd_names_are_read(tmp_path):
    path = save(tmp_path / "a.nrrd", np.ones((3, 4, 5), np.float32), Geometry(np.eye(4), (3, 4, 5)))
    odd = tmp_path / "Zoë [1] 脳.NRRD"
    shutil.copy(path, odd)
    assert read_volume(odd).array.sum() == 60
