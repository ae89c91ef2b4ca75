"""Where nibabel and ITK read a scan, over headers of every kind, and that overlays lie on it in both."""

import contextlib
import gzip
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.readers import itk_geometry, on_grid_of, placement_notes, require_same_grid
from medvae.imaging.volume import Geometry, Placement, Volume, read_placement, read_volume, write_volume
from medvae.preparation.itk import to_image
from medvae.reporting.slicer import Segment, write_segmentation

SHAPE = (4, 5, 6)
HEADERS = settings(max_examples=80, deadline=None)


@dataclass
class Header:
    """A NIfTI file as its fields are written, whether or not they make sense together."""

    fields: dict = field(default_factory=dict)
    version: int = 1
    shape: tuple = SHAPE
    packed: bool = False
    endianness: str = "<"

    def write(self, folder: Path, name: str = "scan") -> Path:
        kind = nib.Nifti1Header if self.version == 1 else nib.Nifti2Header
        header = kind(endianness=self.endianness)
        header.set_data_dtype(np.uint8)
        header.set_data_shape(self.shape)
        header["vox_offset"], header["magic"] = (352, b"n+1") if self.version == 1 else (544, b"n+2")
        for key, value in self.fields.items():
            header[key] = value
        content = header.binaryblock + bytes(4) + bytes(int(np.prod(self.shape)))
        path = folder / f"{name}.nii{'.gz' * self.packed}"
        path.write_bytes(gzip.compress(content) if self.packed else content)
        return path


def quaternion_fields(affine: np.ndarray) -> dict:
    header = nib.Nifti1Header()
    header.set_qform(affine, code=1)
    return {key: header[key] for key in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")}


@st.composite
def rotations(draw) -> np.ndarray:
    angles = [draw(st.sampled_from([0.0, 0.1, -0.4, np.pi / 2, np.pi])) for _ in range(3)]
    return nib.eulerangles.euler2mat(*angles) @ np.diag([draw(st.sampled_from([1, -1])), 1, 1])


@st.composite
def headers(draw) -> Header:
    """qform and sform of any codes, alike or not, sheared or not; pixdim, unit, qfac, version and order of bytes."""
    spacing = np.array([draw(st.sampled_from([0.8, 1.0, 2.0, 3.5])) for _ in range(3)])
    origin = np.array([draw(st.sampled_from([0.0, -60.25, 90.5])) for _ in range(3)])
    turn, affine = draw(rotations()), np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, origin
    sform = affine.copy()
    sform[0, 1] += draw(st.sampled_from([0.0, 0.0, 1e-5, 4e-4, 0.01])) * spacing[1]
    other = affine
    if draw(st.booleans()):
        other = affine.copy()
        other[:3, :3] = draw(rotations()) * spacing
        other[:3, 3] += draw(st.sampled_from([0.0, 1e-4, 7.0]))
    sizes = draw(st.sampled_from([tuple(spacing)] * 4 + [(1, 1, 1), (0, 0, 0), tuple(-spacing), (np.nan, 1, 1)]))
    qfac = draw(st.sampled_from([np.sign(np.linalg.det(other[:3, :3])), 1, -1, 0]))
    fields = quaternion_fields(other) | {f"srow_{c}": sform[row] for row, c in enumerate("xyz")}
    fields |= {
        "qform_code": draw(st.integers(0, 4)),
        "sform_code": draw(st.integers(0, 4)),
        "xyzt_units": draw(st.sampled_from([2, 2, 2, 10, 0, 1, 3])),
        "pixdim": [qfac, *sizes, 2.5, 0, 1, 1],
    }
    return Header(
        fields, draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([SHAPE, (*SHAPE, 1)])),
        draw(st.booleans()), draw(st.sampled_from("<<>")),
    )  # fmt: skip


def scan_of(header: Header, folder: str | Path) -> tuple[Path, Volume]:
    """The file and what medvae reads."""
    path = header.write(Path(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedvaeWarning)
        return path, read_volume(path)


def usable(header: Header, folder: str | Path) -> tuple[Path, Volume]:
    """As `scan_of`; a header that medvae refuses is passed over."""
    with contextlib.suppress(MedvaeError):
        return scan_of(header, folder)
    reject()


def itk_corners(path: Path) -> np.ndarray | None:
    """Corners of a file as SimpleITK has them, in RAS+; None if it refuses the file."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    ends = [(x, y, z) for x in (0, 3) for y in (0, 4) for z in (0, 5)]
    return np.array([image.TransformIndexToPhysicalPoint(end) for end in ends]) * [-1, -1, 1]


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-4)


@HEADERS
@given(headers())
def test_itk_reads_a_scan_where_it_is_said_to(header):
    with TemporaryDirectory() as folder:
        path, scan = usable(header, folder)
        asked, expected = itk_geometry(scan.placement), itk_corners(path)
        if header.version == 2:  # which ITK does not read
            assert expected is None
        elif expected is None:
            assert asked is None
        else:
            close(asked.corners_mm(), expected)


@HEADERS
@given(headers())
def test_nibabel_reads_a_scan_where_its_geometry_is(header):
    with TemporaryDirectory() as folder:
        path, scan = usable(header, folder)
        shear = np.abs(np.diff(scan.geometry.corners_mm() - Geometry(nib.load(path).affine, SHAPE).corners_mm())).max()
        assert shear < 0.1  # what is mended about the centre


@HEADERS
@given(headers())
def test_overlays_lie_on_their_scan_for_nibabel_and_for_itk(header):
    with TemporaryDirectory() as name:
        folder = Path(name)
        path, scan = usable(header, folder)
        overlay = write_volume(folder / "map.nii.gz", np.ones(SHAPE, np.float32), scan)
        written = nib.load(overlay)
        assert written.shape == SHAPE
        assert type(written) is nib.Nifti1Image
        close(Geometry(written.affine, SHAPE).corners_mm(), Geometry(nib.load(path).affine, SHAPE).corners_mm())
        region = np.ones(SHAPE, bool)
        place = itk_geometry(scan.placement) or scan.geometry
        segments = itk_corners(write_segmentation(folder / "a.seg.nrrd", [Segment("a", "#ff0000", region)], place))
        found, expected = itk_corners(overlay), itk_corners(path)
        assert found is not None  # also where it refuses the scan
        if expected is not None:
            close(found, expected)
            close(segments, expected)


@HEADERS
@given(headers())
def test_readers_that_differ_are_told_with_the_distance(header):
    with TemporaryDirectory() as folder:
        _, scan = usable(header, folder)
        notes = " ".join(placement_notes(scan.placement))
        itk = itk_geometry(scan.placement)
        if itk is None:
            assert "refuses it" in notes
            return
        apart = np.abs(itk.corners_mm() - scan.geometry.corners_mm()).max()
        if apart > min(scan.geometry.spacing_mm) / 2:
            assert f"reads it up to {apart:,.1f} mm away" in notes
        else:
            assert "away" not in notes


def test_a_header_that_says_one_thing_only_needs_no_itk_and_no_note(tmp_path, monkeypatch):
    affine = np.array([[0.0, 0, 1.5, -9], [-2, 0, 0, 30], [0, -1.2, 0, 11], [0, 0, 0, 1]])
    path = write_volume(tmp_path / "a.nii.gz", np.ones(SHAPE, np.float32), Geometry(affine, SHAPE))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert placement_notes(read_placement(path)) == ()


AFFINE = np.diag([2.0, 2, 2, 1])
ROWS = {f"srow_{c}": AFFINE[row] for row, c in enumerate("xyz")} | {"pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}
TOLD = {
    "codes": ({"pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, "neither a qform nor a sform"),
    "metre": (ROWS | {"sform_code": 1, "xyzt_units": 1}, "lengths in meter"),
    "micron": (ROWS | {"sform_code": 1, "xyzt_units": 3}, "lengths in micron"),
    "pixdim": (ROWS | {"sform_code": 1, "pixdim": [1] * 8}, "affine, 8 mm³ a voxel, not by pixdim, 1 mm³"),
    "no pixdim": (ROWS | {"sform_code": 1, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, "voxels of 0 × 0 × 0 mm in pixdim"),
    "sheared": (ROWS | {"sform_code": 1, "srow_x": [2, 0.002, 0, 0]}, "refuses it"),
    "two forms": (
        ROWS | {"sform_code": 4, "qform_code": 1, "qoffset_x": 30},
        "qform and sform lie up to 30.0 mm apart, so that ITK (ITK-SNAP, 3D Slicer, ANTs) reads it up to 30.0 mm away",
    ),
    "two forms, one choice": (
        ROWS | {"sform_code": 1, "qform_code": 1, "qoffset_x": 30},
        "ITK 5 go by the sform",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOLD)
def test_the_cause_is_told(tmp_path, kind):
    fields, words = TOLD[kind]
    _, scan = scan_of(Header(fields), tmp_path)
    assert words in " ".join(placement_notes(scan.placement))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_itk_reads_its_own_formats_where_they_say(tmp_path, ending):
    affine = np.array([[1.9, -0.6, 0, 3], [0.6, 1.9, 0, -5], [0, 0, 2.5, 8], [0, 0, 0, 1]])
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(to_image(np.ones(SHAPE, np.float32), Geometry(affine, SHAPE)), str(path))
    close(itk_geometry(read_placement(path)).corners_mm()[-1], itk_corners(path)[-1])


def test_a_label_that_an_itk_program_saved_lies_on_its_scan(tmp_path):
    """It holds in qform and sform where ITK read the scan, which nibabel puts elsewhere."""
    path = Header(TOLD["two forms"][0]).write(tmp_path)
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image, str(tmp_path / "label.nii.gz"))
    label, scan = read_placement(tmp_path / "label.nii.gz"), read_placement(path)
    assert not label.geometry.same_grid(scan.geometry)
    assert on_grid_of(label, scan)
    image.SetOrigin([0, 9, 0])
    sitk.WriteImage(image, str(tmp_path / "label.nii.gz"))
    assert not on_grid_of(read_placement(tmp_path / "label.nii.gz"), scan)


def labelled(affine: np.ndarray, shape: tuple = SHAPE) -> Volume:
    return Volume(np.ones(shape, np.float32), Geometry(affine, shape), path=Path("label.nii.gz"))


TURNED = np.array([[0.0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
FLIPPED = np.array([[-2.0, 0, 0, 6], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
OTHER_GRIDS = {
    "axes in another order": (labelled(TURNED, (5, 4, 6)), "voxels of its image in another order (ARS against RAS)"),
    "left and right exchanged": (labelled(FLIPPED), "in another order (LAS against RAS)"),
    "no affine": (labelled(np.eye(4)), "save it again with that of the image"),
    "cropped": (labelled(AFFINE, (3, 5, 6)), "has shape (3, 5, 6), its image has (4, 5, 6)"),
    "moved": (labelled(AFFINE + 3 * np.eye(4, k=3)), "lies up to 3.0 mm away from its image"),
}


@pytest.mark.parametrize("kind", OTHER_GRIDS)
def test_a_label_on_another_grid_is_told_how_it_differs(kind):
    label, words = OTHER_GRIDS[kind]
    with pytest.raises(MedvaeError, match=re.escape(words)):
        require_same_grid(label, Placement(Geometry(AFFINE, SHAPE)), "its image")


def test_rounding_of_an_affine_is_no_other_grid():
    require_same_grid(labelled(AFFINE + 1e-4), Placement(Geometry(AFFINE, SHAPE)), "its image")
