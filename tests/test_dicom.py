"""A study of DICOM files: which series it holds, which one is the scan, where its voxels lie, what is wrong with it."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from medvae.dicom import archive
from medvae.dicom.choice import choose, listing
from medvae.dicom.conversion import convert, read_series
from medvae.dicom.sequence import sequence_of
from medvae.dicom.study import is_study, named_after, read_study
from medvae.errors import MedvaeError
from medvae.imaging.volume import read_volume
from tests.dicom_files import enhanced_mr, localiser, mr_slices, save, screenshot, uid

SHAPE = (24, 20, 30)
AXES = {"axial": "LPS", "axial, from the top": "LPI", "sagittal": "PIR", "coronal": "LIP"}
"""The directions in which x, y and z of the array run."""


def affine_of(codes: str, spacing=(3.0, 3.5, 4.0)) -> np.ndarray:
    """RAS affine of array axes that run in these directions, about a point that is no origin."""
    affine = np.eye(4)
    for axis, code in enumerate(codes):
        row = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code]
        affine[:3, axis] = 0
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = [11.5, -23.25, 7.125] - affine[:3, :3] @ (np.array(SHAPE) / 2)
    return affine


def oblique() -> np.ndarray:
    a, b = 0.3, -0.2
    turned = affine_of("PIR")
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned[:3, :3] = turn @ tilt @ turned[:3, :3]
    return turned


GEOMETRIES = {name: affine_of(codes) for name, codes in AXES.items()} | {"oblique": oblique()}
ARRAY = np.random.default_rng(1).integers(0, 4000, SHAPE).astype(np.uint16)
AFFINE = GEOMETRIES["sagittal"]


def study(folder: Path, *, unpacked: Path | None = None):
    return read_study(folder, unpacked or folder, quiet=True)


def chosen(folder: Path, wanted=("T1",), asked: str | None = None):
    return choose(study(folder), wanted, asked=asked)


def same_points(array: np.ndarray, affine: np.ndarray, other: np.ndarray, where: np.ndarray) -> None:
    """Each voxel of ``other`` has the value that ``array`` has at the same point of the world."""
    index = np.array(np.meshgrid(*map(range, other.shape), indexing="ij")).reshape(3, -1)
    there = np.linalg.inv(affine) @ where @ np.vstack([index, np.ones(index.shape[1])])
    nearest = np.rint(there[:3]).astype(int)
    assert np.abs(there[:3] - nearest).max() < 1e-5
    np.testing.assert_array_equal(array[tuple(nearest)], other.reshape(-1))


@pytest.mark.parametrize("many", [False, True], ids=["single-frame", "enhanced"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_voxels_lie_where_the_headers_say(tmp_path, name, many):
    affine = GEOMETRIES[name]
    save(enhanced_mr(ARRAY, affine) if many else mr_slices(ARRAY, affine), tmp_path / "study")
    path = convert(chosen(tmp_path / "study"), tmp_path / "scan.nii.gz")
    volume = read_volume(path)
    assert volume.array.shape == SHAPE
    same_points(ARRAY.astype(np.float32), affine, volume.array, volume.geometry.affine)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "JPEGLS", "RLE"])
def test_compressed_files_hold_the_same_values(tmp_path, compressor):
    """Without loss, as archives keep them; packed by GDCM or pydicom, whichever writes it."""
    series = mr_slices(ARRAY, AFFINE)
    for index, data in enumerate(series):
        if compressor == "RLE":
            data.compress(RLELossless)
            continue
        packed = tmp_path / "packed.dcm"
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY[:, :, index].T), str(packed), True, -1, compressor=compressor)
        other = pydicom.dcmread(packed)
        assert other.file_meta.TransferSyntaxUID.is_compressed
        data.file_meta.TransferSyntaxUID, data.PixelData = other.file_meta.TransferSyntaxUID, other.PixelData
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    save(series, tmp_path / "study")
    np.testing.assert_array_equal(read_series(chosen(tmp_path / "study")), ARRAY)


def test_values_are_scaled_file_by_file(tmp_path):
    series = mr_slices(ARRAY, AFFINE)
    for index, data in enumerate(series):
        data.RescaleSlope, data.RescaleIntercept = (1, 0) if index == 0 else (0.5, -3)
    save(series, tmp_path)
    found = read_series(chosen(tmp_path))
    assert found.dtype == np.float32
    first, rest = ARRAY[:, :, 0], ARRAY[:, :, 1:] * 0.5 - 3
    np.testing.assert_array_equal(found, np.concatenate([first[:, :, None], rest], axis=2).astype(np.float32))


def test_files_whose_names_and_numbers_are_shuffled_make_the_same_volume(tmp_path):
    series = mr_slices(ARRAY, AFFINE)
    for data, number in zip(series, np.random.default_rng(2).permutation(len(series)), strict=True):
        data.InstanceNumber = int(number)
    save(series[::-1], tmp_path / "a" / "b")
    np.testing.assert_array_equal(read_series(chosen(tmp_path)), ARRAY)


@pytest.fixture(scope="module")
def clinical(tmp_path_factory) -> Path:
    """What a scanner sends: a localiser, T1, FLAIR, a thick T1, T1 after contrast, a reformat, a screenshot, others."""
    folder = tmp_path_factory.mktemp("clinical")
    save(localiser(), folder / "1")
    save(mr_slices(ARRAY, affine_of("PIR", (3, 3, 2.4)), number=3, description="t1_mprage_sag_p2"), folder / "3")
    save(mr_slices(ARRAY, AFFINE, number=5, description="t2_space_dark-fluid_sag"), folder / "5")
    save(mr_slices(ARRAY, affine_of("LPS", (3, 3, 6)), number=6, description="t1_se_tra"), folder / "6")
    save(mr_slices(ARRAY, AFFINE, number=7, description="t1_mprage_sag_KM"), folder / "7")
    kind = ["DERIVED", "SECONDARY", "MPR"]
    save(mr_slices(ARRAY, AFFINE, number=8, description="t1_mprage_MPR cor", ImageType=kind), folder / "8")
    save(mr_slices(ARRAY[:, :, :1], AFFINE, number=9, description="t1 single"), folder / "9")
    save(mr_slices(ARRAY, AFFINE, number=10, description="Head 3.0", modality="CT"), folder / "10")
    save(screenshot(), folder)
    (folder / "report.txt").write_text("no abnormality")
    (folder / "key.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"0" * 200)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    return folder


def test_of_a_whole_study_the_3d_t1_is_taken_and_every_other_series_has_a_reason(clinical):
    series = study(clinical)
    found = choose(series, ("T1",))
    assert found.label == "3"
    lines = listing(series, ("T1",), found).splitlines()
    reasons = dict(zip((line.split()[0] for line in lines), (line.split("  ")[-1] for line in lines), strict=True))
    assert reasons == {
        "1": "(a localiser)",
        "3": "<- chosen",
        "5": "(FLAIR by its description)",
        "6": "(slices 6 mm apart)",
        "7": "(T1c by its description)",
        "8": "(a reformatted series)",
        "9": "(a single slice)",
        "10": "(CT, not MR)",
        "99": "(a screenshot)",
    }
    assert choose(series, ("FLAIR",)).label == "5"


def test_a_series_is_named_by_number_or_uid(clinical):
    series = study(clinical)
    assert choose(series, ("T1",), asked="7").label == "7"
    assert choose(series, ("T1",), asked=uid(6, "t1_se_tra")).label == "6"
    with pytest.raises(MedvaeError, match=r"has no series 4: name one of these by its number.\n +1 .*\n +3 +t1_mprage"):
        choose(series, ("T1",), asked="4")


def test_where_several_series_fit_they_are_listed(tmp_path):
    for number in range(2, 7):
        save(mr_slices(ARRAY, AFFINE, number=number, description=f"t1_mprage_{number}"), tmp_path)
    with pytest.raises(
        MedvaeError, match=r"5 series fit the detector\. Choose one: --series 2 or 3 or 4 or 5 or 6"
    ) as told:
        chosen(tmp_path)
    assert sum("t1_mprage_" in line for line in str(told.value).splitlines()) == 5
    assert "DOE" not in str(told.value)
    assert chosen(tmp_path, asked="4").label == "4"


def test_of_a_scan_that_was_repeated_the_whole_one_is_taken(tmp_path):
    save(mr_slices(ARRAY, AFFINE, number=2), tmp_path)
    for path in save(mr_slices(ARRAY, AFFINE, number=3), tmp_path)[10:12]:
        path.unlink()
    assert chosen(tmp_path).label == "2"


def without(indices):
    return lambda series: [data for index, data in enumerate(series) if index not in indices]


def moved(index: int, by: list[float]):
    def change(series):
        position = np.array(series[index].ImagePositionPatient, float) + by
        series[index].ImagePositionPatient = list(position)
        return series

    return change


def turned(series):
    series[4].ImageOrientationPatient = [0, 1, 0, 0.05, 0, -0.99875]
    return series


def doubled(series):
    """Slices at the place of others, which nothing tells apart."""
    extra = mr_slices(ARRAY[:, :, :3], AFFINE, first=900)
    return [*series, *extra]


def smaller(series):
    series[3].Rows = 10
    series[3].PixelData = series[3].PixelData[: len(series[3].PixelData) // 2]
    return series


def unplaced(series):
    del series[2].ImagePositionPatient
    return series


DEFECTS = {
    "a slice is missing": (without({11}), r"1 slice is missing: 8 mm lie between slices 11 and 12 of 29, 4 mm between"),
    "two gaps": (without({5, 6, 20}), r"3 slices are missing: 12 mm lie between slices 5 and 6 of 27"),
    "uneven": (moved(7, [-1.0, 0, 0]), r"its slices lie 3 to 5 mm apart"),
    "sideways": (moved(7, [0, 2.0, 0]), r"slice 8 of 30 is shifted sideways"),
    "turned": (turned, r"its slices lie in 2 directions"),
    "doubled": (doubled, r"3 of its slices lie where another one lies, and nothing in their headers tells them apart"),
    "smaller": (smaller, r"its slices differ in size \(24 × 10, 24 × 20 pixels\)"),
    "unplaced": (unplaced, r"1 of its 30 slices do not say where they lie"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_series_with_a_defect_is_refused_in_one_sentence(tmp_path, name):
    change, message = DEFECTS[name]
    save(change(mr_slices(ARRAY, AFFINE)), tmp_path)
    with pytest.raises(MedvaeError, match=rf'series 3 "t1_mprage_sag": {message}'):
        chosen(tmp_path)


def test_positions_that_are_rounded_are_no_defect(tmp_path):
    series = mr_slices(ARRAY, oblique())
    for data in series:
        data.ImagePositionPatient = [f"{float(value):.2f}" for value in data.ImagePositionPatient]
    save(series, tmp_path)
    assert chosen(tmp_path).defect == ""


def test_two_echoes_of_one_series_are_two_volumes(tmp_path):
    first = mr_slices(ARRAY, AFFINE, description="t1_me_fl3d", EchoTime=10.5)
    second = mr_slices(ARRAY // 2, AFFINE, description="t1_me_fl3d", EchoTime=2.5, first=101)
    save(first + second, tmp_path)
    with pytest.raises(MedvaeError, match=r"2 series fit the detector.*--series 3.1 or 3.2\.\n") as told:
        chosen(tmp_path)
    assert "[TE 2.5 ms]" in str(told.value)
    np.testing.assert_array_equal(read_series(chosen(tmp_path, asked="3.1")), ARRAY // 2)
    np.testing.assert_array_equal(read_series(chosen(tmp_path, asked="3.2")), ARRAY)
    with pytest.raises(MedvaeError, match="--series 3 stands for several volumes"):
        chosen(tmp_path, asked="3")


def test_two_time_points_of_one_series_are_two_volumes(tmp_path):
    series = mr_slices(ARRAY, AFFINE, AcquisitionNumber=1)
    save(series + mr_slices(ARRAY + 1, AFFINE, first=101, AcquisitionNumber=2), tmp_path)
    with pytest.raises(MedvaeError, match=r"\[acquisition 2\]"):
        chosen(tmp_path)
    np.testing.assert_array_equal(read_series(chosen(tmp_path, asked="3.2")), ARRAY + 1)


def test_the_phase_beside_the_magnitude_is_left_out(tmp_path):
    series = mr_slices(ARRAY, AFFINE)
    save(series + mr_slices(ARRAY * 0, AFFINE, first=101, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), tmp_path)
    np.testing.assert_array_equal(read_series(chosen(tmp_path)), ARRAY)


def test_copies_of_files_are_not_used(tmp_path):
    for path in save(mr_slices(ARRAY, AFFINE), tmp_path / "a"):
        (tmp_path / "b").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "b" / path.name)
    found = chosen(tmp_path)
    assert found.copies == SHAPE[2]
    np.testing.assert_array_equal(read_series(found), ARRAY)


def test_what_is_no_scan_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvaeError, match=r"holds no DICOM file \(nothing else either\)"):
        study(tmp_path / "empty")
    (tmp_path / "mixed").mkdir()
    for name in ("a.nii.gz", "b.gz", "c.txt"):
        (tmp_path / "mixed" / name).write_text("x")
    with pytest.raises(MedvaeError, match=r"holds no DICOM file \(2 with .gz, 1 with .txt\)"):
        study(tmp_path / "mixed")
    save(localiser(), tmp_path / "scout")
    with pytest.raises(MedvaeError, match=r"holds no series that is a 3D MR scan of T1.*\n.*\(a localiser\)"):
        chosen(tmp_path / "scout")
    (one,) = save(mr_slices(ARRAY[:, :, :1], AFFINE), tmp_path / "one")
    with pytest.raises(MedvaeError, match=r"holds no series.*\n.*\(a single slice\)"):
        chosen(one)
    save(mr_slices(ARRAY, AFFINE, modality="CT", description="head"), tmp_path / "ct")
    with pytest.raises(MedvaeError, match=r"holds no series.*\n.*CT 30 slices.*\(CT, not MR\)"):
        chosen(tmp_path / "ct")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    with pytest.raises(MedvaeError, match="none of its 1 DICOM files is an image"):
        study(broken)


def test_a_file_that_is_cut_off_is_told(tmp_path):
    files = save(mr_slices(ARRAY, AFFINE), tmp_path)
    files[-1].write_bytes(files[-1].read_bytes()[:-300])
    found = study(tmp_path)
    assert listing(found, ("T1",)).endswith("in no series: 1 DICOM files, without an image, or cut off")
    files[4].write_bytes(files[4].read_bytes()[:-300])
    with pytest.raises(MedvaeError, match=r"1 slice is missing(.|\n)*2 DICOM files, without an image, or cut off"):
        chosen(tmp_path)


def test_a_file_that_changes_while_it_is_used_is_told(tmp_path):
    files = save(mr_slices(ARRAY, AFFINE), tmp_path)
    found = chosen(tmp_path)
    files[4].write_bytes(files[4].read_bytes()[:-300])
    with pytest.raises(MedvaeError, match=r"_0004: its image cannot be read"):
        read_series(found)


def test_a_description_in_another_character_set_is_read(tmp_path):
    series = mr_slices(ARRAY, AFFINE, SpecificCharacterSet="ISO_IR 100", description="t1 Schädel")
    save(series, tmp_path)
    assert chosen(tmp_path).first.description == "t1 Schädel"


def zipped(folder: Path, archive_path: Path, *, up: str = "") -> Path:
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, up + str(path.relative_to(folder)))
    return archive_path


def test_a_zip_is_read_like_its_folder_and_its_names_lead_nowhere(tmp_path):
    save(mr_slices(ARRAY, AFFINE), tmp_path / "study")
    packed = zipped(tmp_path / "study", tmp_path / "patient.7.zip", up="../../outside/")
    unpacked = tmp_path / "here" / "there" / "unpacked"
    unpacked.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    found = choose(study(packed, unpacked=unpacked), ("T1",))
    np.testing.assert_array_equal(read_series(found), ARRAY)
    assert {path.parent for path in set(tmp_path.rglob("*")) - before} == {unpacked}
    assert is_study(packed)
    assert named_after(packed).name == "patient.7"


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "SPARED", 2**20)
    start = save(mr_slices(ARRAY[:, :, :1], AFFINE), tmp_path / "study")[0].read_bytes()
    bomb, unpacked = tmp_path / "bomb.zip", tmp_path / "unpacked"
    unpacked.mkdir()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("IM1", start + b"\0" * (64 * 2**20))
    with pytest.raises(MedvaeError, match="unpacks to more than"):
        study(bomb, unpacked=unpacked)
    assert sum(path.stat().st_size for path in unpacked.iterdir()) < 16 * 2**20


def test_an_archive_in_an_archive_stays_packed(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("IM1", b"\0" * 128 + b"DICM" + b"\0" * 10**6)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.writestr("inner.zip", inner.getvalue())
    with pytest.raises(MedvaeError, match="holds no DICOM file"):
        study(tmp_path / "outer.zip", unpacked=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "encrypted", "checksum"])
def test_a_zip_that_cannot_be_unpacked_is_told(tmp_path, damage):
    save(mr_slices(ARRAY[:, :, :2], AFFINE), tmp_path / "study")
    packed = zipped(tmp_path / "study", tmp_path / "a.zip")
    content = bytearray(packed.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "encrypted":
        content[content.index(b"PK\x01\x02") + 8] |= 1
    else:
        content[len(content) // 4] ^= 0xFF
    packed.write_bytes(bytes(content))
    with pytest.raises(MedvaeError, match="is encrypted" if damage == "encrypted" else "cannot be unpacked"):
        study(packed, unpacked=tmp_path)


@pytest.mark.parametrize(
    ("description", "sequence"),
    [
        ("t1_mprage_sag_p2_iso", "T1"),
        ("3D T1 TFE", "T1"),
        ("Sag FSPGR BRAVO", "T1"),
        ("t1_mprage_sag_KM", "T1c"),
        ("Ax T1 +C", "T1c"),
        ("T1 POST GAD", "T1c"),
        ("T1 without contrast", "T1"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("3D Cube FLAIR", "FLAIR"),
        ("Ax T1 FLAIR", "T1"),
        ("t2_tse_tra", "T2"),
        ("T2* GRE", "T2star"),
        ("t2_swi_tra", "SWI"),
        ("ep2d_diff_3scan_trace", "DWI"),
        ("ADC map", "ADC"),
        ("T1 map", "a map"),
        ("TOF_3D_multi-slab", "angiography"),
        ("brain", None),
        ("", None),
    ],
)
def test_words_of_a_description_tell_the_sequence(description, sequence):
    assert sequence_of(description) == sequence


def test_contrast_agent_in_the_header_and_the_protocol_count():
    assert sequence_of("t1_mprage", contrast_agent="Gadovist") == "T1c"
    assert sequence_of("t1_mprage", contrast_agent="NONE") == "T1"
    assert sequence_of("sagittal", "t1_mprage") == "T1"


def test_a_series_is_converted_once_and_never_over_another(tmp_path):
    save(mr_slices(ARRAY, AFFINE), tmp_path / "a")
    save(mr_slices(ARRAY + 1, AFFINE, number=8), tmp_path / "b")
    path = convert(chosen(tmp_path / "a"), tmp_path / "scan.nii.gz")
    stamp = path.stat().st_mtime_ns
    assert convert(chosen(tmp_path / "a"), path).stat().st_mtime_ns == stamp
    with pytest.raises(MedvaeError, match="was made from another series"):
        convert(chosen(tmp_path / "b"), path)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    convert(chosen(tmp_path / "b"), path, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY + 1)
    foreign = tmp_path / "mine.nii.gz"
    foreign.write_bytes(b"my own")
    with pytest.raises(MedvaeError, match="nothing was overwritten"):
        convert(chosen(tmp_path / "a"), foreign, overwrite=True)
    assert foreign.read_bytes() == b"my own"
