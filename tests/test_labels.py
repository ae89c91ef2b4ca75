"""What counts as lesion, for the check of a cohort and its evaluation alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvae.errors import MedvaeError
from medvae.imaging.labels import label_map
from medvae.imaging.volume import Geometry, Volume

GRID = Geometry(np.eye(4), (6, 5, 4))


def volume(*values: float) -> Volume:
    """A label map whose first voxels have these values."""
    array = np.zeros(GRID.shape, np.float32)
    array.ravel(order="K")[: len(values)] = values
    return Volume(array, GRID, None, Path("label.nii.gz"))


@pytest.mark.parametrize("off", [0, 1e-7, -1e-7, 1e-4, -1e-4])
def test_a_value_close_to_a_whole_number_is_that_number(off):
    found = label_map(volume(1 + off, 2 + off, 255 + off), None)
    assert sorted(np.unique(found.values)) == [0, 1, 2, 255]
    assert found.lesion.sum() == 3


@pytest.mark.parametrize("value", [0.5, 0.99, 1.01, -0.5])
@pytest.mark.parametrize("regions", [None, {"lesion": [1]}])
def test_a_value_between_is_refused(value, regions):
    with pytest.raises(MedvaeError, match=r"label.nii.gz: .*no whole numbers \(as .*nearest neighbours"):
        label_map(volume(value), regions)


@pytest.mark.parametrize("regions", [None, {"ignore": [9]}])
def test_a_negative_value_must_be_named(regions):
    with pytest.raises(MedvaeError, match=r"negative label values, as -1.*ignore"):
        label_map(volume(1, -1), regions)
    with pytest.raises(MedvaeError, match=r"label values -1, which .*\(1\) do not name"):
        label_map(volume(1, -1), {"lesion": [1]})
    found = label_map(volume(1, -1), {"lesion": [1], "ignore": [-1]})
    assert (found.lesion.sum(), found.ignored.sum()) == (1, 1)


def test_without_names_every_value_above_zero_is_lesion():
    assert label_map(volume(1, 2, 17), None).lesion.sum() == 3
    assert label_map(volume(1, 2, 17), {"Ignore": [17]}).lesion.sum() == 2


def test_an_ignored_region_is_no_part_of_the_lesion():
    regions = {"ignore": [3], "whole": [1, 2], "core": [2], "cavity": [4]}
    found = label_map(volume(1, 2, 2, 3, 4), regions)
    assert {name: int(mask.sum()) for name, mask in found.lesions.items()} == {"whole": 3, "core": 2}
    assert found.ignored.sum() == 1


def test_a_value_without_a_name_is_refused():
    with pytest.raises(MedvaeError, match=r"label values 7, which the manifest's label_values \(1, 2\)"):
        label_map(volume(1, 7), {"lesion": [1], "core": [2]})
