"""Voxels are unpacked within limits: memory is asked for as bytes come, never because a header says so."""

import gzip
import multiprocessing
import resource
import warnings
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.content import CHUNK, MOST_VOXELS, allow_large, decoded
from medvae.imaging.volume import read_placement, read_volume

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
RAW = nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes()


def header(shape, dtype="i2", version=1) -> bytes:
    """A NIfTI header that promises a shape, and nothing after it."""
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    made = kind()
    made["magic"] = b"n+1" if version == 1 else b"n+2"
    made.set_data_dtype(dtype)
    made["dim"][: len(shape) + 1] = (len(shape), *shape)
    made["vox_offset"] = 352 if version == 1 else 544
    made["sform_code"], made["srow_x"], made["srow_y"], made["srow_z"] = 1, [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    return made.binaryblock + b"\0" * 4


def zeros(count: int, start: bytes = b"", wbits: int = 31) -> bytes:
    """``start`` and ``count`` zeros, packed without having them all in memory."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    parts = [pack.compress(start)]
    block = pack.copy()
    for _ in range(count // CHUNK):
        parts.append(pack.compress(bytes(CHUNK)))
    del block
    return b"".join([*parts, pack.compress(bytes(count % CHUNK)), pack.flush()])


def nrrd(shape, encoding, data=b"") -> bytes:
    head = f"NRRD0004\ntype: float\ndimension: 3\nsizes: {' '.join(map(str, shape))}\nencoding: {encoding}\n"
    return (head + "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
            "space origin: (0,0,0)\nendian: little\n\n").encode() + data  # fmt: skip


def mha(shape, packed, data=b"") -> bytes:
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = {packed}\n{f'CompressedDataSize = {len(data)}' + chr(10) if packed else ''}"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
        f"DimSize = {' '.join(map(str, shape))}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    ).encode() + data


def _read_with_little_memory(path, more_bytes, answers):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, resource.RLIM_INFINITY))
    try:
        read_volume(path)
        answer = "read"
    except MedvaeError as error:
        answer = str(error)
    except BaseException as error:
        answer = repr(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.put(answer)


def told_with_little_memory(path: Path, more_bytes: int = 2**29) -> str:
    """What reading a file says where only half a gigabyte more may be used."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_read_with_little_memory, args=(path, more_bytes, answers))
    process.start()
    try:
        return answers.get(timeout=60)
    finally:
        process.kill()
        process.join()


PROMISES_TOO_MUCH = {
    "1025.nii": header((1025, 1024, 1024)),
    "32767.nii.gz": gzip.compress(header((32767, 32767, 32767), "f8")),
    "overflow.nii": header((2**40, 2**40, 2**40), "f8", version=2),
    "a.nrrd": nrrd((20000, 20000, 20000), "raw", b"abc"),
    "packed.nrrd": nrrd((20000, 20000, 20000), "gzip", gzip.compress(b"abc")),
    "a.mha": mha((20000, 20000, 20000), False, b"abc"),
    "a.mgz": gzip.compress(
        np.array([1, 30000, 30000, 30000, 1, 3], ">i4").tobytes() + b"\0\0\0\1" + b"\0" * 300
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISES_TOO_MUCH)
def test_a_header_that_promises_more_than_any_scan_has_is_refused_by_its_word(tmp_path, name):
    (tmp_path / name).write_bytes(PROMISES_TOO_MUCH[name])
    for read in (read_volume, read_placement):
        with pytest.raises(MedvaeError, match=r"1024³|damaged|cannot be read") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


LIES = {
    "plain.nii": header((1000, 1000, 1000), "f8"),
    "packed.nii.gz": gzip.compress(header((1000, 1000, 1000), "f8")),
    "half.nii.gz": zeros(200 * CHUNK, header((1000, 1000, 1000), "u1")),
    "more.nii.gz": zeros(300 * CHUNK, header((30, 30, 30), "u1")),
    "more.mgz": zeros(
        300 * CHUNK, np.array([1, 30, 30, 30, 1, 0], ">i4").tobytes() + b"\0" * 260
    ),
    "raw.nrrd": nrrd((1000, 1000, 1000), "raw", b"abc"),
    "packed.nrrd": nrrd((1000, 1000, 1000), "gzip", gzip.compress(b"abc")),
    "half.nrrd": nrrd((1000, 1000, 1000), "gzip", zeros(200 * CHUNK)),
    "raw.mha": mha((1000, 1000, 1000), False, b"abc"),
    "packed.mha": mha((1000, 1000, 1000), True, zlib.compress(b"abc")),
    "half.mha": mha((1000, 1000, 1000), True, zeros(200 * CHUNK, wbits=15)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_costs_no_memory(tmp_path, name):
    (tmp_path / name).write_bytes(LIES[name])
    told = told_with_little_memory(tmp_path / name)
    assert told.startswith(f"{tmp_path / name}: is cut off or damaged")
    assert "\n" not in told


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_voxels_of_itk_that_unpack_to_more_cost_no_memory(tmp_path, name):
    data = zeros(300 * CHUNK, wbits=31 if name == "a.nrrd" else 15)
    made = nrrd((30, 30, 30), "gzip", data) if name == "a.nrrd" else mha((30, 30, 30), True, data)
    (tmp_path / name).write_bytes(made)
    told = told_with_little_memory(tmp_path / name)
    assert told == "read" or told.startswith(f"{tmp_path / name}: ")


def test_a_whole_large_file_is_refused_where_memory_is_small(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(zeros(200 * CHUNK, header((1024, 1024, 200), "u1")))
    assert "too large for this machine's memory" in told_with_little_memory(tmp_path / "a.nii.gz", 2**27)


@pytest.fixture
def large():
    allow_large()
    yield
    allow_large(False)


def test_a_large_volume_is_read_if_one_says_so(tmp_path, large):
    (tmp_path / "a.nii").write_bytes(header((1025, 1024, 1024)))
    assert np.prod(read_placement(tmp_path / "a.nii").geometry.shape) > MOST_VOXELS
    with pytest.raises(MedvaeError, match="cut off or damaged"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("extra", [b"garbage", b"\0" * 512, b"\0", b"\0" * 40000 + b"x" * 40000, b"\x1f", b"\0\x1f"])
def test_bytes_after_gzip_are_told_and_the_scan_is_read(tmp_path, extra):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(RAW) + extra)
    with pytest.warns(MedvaeWarning, match=f"a.nii.gz: {len(extra):,} bytes after the end of gzip"):
        np.testing.assert_array_equal(read_volume(path).array, ARRAY)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_bytes_after_the_voxels_are_told_and_the_scan_is_read(tmp_path, pack):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(pack(RAW + b"more"))
    with pytest.warns(MedvaeWarning, match=r"a\.nii\.gz: 4 bytes after the last voxel"):
        np.testing.assert_array_equal(read_volume(path).array, ARRAY)


def test_the_notes_at_the_end_of_mgh_are_nothing_to_tell(tmp_path):
    nib.save(nib.MGHImage(ARRAY.astype(np.float32), np.eye(4)), tmp_path / "a.mgz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_volume(tmp_path / "a.mgz").array, ARRAY)


@pytest.mark.parametrize("cut", [1, 4, 9, 30])
def test_gzip_that_is_cut_is_refused_also_in_a_later_member(tmp_path, cut):
    path = tmp_path / "a.nii.gz"
    whole = gzip.compress(RAW[:200]) + gzip.compress(RAW[200:])
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    for content in (gzip.compress(RAW)[:-cut], whole[:-cut]):
        path.write_bytes(content)
        with pytest.raises(MedvaeError, match="cut off or damaged"):
            read_volume(path)


@pytest.mark.parametrize("size", [0, 1, 2**15, CHUNK + 5])
def test_pieces_are_what_gzip_gives(tmp_path, size):
    content = np.random.default_rng(0).integers(0, 4, size, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(gzip.compress(content, 1) + gzip.compress(content, 9))
    pieces = list(decoded(tmp_path / "a", 1000))
    assert b"".join(pieces) == content * 2
    assert all(0 < len(piece) <= 1000 for piece in pieces)


def test_itk_files_of_both_encodings_are_still_read(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((260, 260, 260), np.float32))  # large enough to be looked at before
    for name, packed in (("a.nrrd", True), ("a.mha", True), ("b.nrrd", False), ("b.mhd", True)):
        sitk.WriteImage(image, str(tmp_path / name), useCompression=packed)
        assert read_volume(tmp_path / name).geometry.shape == (260, 260, 260)


@pytest.mark.parametrize("axes", ["1e308", "-1", "99999999999", "0", "", "x"])
def test_a_number_of_axes_on_which_itk_crashes_is_refused(tmp_path, axes):
    (tmp_path / "a.mha").write_bytes(
        mha((3, 4, 5), False, bytes(240)).replace(b"NDims = 3", f"NDims = {axes}".encode())
    )
    with pytest.raises(MedvaeError, match="NDims"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("key", ["type", "endian", "data file"])
def test_a_line_on_which_itk_crashes_is_refused_and_a_note_may_be_long(tmp_path, key):
    whole = nrrd((3, 4, 5), "raw", bytes(240))
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"type:", f"{key}: {'x' * 5000}\ntype:".encode(), 1))
    with pytest.raises(MedvaeError, match="line 2 of its header has 5,"):
        read_volume(tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"type:", f"note:={'x' * 800}\n# {'y' * 800}\ntype:".encode(), 1))
    assert read_volume(tmp_path / "a.nrrd").array.shape == (3, 4, 5)


@pytest.mark.parametrize("end", [b"ElementDataFile\n", b"ElementDataFile = \n", b"ElementDataFile\0\0\n", b""])
def test_a_header_without_a_place_of_its_voxels_on_which_itk_crashes_is_refused(tmp_path, end):
    whole = mha((3, 4, 5), False, bytes(240))
    (tmp_path / "a.mha").write_bytes(whole.replace(b"ElementDataFile = LOCAL\n", end))
    with pytest.raises(MedvaeError, match="ElementDataFile"):
        read_volume(tmp_path / "a.mha")
