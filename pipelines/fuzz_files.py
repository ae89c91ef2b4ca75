"""Files for `fuzz.py`: whole ones of each kind, changed where their formats are delicate, or anywhere."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
DETECTOR = REPOSITORY / "medvae" / "pretrained" / "t1-2mm"
MEMBER = DETECTOR / "members" / "patients_small_t1"

Random = np.random.Generator | None
"""None leaves a file whole."""

NASTY = (
    None, True, False, 0, -1, 1, 10**30, -(10**30), 2**63, 1e308, 0.5, float("nan"), float("inf"), "", " ", "..", ".",
    "../../etc/passwd", "/dev/zero", "/dev/null", "/", "a\0b", "\x1b[2J", "[/B]", "[bold]", "\ud800", "x" * 100_000,
    "a/b", "a\nb", "é", "😀", [], {}, [[]], [None], {"": None}, {"0": "T1"}, [0] * 1000, "1e9", "NaN", "null",
    "{{id}}", "%s%n", "$HOME", "~", "C:\\a",
)  # fmt: skip
"""Values that parsers, file systems and terminals have stumbled over."""


# --- changes --------------------------------------------------------------------------------------------------------


def changed_bytes(content: bytes, rng: Random, header: int = 0) -> bytes:
    """Some bytes flipped, cut out, doubled or replaced; mostly in the first ``header`` bytes."""
    if rng is None:
        return content
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        end = min(header, len(data)) if header and rng.random() < 0.8 else len(data)
        if end < 1:
            break
        at = int(rng.integers(0, end))
        match int(rng.integers(0, 7)):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2:
                width = int(rng.choice([2, 4, 8]))
                number = int(rng.choice([0, 1, -1, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31)])) % 2 ** (8 * width)
                data[at : at + width] = number.to_bytes(width, "little" if rng.random() < 0.7 else "big")
            case 3:
                data[at : at + 4] = np.float32(rng.choice([np.nan, np.inf, -np.inf, 0, 1e38, 1e-45])).tobytes()
            case 4:
                del data[at : at + int(rng.integers(1, 64))]
            case 5:
                data[at:at] = data[at : at + int(rng.integers(1, 64))]
            case _:
                del data[int(rng.integers(0, len(data))) :]
    return bytes(data)


def changed_tree(document: Any, rng: Random) -> Any:
    """Some values of a document replaced by nasty ones, keys dropped or renamed, parts nested deep."""
    if rng is None:
        return document
    document = json.loads(json.dumps(document))
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(document))
        if not places:
            return copy.deepcopy(NASTY[int(rng.integers(0, len(NASTY)))])
        owner, key = places[int(rng.integers(0, len(places)))]
        nasty = copy.deepcopy(NASTY[int(rng.integers(0, len(NASTY)))])
        match int(rng.integers(0, 6)):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[str(nasty)[:50]] = owner.pop(key)
            case 2:
                for _ in range(int(rng.choice([3, 100, 500]))):
                    owner[key] = [owner[key]] if rng.random() < 0.5 else {"a": owner[key]}
            case 3 if isinstance(owner[key], list) and owner[key]:
                owner[key] = owner[key] * int(rng.choice([0, 2, 1000]))
            case _:
                owner[key] = nasty
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [document]
    while waiting:
        owner = waiting.pop()
        items = owner.items() if isinstance(owner, dict) else enumerate(owner) if isinstance(owner, list) else ()
        for key, value in items:
            yield owner, key
            waiting.append(value)


def as_text(document: Any, rng: Random, *, as_yaml: bool = False) -> bytes:
    """A document as JSON or YAML, sometimes with another byte order mark, coding, repeated keys or damage."""
    if rng is None:
        return (yaml.safe_dump(document) if as_yaml else json.dumps(document)).encode()
    if as_yaml:
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            text = yaml.safe_dump(document, allow_unicode=True)
            return _recoded(text, rng)
    try:
        text = json.dumps(document, ensure_ascii=bool(rng.random() < 0.5))
    except RecursionError:
        text = "[" * 5000
    if rng.random() < 0.1:
        text = text.replace("{", '{"id": 1, "id": 2, ', 1)
    if rng.random() < 0.05:
        text = text.replace("1", "9" * 5000, 1)
    return _recoded(text, rng)


def _recoded(text: str, rng: Random) -> bytes:
    codings = ["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1", "utf-32"]
    content = text.encode(codings[int(rng.integers(0, len(codings)))], "replace")
    return changed_bytes(content, rng) if rng.random() < 0.3 else content


# --- volumes --------------------------------------------------------------------------------------------------------

AFFINE = np.array([[-2.0, 0, 0, 12], [0, 2, 0, -16], [0, 0, 2, -10], [0, 0, 0, 1]])
WHOLE = np.random.default_rng(0).integers(0, 100, (12, 12, 12)).astype(np.uint8)
FIELDS = ("dim", "pixdim", "datatype", "vox_offset", "scl_slope", "scl_inter", "sform_code", "qform_code", "bitpix",
          "srow_x", "quatern_b", "xyzt_units", "magic")  # fmt: skip
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8", "c8")


def _array(rng: Random) -> np.ndarray:
    shape = tuple(int(n) for n in rng.integers(1, 14, int(rng.choice([1, 2, 3, 3, 3, 3, 4]))))
    values = rng.integers(0, 100, shape)
    return values.astype(DTYPES[int(rng.integers(0, len(DTYPES)))])


def _nifti(rng: Random, version: int) -> bytes:
    if rng is None:
        kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
        return kind(WHOLE, AFFINE).to_bytes()
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    array = _array(rng)
    image = kind(array, AFFINE, dtype=array.dtype)
    content = bytearray(image.to_bytes())
    header = image.header.copy()
    header["vox_offset"] = 352 if version == 1 else 544
    for _ in range(int(rng.integers(0, 4))):
        name = FIELDS[int(rng.integers(0, len(FIELDS)))]
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            old = header[name]
            if name == "magic":
                header[name] = [b"ni1", b"n+1", b"n+2", b""][int(rng.integers(0, 4))]
            elif old.ndim:
                old[int(rng.integers(0, old.size))] = _number(rng, old.dtype)
            else:
                header[name] = _number(rng, old.dtype)
    content[: len(header.binaryblock)] = header.binaryblock
    return bytes(content)


def _number(rng: Random, dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        return rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e30, -1.0, 1e-30, 3.0])
    limits = np.iinfo(dtype)
    return int(rng.choice(np.array([0, 1, 2, 3, 16, 1024, limits.max, limits.min, limits.max // 2], dtype=object)))


def nifti1(rng: Random) -> bytes:
    """A NIfTI-1 file."""
    content = _nifti(rng, 1)
    return changed_bytes(content, rng, 352) if rng is not None and rng.random() < 0.6 else content


def nifti2(rng: Random) -> bytes:
    """A NIfTI-2 file."""
    content = _nifti(rng, 2)
    return changed_bytes(content, rng, 544) if rng is not None and rng.random() < 0.6 else content


def gzipped(rng: Random) -> bytes:
    """A compressed NIfTI file: damaged before or after compression, in members, with more after its end."""
    content = nifti1(rng)
    if rng is None:
        return gzip.compress(content)
    match int(rng.integers(0, 6)):
        case 0:
            return gzip.compress(content)
        case 1:
            return gzip.compress(content) + rng.bytes(int(rng.integers(1, 2000)))
        case 2:
            half = len(content) // 2
            return gzip.compress(content[:half]) + b"\0" * int(rng.integers(0, 9)) + gzip.compress(content[half:])
        case 3:
            return changed_bytes(gzip.compress(content), rng, 20)
        case 4:
            return gzip.compress(content + bytes(int(rng.choice([10**3, 10**6, 10**8], p=[0.6, 0.37, 0.03]))), 9)
        case _:
            return changed_bytes(gzip.compress(content), rng)


def mgh(rng: Random) -> bytes:
    """FreeSurfer's format, compressed or not."""
    array = WHOLE if rng is None else WHOLE.astype(["u1", ">i2", ">i4", ">f4"][int(rng.integers(0, 4))])
    stream = io.BytesIO()
    image = nib.MGHImage(array, AFFINE)
    image.to_file_map({"image": nib.FileHolder(fileobj=stream)})
    content = stream.getvalue()
    if rng is None:
        return content
    content = changed_bytes(content, rng, 284) if rng.random() < 0.8 else content
    return gzip.compress(content) if rng.random() < 0.5 else content


VALUES = ("0", "16", "-1", "99999999999", "1e308", "nan", "", "1 2", "LOCAL", "list", "None", "x" * 5000, "gzip",
          "(1,0,0)", "/etc/passwd", "../a.raw", "%d.raw", "raw", "ascii", "1000 1000 1000",
          "40000 40000 40000", "7")  # fmt: skip


def _fields(fields: list[tuple[str, str]], separator: str, rng: Random) -> str:
    for _ in range(0 if rng is None else int(rng.integers(0, 4))):
        at = int(rng.integers(0, len(fields)))
        match int(rng.integers(0, 4)):
            case 0:
                fields.pop(at)
            case 1:
                fields.insert(at, fields[int(rng.integers(0, len(fields)))])
            case _:
                fields[at] = (fields[at][0], VALUES[int(rng.integers(0, len(VALUES)))])
        if not fields:
            break
    return "".join(f"{key}{separator}{value}\n" for key, value in fields)


def nrrd(rng: Random) -> bytes:
    """NRRD."""
    array, packed = WHOLE, rng is not None and bool(rng.random() < 0.5)
    fields = [("type", "uchar"), ("dimension", "3"), ("space", "left-posterior-superior"), ("sizes", "12 12 12"),
              ("space directions", "(2,0,0) (0,2,0) (0,0,2)"), ("kinds", "domain domain domain"), ("endian", "little"),
              ("encoding", "gzip" if packed else "raw"), ("space origin", "(0,0,0)")]  # fmt: skip
    head = f"NRRD000{4 if rng is None else int(rng.integers(1, 7))}\n{_fields(fields, ': ', rng)}\n".encode()
    data = gzip.compress(array.tobytes()) if packed else array.tobytes()
    content = head + data
    return changed_bytes(content, rng, len(head)) if rng is not None and rng.random() < 0.4 else content


def mha(rng: Random) -> bytes:
    """MetaImage."""
    array, packed = WHOLE, rng is not None and bool(rng.random() < 0.5)
    data = zlib.compress(array.tobytes()) if packed else array.tobytes()
    fields = [("ObjectType", "Image"), ("NDims", "3"), ("BinaryData", "True"), ("BinaryDataByteOrderMSB", "False"),
              ("CompressedData", str(packed)), ("CompressedDataSize", str(len(data))),
              ("TransformMatrix", "1 0 0 0 1 0 0 0 1"), ("Offset", "0 0 0"), ("ElementSpacing", "2 2 2"),
              ("DimSize", "12 12 12"), ("ElementType", "MET_UCHAR"), ("ElementDataFile", "LOCAL")]  # fmt: skip
    if not packed:
        del fields[5]
    head = _fields(fields, " = ", rng).encode()
    return changed_bytes(head + data, rng, len(head)) if rng is not None and rng.random() < 0.4 else head + data


# --- documents ------------------------------------------------------------------------------------------------------

MANIFEST = {
    "name": "small", "licence": "CC BY", "modality": {"0": "T1"}, "label_values": {"lesion": [1], "core": [1, 2]},
    "cases": [
        {"id": "a", "image": "scan.nii", "mask": "mask.nii", "split": "train", "age": 30, "sex": "F", "site": "x"},
        {"id": "b", "image": ["scan.nii"], "label": "label.nii", "split": "test", "subject": "b", "sha256": "0" * 64},
    ],
}  # fmt: skip
TABLE = "participant_id\tage\tsex\tsite\nsub-01\t30\tF\tA\nsub-02\t89+\tM\tB\nsub-03\tn/a\tn/a\t\n"
DATASET = {
    "channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1, "whole": [1, 2]}, "numTraining": 1,
    "file_ending": ".nii.gz", "licence": "x", "modality": {"0": "T1"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": ["./imagesTs/b.nii.gz"],
}  # fmt: skip


def manifest(rng: Random) -> bytes:
    """A manifest."""
    return as_text(changed_tree(MANIFEST, rng), rng)


def config(rng: Random) -> bytes:
    """A config, in YAML or JSON's part of it."""
    files = sorted((REPOSITORY / "configs").rglob("*.yaml")) or [MEMBER / "config.yaml"]
    if rng is None:
        return files[0].read_bytes()
    if rng.random() < 0.2:
        return changed_bytes(files[int(rng.integers(0, len(files)))].read_bytes(), rng)
    document = yaml.safe_load(files[int(rng.integers(0, len(files)))].read_text())
    return as_text(changed_tree(document, rng), rng, as_yaml=bool(rng.random() < 0.7))


def table(rng: Random) -> bytes:
    """A table of people: cells replaced, quotation marks, other separators."""
    if rng is None:
        return TABLE.encode()
    rows = [line.split("\t") for line in TABLE.splitlines()]
    for _ in range(int(rng.integers(1, 5))):
        row = rows[int(rng.integers(0, len(rows)))]
        row[int(rng.integers(0, len(row)))] = str(NASTY[int(rng.integers(0, len(NASTY)))])
        if rng.random() < 0.3:
            row.append('"')
    separator = ["\t", ",", ";", "\t\t", "|"][int(rng.integers(0, 5))]
    return _recoded("\r\n".join(separator.join(row) for row in rows), rng)


def dataset(rng: Random) -> bytes:
    """The dataset.json of nnU-Net or the Decathlon."""
    return as_text(changed_tree(DATASET, rng), rng)


def calibration(rng: Random) -> bytes:
    """The calibration of an ensemble."""
    return as_text(changed_tree(json.loads((DETECTOR / "calibration.json").read_text()), rng), rng)


def scale(rng: Random) -> bytes:
    """The intensity scale of a detector."""
    return as_text(changed_tree(json.loads((DETECTOR / "intensity_scale.json").read_text()), rng), rng)


def weights(rng: Random) -> bytes:
    """A safetensors file whose header is changed, or that is cut."""
    content = (DETECTOR / "healthy.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng is None or rng.random() < 0.5:
        return changed_bytes(content, rng, length + 8)
    head = as_text(changed_tree(json.loads(content[8 : 8 + length]), rng), rng)
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


def log(rng: Random) -> bytes:
    """The log of a training."""
    lines = [{"step": n, "seconds": 1.5, "total": 0.4, "kl": 0.1, "validation_kl": 0.2} for n in range(4)]
    return b"\n".join(
        as_text(changed_tree(line, rng) if rng is not None and rng.random() < 0.4 else line, rng) for line in lines
    )


SIDECAR = {
    "Sources": ["scan.nii"], "SourcesSha256": [], "Model": "m", "ModelFingerprint": "f" * 64,
    "OperatingPoints": {"fpr_0.01": {"FalsePositiveRate": 0.01, "Threshold": 0.5}}, "OperatingPoint": "fpr_0.01",
    "HealthyScans": {"training": 3, "validation": 3}, "Threshold": 0.5, "CasePValue": 0.1, "LesionVolumeMl": 1.0,
    "SpatialReference": "scan.nii", "Notes": ["a"], "BrainVolumeMl": 1000.0, "Guarantee": "None.",
}  # fmt: skip


def sidecar(rng: Random) -> bytes:
    """The sidecar of a lesion mask."""
    return as_text(changed_tree(SIDECAR, rng), rng)
