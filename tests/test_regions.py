"""The region atlas, and where it says that findings lie."""

import hashlib
import importlib.util

import numpy as np
import pytest

from medvae.imaging.volume import Geometry, read_volume, resample
from medvae.preparation.standard_brain import read_template
from medvae.regions.atlas import FILES, region_atlas
from medvae.regions.findings import HEMISPHERES, LOCATIONS, ONE_SIDED, measure_findings
from medvae.regions.names import BORDER, FLUID, GREY, REGIONS, TISSUES, WHITE
from tests.conftest import STANDARD_GRID

SHA256 = {
    "mni152_regions.nii.gz": "9b06bbcbb94bc369f6cf27fc2b21212815f8f2a98811e13f1c2d13f1db920251",
    "mni152_tissues.nii.gz": "6b50da0c3b0585aee7799c202231f5b1c35fc87c6b63cbf53015df1f4a7457f5",
}
"""Findings of earlier predictions have the places that these files give: a new atlas is told in the CHANGELOG."""

PLACES = {
    (-12, 12, 10): ("left", "caudate nucleus", "grey matter", "periventricular"),
    (27, 2, 2): ("right", "putamen", "grey matter", "deep grey matter"),
    (-11, -18, 8): ("left", "thalamus", "grey matter", "deep grey matter"),
    (0, -28, -32): ("midline", "brainstem", "white matter", "infratentorial"),
    (-26, -62, -38): ("left", "cerebellum", None, "infratentorial"),
    (26, 0, 32): ("right", "frontal lobe", "white matter", "deep white matter"),
    (-30, -46, 14): ("left", None, "white matter", "periventricular"),
    (46, 32, 14): ("right", "frontal lobe", None, "juxtacortical-cortical"),
    (-56, -22, -12): ("left", "temporal lobe", None, "juxtacortical-cortical"),
    (10, -88, 4): ("right", "occipital lobe", None, "juxtacortical-cortical"),
    (38, 4, 0): ("right", "insula", None, "juxtacortical-cortical"),
    (0, 24, 6): ("midline", "corpus callosum", None, None),
}
"""Centres of balls in MNI152 space, in mm, and where any atlas of the brain puts them; None: not asked."""


def ball(geometry: Geometry, centre_mm, radius_mm: float) -> np.ndarray:
    world = np.moveaxis(np.indices(geometry.shape), 0, -1) @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    return np.linalg.norm(world - np.array(centre_mm), axis=-1) <= radius_mm


@pytest.mark.parametrize("name", SHA256)
def test_the_atlas_is_the_one_that_was_made(name):
    content = (FILES / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    assert len(content) < 40_000


def test_the_atlas_covers_the_brain_of_the_template():
    atlas, brain = region_atlas(), read_template()[1]
    assert atlas.geometry == STANDARD_GRID
    assert set(np.unique(atlas.region)) == set(REGIONS)  # every region has won somewhere, and no place is without one
    assert set(np.unique(atlas.tissue)) == set(TISSUES)
    share = {tissue: (atlas.tissue[brain] == tissue).mean() for tissue in TISSUES}
    assert share[WHITE] > 0.2
    assert share[GREY] > 0.2
    assert share[FLUID] < 0.2
    assert share[BORDER] < 0.2


def test_both_halves_of_the_atlas_are_alike():
    region = region_atlas().region[read_template()[1] & read_template()[1][::-1]]
    mirrored = region_atlas().region[::-1][read_template()[1] & read_template()[1][::-1]]
    assert (region == mirrored).mean() > 0.9


@pytest.mark.parametrize("centre", PLACES)
def test_findings_at_known_places_have_their_names(centre):
    hemisphere, region, tissue, location = PLACES[centre]
    mask = ball(STANDARD_GRID, centre, 4)
    (found,) = measure_findings(mask, np.full(mask.shape, 0.7, np.float32), STANDARD_GRID, np.eye(4))
    assert found.place.hemisphere == hemisphere
    assert region in (None, found.place.region)
    assert tissue in (None, found.place.tissue)
    assert location in (None, found.place.location)
    assert np.allclose(found.centre_mm, centre, atol=1)
    assert found.place.region in REGIONS.values()
    assert found.place.hemisphere in HEMISPHERES
    assert found.place.location in LOCATIONS


@pytest.mark.parametrize("spacing", [1.0, 2.5])
def test_places_are_looked_up_by_the_way_of_the_scan(spacing):
    """A scan that lies elsewhere, turned and of other voxels, has its findings in the same regions."""
    angle = 0.4
    to_scan = np.eye(4)
    to_scan[:3, :3] = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) * np.array([0.9, 1.1, 1.0])
    to_scan[:3, 3] = (15, -30, 40)
    centre = np.array([27.0, 2.0, 2.0])
    there = to_scan[:3, :3] @ centre + to_scan[:3, 3]
    affine = np.diag([-spacing, spacing, spacing, 1.0])  # LAS: an index is no side
    affine[:3, 3] = there - affine[:3, :3] @ [12, 10, 11]
    geometry = Geometry(affine, (25, 21, 23))
    standard = ball(STANDARD_GRID, centre, 6).astype(np.float32)
    mask = resample(standard, STANDARD_GRID, geometry, transform=np.linalg.inv(to_scan)) >= 0.5
    (found,) = measure_findings(mask, mask.astype(np.float32), geometry, np.linalg.inv(to_scan))
    assert (found.place.hemisphere, found.place.region) == ("right", "putamen")
    assert np.allclose(found.place.centre_mni152_mm, centre, atol=0.8)
    assert np.allclose(found.centre_mm, there, atol=0.8)
    assert found.volume_ml == pytest.approx(mask.sum() * spacing**3 / 1000, abs=1e-4)


def test_lesions_that_experts_outlined_in_multiple_sclerosis_lie_in_white_matter(repository):
    """Of two patients of the included cohort, which lies in MNI152 space."""
    volume_ml = dict.fromkeys(TISSUES.values(), 0.0)
    locations = set()
    for name in ("patient07", "patient26"):
        lesions = read_volume(repository / "data_manifests" / "included" / "open_ms" / f"{name}_lesions.nii.gz")
        for found in measure_findings(lesions.array, lesions.array, lesions.geometry, np.eye(4)):
            volume_ml[found.place.tissue] += found.volume_ml
            locations.add(found.place.location)
    assert volume_ml["white matter"] > 0.95 * sum(volume_ml.values()) > 10
    assert locations >= {"periventricular", "juxtacortical-cortical", "infratentorial", "deep white matter"}


def test_findings_are_components_by_size_with_their_own_values():
    geometry = Geometry(np.diag([2.0, 2.0, 2.0, 1.0]), (12, 10, 8))
    mask, anomaly = np.zeros(geometry.shape, np.uint8), np.full(geometry.shape, 0.2, np.float32)
    mask[1, 1, 1] = 1
    mask[8:10, 4:6, 2:5] = 1
    mask[3, 3, 3] = mask[4, 4, 4] = 1  # which touch at a corner
    anomaly[mask > 0] = 0.6
    anomaly[9, 5, 4] = 0.9
    found = measure_findings(mask, anomaly, geometry, None)
    assert [round(finding.volume_ml * 125) for finding in found] == [12, 2, 1]
    assert found[0].centre_mm == (17.0, 9.0, 6.0)
    assert found[0].peak == pytest.approx(0.9, abs=1e-4)
    assert found[0].mean == pytest.approx((11 * 0.6 + 0.9) / 12, abs=1e-4)
    assert [finding.peak for finding in found[1:]] == [0.6, 0.6]
    assert all(finding.place is None for finding in found)  # the way to the template is not known
    assert "Region" not in found[0].sidecar
    assert measure_findings(np.zeros_like(mask), anomaly, geometry, None) == []


def test_a_finding_that_crosses_the_midline_has_no_side():
    mask = ball(STANDARD_GRID, (2, 24, 6), 8)  # most of it on the right
    (found,) = measure_findings(mask, mask.astype(np.float32), STANDARD_GRID, np.eye(4))
    world_x = np.indices(mask.shape)[0] * 2 - 79
    assert 0.5 < (world_x[mask] > 0).mean() < ONE_SIDED
    assert found.place.hemisphere == "midline"


def test_a_large_finding_has_the_region_of_most_of_it():
    mask = ball(STANDARD_GRID, (30, 34, 20), 20) & read_template()[1]
    (found,) = measure_findings(mask, mask.astype(np.float32), STANDARD_GRID, np.eye(4))
    assert found.place.region == "frontal lobe"
    counted = (region_atlas().region[mask] == 1).mean()
    assert found.place.region_share == pytest.approx(counted, abs=1e-3)
    assert 0.5 < counted < 1


def test_places_beyond_the_grid_are_those_at_its_edge():
    outside = region_atlas().at(np.array([[0.0, 500.0, 0.0], [0.0, 77.0, 1.0]]))
    assert outside.region[0] == outside.region[1] == 1


def test_the_program_knows_every_region_and_no_label_twice(repository):
    spec = importlib.util.spec_from_file_location("make_regions", repository / "pipelines" / "make_regions.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert set(program.DLMUSE) == set(REGIONS.values())
    labels = [label for group in program.DLMUSE.values() for label in group]
    assert len(labels) == len(set(labels))
    region, tissue = program.tables()
    assert (tissue[region > 0] > 0).all()
    assert tissue[[81, 100, 51, 1, 35, 0]].tolist() == [WHITE, GREY, FLUID, FLUID, WHITE, 0]
    assert REGIONS[int(region[36])] == "caudate nucleus"
    assert region[1] == 0
