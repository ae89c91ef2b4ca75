"""Lesion masks as medvae has written them, measured beside the maps that they were made of."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from predicted import GRID, make_predictions

from medvae.derivatives import MASK_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.result import MASK, Study
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import read_study, write_study
from medvae.files import write_json
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.manifest import Manifest
from medvae.reporting import tables
from medvae.reporting.report import write_report


def changed(folder: Path, name: str, mask: np.ndarray | None = None, **fields: object) -> None:
    """Another mask for a case, and other words in its sidecar."""
    path = folder / f"{name}{MASK_SUFFIX}"
    if mask is not None:
        write_volume(path, mask.astype(np.uint8), GRID)
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    write_json(sidecar, json.loads(sidecar.read_text()) | fields)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Manifest]:
    """Two scans with a lesion and a healthy one, their masks without anything in the upper half."""
    manifest = make_predictions(tmp_path, ["a", "b"], ["c"])
    folder = tmp_path / "predictions"
    for name in "abc":
        mask = read_volume(folder / f"{name}{MASK_SUFFIX}").array > 0
        mask[:, :, 15:] = False
        changed(folder, name, mask, Postprocessing={"PeakAbove": 0.6})
    return folder, manifest


def point(study: Study, name: str = MASK):
    return study.point(name)


def test_numbers_are_those_of_the_files(made):
    folder, manifest = made
    study = evaluate(folder, manifest, EvaluationOptions(resamples=50))
    masks = [read_volume(folder / f"{name}{MASK_SUFFIX}").array > 0 for name in "ab"]
    truths = [read_volume(manifest.resolve(manifest.case(name).label)).array > 0 for name in "ab"]
    hits = sum(int((mask & truth).sum()) for mask, truth in zip(masks, truths, strict=True))
    dice = 2 * hits / sum(int(part.sum()) for part in (*masks, *truths))
    assert 0 < dice == pytest.approx(point(study)["dice"])
    assert dice < point(study, "fpr_0.01")["dice"]
    healthy = read_volume(folder / f"c{MASK_SUFFIX}").array > 0
    row = next(row for row in study.per_case if row.id == "c")
    assert row.number("flagged", at=MASK) == healthy.sum() < row.number("flagged", at="fpr_0.01")
    assert math.isnan(point(study).threshold)
    assert study.interval("dice", at=MASK).value == pytest.approx(dice)
    without = evaluate(folder, manifest, EvaluationOptions(resamples=50, masks=False))
    assert [found.name for found in without.operating_points] == ["fpr_0.01", "fpr_0.05"]


def test_they_are_told_in_tables_and_on_disk(made, tmp_path):
    folder, manifest = made
    study = evaluate(folder, manifest, EvaluationOptions(resamples=50))
    header, rows = tables.study_rows([study])
    assert float(rows[0][header.index("Dice of masks")].split()[0]) == pytest.approx(point(study)["dice"], abs=1e-3)
    assert "found in masks" in tables.lesion_rows(study)[0]
    assert "masks as written" in [row[1] for row in tables.point_rows([study])[1]]
    write_study(study, tmp_path / "results")
    back, _ = read_study(tmp_path / "results")
    assert point(back)["dice"] == point(study)["dice"]
    write_report(folder, tmp_path / "report", manifest=manifest, quiet=True)
    html = (tmp_path / "report" / "report.html").read_text()
    assert "of the masks" in html
    assert ">nan<" not in html.lower()


def test_a_mask_that_is_the_map_above_its_threshold_is_not_told_twice(tmp_path):
    manifest = make_predictions(tmp_path, ["a"], ["c"])
    assert point(evaluate(tmp_path / "predictions", manifest, EvaluationOptions(resamples=50))) is None
    for name in "ac":  # a threshold of each scan's own
        changed(tmp_path / "predictions", name, OperatingPoint="fdr_0.1")
    assert point(evaluate(tmp_path / "predictions", manifest, EvaluationOptions(resamples=50))) is not None


def test_a_scan_without_a_map_has_nothing_found_in_its_mask_either(made):
    folder, manifest = made
    before = point(evaluate(folder, manifest, EvaluationOptions(resamples=50)))
    for file in folder.glob("b_*"):
        file.unlink()
    study = evaluate(folder, manifest, EvaluationOptions(resamples=50))
    assert study.missing == ["b"]
    assert point(study)["lesion_sensitivity"] == before["lesion_sensitivity"] / 2 == 0.5


def test_masks_are_left_alone_unless_every_map_has_its_own(made):
    folder, manifest = made
    changed(folder, "a", ModelFingerprint="another")
    assert point(evaluate(folder, manifest, EvaluationOptions(resamples=50))) is None
    (folder / f"a{MASK_SUFFIX}").unlink()
    assert point(evaluate(folder, manifest, EvaluationOptions(resamples=50))) is None


def test_a_mask_on_another_grid_is_refused_by_name(made):
    folder, manifest = made
    mask = read_volume(folder / f"a{MASK_SUFFIX}").array
    smaller = Geometry(GRID.affine, (39, 48, 36))
    write_volume(folder / f"a{MASK_SUFFIX}", mask[:-1].astype(np.uint8), smaller)
    with pytest.raises(MedvaeError, match=f"a{MASK_SUFFIX}: lies on another grid"):
        evaluate(folder, manifest, EvaluationOptions(resamples=50))
