"""Montages: which slices, which way up, left and right, proportions, and the same bytes every time."""

import hashlib
from dataclasses import replace

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.textpath import TextPath
from test_viewers import AFFINES, SHAPE, predict_by_hand, scan_file

from medvae.config import Config
from medvae.drawing import TRUTH_COLOUR, rgb
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.imaging.volume import Geometry
from medvae.prediction import Scan, predict
from medvae.reporting import montage
from medvae.reporting.case_picture import draw_case, draw_figure
from medvae.reporting.montage import (
    APART_MM,
    Column,
    Shown,
    draw_montage,
    fitting_size,
    largest_finding,
    largest_slices,
    slices_at,
)

GRID = Geometry(np.diag([2.0, 2, 3, 1]), (20, 24, 30))


def shown(*, mask=(), truth=None, geometry=GRID):
    """A brain that fills the grid, with a mask and a truth of boxes."""

    def boxes(chosen):
        region = np.zeros(geometry.shape, bool)
        for box in chosen:
            region[box] = True
        return region

    image = np.full(geometry.shape, 100, np.float32)
    anomaly = np.broadcast_to(np.linspace(0.1, 0.4, geometry.shape[2]), geometry.shape).astype(np.float32)
    return Shown.of("a", geometry, image, anomaly, boxes(mask), truth=None if truth is None else boxes(truth))


def test_slices_with_most_truth_come_first_then_most_findings_then_most_map():
    large, small = np.s_[2:12, 2:12, 20:21], np.s_[2:5, 2:5, 10:11]
    case = shown(mask=[np.s_[2:18, 2:18, 5:6]], truth=[large, small])
    assert largest_slices(case, 2, 1) == [20]
    assert largest_slices(case, 2, 2) == [10, 20]
    assert largest_slices(shown(mask=[large, small], truth=[]), 2, 2) == [10, 20]
    assert largest_slices(shown(mask=[large], truth=None), 2, 1) == [20]
    assert largest_slices(shown(), 2, 1) == [29]  # the map rises to the top
    assert largest_slices(case, 0, 1) == [2]  # of equals the first


def test_chosen_slices_lie_apart_ascend_and_fill_up():
    case = shown(mask=[np.s_[2:18, 2:18, 8:20]])
    for count in (1, 2, 3, 5, 9):
        chosen = largest_slices(case, 2, count)
        assert len(chosen) == count
        assert chosen == sorted(chosen)
        assert (np.diff(chosen) * 3 >= APART_MM).all()
    assert len(largest_slices(case, 2, 100)) <= 30 * 3 / APART_MM + 1


def test_slices_at_world_coordinates():
    case = shown()
    assert slices_at(case, 2, [0, 9.2, 87]) == [0, 3, 29]
    with pytest.raises(MedvaeError, match="no slice at 200 mm"):
        slices_at(case, 2, [200])


def test_a_finding_shaped_like_a_ring_is_shown_where_it_is():
    ring = shown(mask=[np.s_[4:16, 4:16, 10:11]])
    hollow = ring.mask.copy()
    hollow[6:14, 6:14, 10] = False
    hollow[1, 1, 1] = True
    case = Shown.of("a", ring.geometry, ring.image, ring.anomaly, hollow)
    assert hollow[largest_finding(case)]
    assert largest_finding(case) != (1, 1, 1)


def cyan(file):
    """Pixels of the truth's colour, which nothing else in a picture has."""
    distance = np.abs(matplotlib.image.imread(file)[..., :3] - np.array(rgb(TRUTH_COLOUR)) / 255)
    return distance.max(axis=-1) < 0.28


def case_files(folder, affine, lesion, shape=SHAPE):
    """A bright brain with a lesion at a box; returns scan, map and mask."""
    image, mask = np.full(shape, 100, np.float32), np.zeros(shape, np.uint8)
    mask[lesion] = 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("scan", image), ("map", np.where(mask, 0.9, 0.1).astype(np.float32)), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return [folder / f"{name}.nii.gz" for name in ("scan", "map", "mask")]


def test_the_patients_right_is_on_the_left_unless_asked_otherwise(tmp_path):
    case = shown(truth=[np.s_[15:18, 4:8, 10:11]])  # x grows to the patient's right
    middles = [
        np.nonzero(cyan(draw_montage([Column(case, axis, index)], tmp_path / "f.png", radiological=radiological)))[1]
        for axis, index in ((2, 10), (1, 5))
        for radiological in (True, False)
    ]
    for left, right in (middles[:2], middles[2:]):  # mirrored about the middle of the panel
        assert left.max() < right.min() - 20


def test_the_front_is_on_the_left_and_up_is_up(tmp_path):
    case = shown(truth=[np.s_[9:11, 20:23, 25:28]])  # in front and above
    for radiological in (True, False):
        file = draw_montage([Column(case, 0, 10)], tmp_path / "f.png", radiological=radiological)
        rows, columns = np.nonzero(cyan(file))
        other = draw_montage([Column(shown(truth=[np.s_[9:11, 1:4, 2:5]]), 0, 10)], tmp_path / "g.png")
        behind_rows, behind_columns = np.nonzero(cyan(other))
        assert columns.max() < behind_columns.min()
        assert rows.max() < behind_rows.min()


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SAL", "IPR"])
def test_a_picture_does_not_depend_on_the_order_of_the_axes_in_the_file(tmp_path, codes):
    files = case_files(tmp_path / "RAS", np.diag([1.0, 2, 3, 1]), np.s_[13:17, 5:9, 3:6])
    turned = tmp_path / codes
    turned.mkdir()
    to = nib.orientations.axcodes2ornt(tuple(codes))
    for file in files:
        image = nib.load(file)
        ornt = nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), to)
        nib.save(image.as_reoriented(ornt), turned / file.name)
    first = draw_case(*files, tmp_path / "a.png", title="t").read_bytes()
    assert draw_case(*(turned / file.name for file in files), tmp_path / "b.png", title="t").read_bytes() == first


def test_proportions_are_those_of_the_patient(tmp_path):
    affine = np.diag([1.0, 1, 6, 1])
    scan, anomaly, mask = case_files(tmp_path, affine, np.s_[10:40, 10:40, 5:10], shape=(60, 60, 14))
    found = cyan(draw_case(scan, anomaly, mask, tmp_path / "f.png", truth=mask))
    starts = np.flatnonzero(np.diff(found.any(axis=0).astype(int), prepend=0) == 1)
    assert len(starts) == 3  # axial, coronal, sagittal
    for start in starts:  # a cube: 30 mm by 30 mm by 5 slices of 6 mm
        up = found[:, start + 5].sum()
        across = found[np.flatnonzero(found[:, start + 5])[5], start : start + 2 * up].sum()
        assert across == pytest.approx(up, rel=0.04)
        assert up == pytest.approx(30 * 0.0095 * 200, rel=0.04)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_same_call_writes_the_same_bytes(tmp_path, ending):
    for name, affine in AFFINES.items():
        predict_by_hand(tmp_path / "p", name, scan_file(tmp_path / f"{name}.nii.gz", affine))
    digests = set()
    for folder in ("one", "two é"):
        file = draw_figure(
            tmp_path / "p", tmp_path / folder / f"a figure.{ending}", plane="coronal", title="Schädel $5"
        )
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert b"2026-" not in file.read_bytes()


def test_long_names_of_narrow_columns_do_not_run_into_each_other(tmp_path, monkeypatch):
    names = ("a_rather_long_name_of_a_scan_0001", "another_long_name_of_a_scan_0002")
    long = [replace(shown(), name=name) for name in names]
    written = []
    real = montage._write
    monkeypatch.setattr(montage, "_write", lambda *a, **o: (written.append((a[1], a[3], o["fontsize"])), real(*a, **o)))
    draw_montage([Column(case, 2, 3) for case in long], tmp_path / "f.png")
    (left, name, size), (right, _, _) = [one for one in written if one[1].endswith(("0001", "0002"))]
    assert left + TextPath((0, 0), name, size=size).get_extents().width / 72 <= right
    assert fitting_size("short", 5.0) == fitting_size("", 1.0) == 9.0


def test_names_with_dollars_spaces_and_accents_are_drawn(tmp_path):
    for name in ("ä b$c_1$", "plain"):
        predict_by_hand(tmp_path / "p", name, scan_file(tmp_path / f"{name}.nii.gz", AFFINES["RAS"]))
    assert draw_figure(tmp_path / "p", tmp_path / "f.svg").stat().st_size > 0


def test_what_cannot_be_drawn_is_told(tmp_path):
    for number in range(3):
        predict_by_hand(tmp_path / "p", f"s{number}", scan_file(tmp_path / f"{number}.nii.gz", AFFINES["RAS"]))
    for options, words in (
        ({"out": "f.jpeg"}, "PNG, PDF or SVG"),
        ({"slices": 9}, "more than the 24 columns"),
        ({"ids": ["s9"]}, 'no prediction "s9"'),
        ({"positions_mm": [500.0]}, "no slice at 500 mm"),
    ):
        out = tmp_path / options.pop("out", "f.png")
        with pytest.raises(MedvaeError, match=words):
            draw_figure(tmp_path / "p", out, **options)
        assert not out.exists()
    (tmp_path / "0.nii.gz").unlink()
    with pytest.raises(MedvaeError, match="moved or renamed"):
        draw_figure(tmp_path / "p", tmp_path / "f.png")


NETWORK = {
    "name": "small",
    "sampling": {"batch_size": 8, "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 1, "validate_every": 100},
}


def test_reconstruction_is_drawn_for_a_detector_that_makes_one_and_only_for_its_own_maps(tmp_path, cohort, prepared):
    detector = fit(Config.model_validate(NETWORK), cohort, tmp_path / "run", cache=prepared, quiet=True)
    folder, case = tmp_path / "p", cohort.case("sub07")
    predict(detector, [Scan(case.id, tuple(cohort.images(case)))], folder, cache=prepared, quiet=True)
    heights = {}
    for name, made_by in {"plain": None, "whole": detector, "without": replace(detector, network=None)}.items():
        file = draw_figure(folder, tmp_path / f"{name}.png", manifest=cohort, slices=2, detector=made_by)
        heights[name] = matplotlib.image.imread(file).shape[0]
    assert heights["whole"] > 1.15 * heights["plain"]  # a row more
    assert heights["without"] == heights["plain"]
    with pytest.raises(MedvaeError, match="was predicted by small"):
        draw_figure(folder, tmp_path / "f.png", detector=replace(detector, fingerprint="another"))
