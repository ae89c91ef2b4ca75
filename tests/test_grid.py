"""A second standard grid is a line and a template: all that follows from a scan works on it, and mm stay mm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvae.augmentation.options import AugmentationConfig
from medvae.augmentation.randomness import Sample
from medvae.augmentation.thick_slices import ThickSlices
from medvae.config import Config, LesionConfig, PreparationConfig, read_config
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.evaluation.study import evaluate
from medvae.fitting import fit
from medvae.imaging.grid import DEFAULT_GRID, GRIDS, Grid, mni152_grid
from medvae.imaging.volume import Geometry, read_placement, resample, write_volume
from medvae.lesions.synthesis import insert_lesions
from medvae.prediction import predict, scans_of_manifest
from medvae.preparation.prepare import prepare_healthy, prepare_scan
from medvae.preparation.registration import move_brain, register
from medvae.preparation.standard_brain import read_template
from medvae.scoring.volume import score_volume

COARSE = "mni152-4mm"

METHODS = {
    "intensity": {"network": None, "score": {"kind": "equalized_intensity", "polarity": "dark"}},
    "normative": {"network": None, "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 1.5,
                                             "normative": True}},
    "cevae": {
        "sampling": {"batch_size": 8, "workers": 0},
        "augmentation": {"thick_slices": 0.5},
        "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
        "objective": {"kind": "cevae"},
        "training": {"steps": 3},
        "score": {"kind": "residual", "polarity": "dark", "smoothing_mm": 4, "guided_mm": 4, "normative": True},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A grid of 4 mm, which runs can name while this module is tested."""
    folder = tmp_path_factory.mktemp("template")
    grid = mni152_grid(COARSE, 4.0, "coarse", folder=folder)
    brain, mask = move_brain(*read_template(), DEFAULT_GRID.geometry, grid.geometry)
    write_volume(folder / "coarse_t1.nii.gz", brain, grid.geometry, space="mni152")
    write_volume(folder / "coarse_brain_mask.nii.gz", mask.astype(np.uint8), grid.geometry, space="mni152")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GRIDS, COARSE, grid)
        yield grid


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_another_grid_goes_from_preparation_to_evaluation(coarse, cohort, tmp_path, method):
    content = {"name": method, "preparation": {"grid": COARSE}, "postprocessing": {"erosion_mm": 5}}
    detector = fit(Config.model_validate(content | METHODS[method]), cohort, tmp_path / "run",
                   cache=tmp_path / "cache", quiet=True)  # fmt: skip
    assert detector.config.grid == coarse
    assert Detector.load(tmp_path / "run").config.grid == coarse

    tested = [case for case in cohort.cases if case.split == "test"]
    scans = [scan for scan in scans_of_manifest(cohort) if scan.id in {case.id for case in tested}]
    predictions, failures = predict(detector, scans, tmp_path / "maps", cache=tmp_path / "cache", quiet=True)
    assert not failures
    for prediction, case in zip(predictions, tested, strict=True):
        assert read_placement(prediction.map).geometry == read_placement(cohort.images(case)[0]).geometry
    study = evaluate(tmp_path / "maps", cohort)
    assert study.pooled["n_cases"] == 1
    if method == "normative":  # the dark lesion of 6 × 6 × 6 voxels of 2 mm is found
        assert study.pooled["ap"] > 0.5

    volume = prepare_scan(cohort.images(cohort.cases[0]), detector.config.preparation, cache=tmp_path / "cache")
    assert volume.mask.shape == detector.score(volume).shape == (40, 48, 40)
    other = prepare_scan(cohort.images(cohort.cases[0]), PreparationConfig())
    with pytest.raises(MedvaeError, match=r"sub00_T1.*on the grid mni152-2mm, and this detector.* on mni152-4mm"):
        detector.score(other)


def test_the_coarse_template_is_where_the_fine_one_is(coarse):
    assert coarse.shape == (40, 48, 40)
    brain, mask = read_template(coarse)
    assert brain.shape == mask.shape == coarse.shape
    fine = np.count_nonzero(read_template()[1]) * DEFAULT_GRID.voxel_volume_ml
    assert np.count_nonzero(mask) * coarse.voxel_volume_ml == pytest.approx(fine, rel=0.02)
    assert np.allclose(coarse.geometry.corners_mm().mean(0), DEFAULT_GRID.geometry.corners_mm().mean(0))


def test_a_turned_scan_is_registered_to_the_template_of_its_grid(coarse):
    template, mask = read_template()
    turn = np.array([[0.97, 0.17, 0, 4], [-0.17, 0.97, 0, -8], [0, 0, 0.95, 6], [0, 0, 0, 1]])
    grid = DEFAULT_GRID.geometry
    brain, moved = move_brain(template, mask, grid, grid, np.linalg.inv(turn))
    found = register(brain, moved, grid, grid=coarse)
    assert found.quality.dice > 0.95
    inside = np.argwhere(mask)[::97] @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    apart = inside @ (found.transform - turn)[:3, :3].T + (found.transform - turn)[:3, 3]
    assert np.linalg.norm(apart, axis=1).mean() < 1.5


def test_a_template_of_another_grid_is_refused(coarse):
    wrong = Grid("wrong", coarse.geometry, DEFAULT_GRID.template, DEFAULT_GRID.template_mask)
    with pytest.raises(
        MedvaeError, match=r"mni152_t1.*\(80, 96, 80\) voxels of 2 mm.*\(40, 48, 40\) of 4 mm.*--grid wrong"
    ):
        read_template(wrong)


def test_a_grid_without_its_template_says_which_file_is_missing(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "bare", mni152_grid("bare", 4.0, "bare", folder=tmp_path))
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(MedvaeError, match=r"bare_t1\.nii\.gz"):
            prepare_scan(cohort.images(cohort.cases[0]), PreparationConfig(grid="bare"), cache=cache)


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([2.0, 2, 3, 1]), "cubes along the RAS axes"),
        (np.diag([-2.0, 2, 2, 1]), "cubes along the RAS axes"),
        (np.diag([2.0, 2, 2, 1]), "symmetric about x = 0"),
    ],
)
def test_a_grid_on_which_a_mirrored_brain_is_none_is_refused(affine, words):
    with pytest.raises(ValueError, match=words):
        replace(DEFAULT_GRID, geometry=Geometry(affine, (80, 96, 80)))


def test_an_unknown_grid_is_named_with_the_nearest_one(tmp_path):
    path = tmp_path / "method.yaml"
    path.write_text("name: a\npreparation: {grid: mni152_2mm}")
    with pytest.raises(
        MedvaeError, match=r'"preparation.grid": there is no grid "mni152_2mm": did you mean "mni152-2mm"'
    ):
        read_config(path)
    with pytest.raises(MedvaeError, match=r"known grids are mni152-2mm"):
        read_config(path, ["preparation.grid=brain"])


def test_configs_of_finished_detectors_are_read_as_2_mm(tmp_path):
    path = tmp_path / "method.yaml"
    path.write_text("name: a\npreparation: {brain: auto, bias_field: n4}")
    assert read_config(path).grid == DEFAULT_GRID


def test_tiles_are_those_of_the_grid(coarse):
    assert Config(name="a").tile_shape == (80, 96)
    sampling = {"kind": "slice", "plane": "sagittal"}
    content = {"name": "a", "preparation": {"grid": COARSE}, "sampling": sampling, "network": {"widths": [4, 8, 8]}}
    assert Config.model_validate(content).tile_shape == (48, 40)
    with pytest.raises(ValueError, match=r"patch_size \[64, 64, 64\] is larger than the standard grid \[40, 48, 40\]"):
        Config.model_validate(content | {"sampling": {"kind": "patch"}})


def test_lengths_in_mm_do_not_depend_on_the_grid(coarse, cohort):
    """Smoothing, lesions and thick slices have half as many voxels on a grid twice as coarse."""
    options = LesionConfig(count=(1, 1), radius_mm=(16, 16), kinds=("grey",), white_matter=0)
    volumes_ml = []
    for voxel_mm in (2.0, 4.0):
        x = torch.full((1, 1, *[int(128 / voxel_mm)] * 3), 0.5)
        found = [insert_lesions(x, x > 0, options, (seed,), voxel_mm)[1].sum() for seed in range(16)]
        volumes_ml.append(float(sum(found)) * voxel_mm**3 / 1000)
    assert volumes_ml[1] == pytest.approx(volumes_ml[0], rel=0.2)

    slices = ThickSlices(AugmentationConfig(thick_slices=1.0))
    samples = [Sample((1,), channels=1, dimensions=3, voxel_mm=mm) for mm in (2.0, 4.0)]
    for draws in (
        [slices.draw(sample) for sample in samples],
        [slices.draw_for_array(np.random.RandomState(1), sample, 0) for sample in samples],
    ):
        fine, other = draws
        assert fine.thickness > 0
        assert (fine.thickness, *fine[1:]) == (2 * other.thickness, *other[1:])

    spread_mm = []
    for grid in (DEFAULT_GRID, coarse):
        config = Config.model_validate({"name": "a", "preparation": {"grid": grid.name}, "network": None,
                                        "score": {"kind": "intensity", "smoothing_mm": 8}})  # fmt: skip
        image = np.zeros((1, *grid.shape), np.float32)
        image[0, 20, 24, 20] = 1
        score = score_volume(config, None, image, np.ones(grid.shape, bool)).sum((1, 2))
        places = np.arange(grid.shape[0]) * grid.voxel_mm
        mean = np.average(places, weights=score)
        spread_mm.append(np.sqrt(np.average((places - mean) ** 2, weights=score)))
    assert spread_mm == pytest.approx([8, 8], rel=0.03)


def test_a_map_goes_back_from_the_grid_that_its_scan_was_prepared_on(coarse, cohort):
    """A map of x coordinates comes back as the x coordinates of the scan's own voxels."""
    (volume, *_) = prepare_healthy(cohort, "test", PreparationConfig(grid=COARSE), quiet=True)
    x_mm = np.arange(coarse.shape[0]) * coarse.voxel_mm + coarse.geometry.affine[0, 3]
    found = volume.restore(np.broadcast_to(x_mm[:, None, None].astype(np.float32), coarse.shape))
    inner = resample(volume.mask, coarse.geometry, DEFAULT_GRID.geometry) > 0.99
    own = np.broadcast_to((np.arange(80) * 2.0 - 79)[:, None, None], found.shape)
    np.testing.assert_allclose(found[inner], own[inner], atol=1e-3)
