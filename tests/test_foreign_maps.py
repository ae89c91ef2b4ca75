"""Maps of any tool, measured on small volumes: what the numbers are, and what every bad file is told."""

import csv
import json
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.metrics import average_precision_score, roc_auc_score

from medvae.cli import main
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.result import Quantity
from medvae.evaluation.study import difference, evaluate
from medvae.evaluation.summaries import MeanSd
from medvae.evaluation.writing import write_study
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.reporting.tables import study_rows

SHAPE, AFFINE = (16, 18, 14), np.diag([-2.0, 2.0, 3.0, 1.0])
PATTERN = "{id}/anomaly map é.nii.gz"


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), affine), path)


def score_file(folder, case_id):
    return folder / PATTERN.replace("{id}", case_id)


@pytest.fixture
def small(tmp_path):
    """Six people with a lesion (one scanned twice), five healthy test scans, three healthy validation scans; maps."""
    rng = np.random.default_rng(0)
    data, maps = tmp_path / "data of a friend", tmp_path / "maps"
    brain = np.zeros(SHAPE, np.uint8)
    brain[2:-2, 2:-2, 2:-2] = 1
    save(data / "brain.nii.gz", brain)
    cases = []
    people = ["p0", "p0", *(f"p{i}" for i in range(1, 6)), *(f"h{i}" for i in range(5)), *(f"v{i}" for i in range(3))]
    for number, person in enumerate(people):
        name, truth = f"{person}-{number}", np.zeros(SHAPE, np.uint8)
        if person.startswith("p"):
            x, y, z = rng.integers(3, 9, 3)
            truth[x : x + 3, y : y + 3, z : z + 2] = 1
            save(data / f"{name}_label.nii.gz", truth)
        save(data / f"{name}.nii.gz", (100 * brain).astype(np.float32))
        save(score_file(maps, name), (rng.standard_normal(SHAPE) + 2 * truth).astype(np.float32))
        label = f"{name}_label.nii.gz" if truth.any() else None
        split = "validation" if person.startswith("v") else "test"
        cases.append(
            Case(id=name, image=f"{name}.nii.gz", mask="brain.nii.gz", label=label, subject=person, split=split)
        )
    manifest = Manifest(name="small", modality={"0": "T1"}, label_values={"lesion": [1]}, cases=cases)
    return read_manifest(write_manifest(manifest, data / "cohort.json")), maps


def measured(small, **options):
    manifest, maps = small
    return evaluate(maps, manifest, EvaluationOptions(pattern=PATTERN, resamples=200, **options))


def in_brain(manifest, maps, cases):
    brain = nib.load(manifest.resolve("brain.nii.gz")).get_fdata() > 0
    scores = [nib.load(score_file(maps, case.id)).get_fdata()[brain] for case in cases]
    truth = [
        nib.load(manifest.resolve(case.label)).get_fdata()[brain] > 0 if case.label else np.zeros(brain.sum(), bool)
        for case in cases
    ]
    return scores, truth


def test_numbers_of_another_tools_maps(small):
    manifest, maps = small
    study = measured(small, thresholds=[1.5])
    scores, truth = in_brain(manifest, maps, manifest.of_split("test", healthy=False))
    pooled = np.concatenate(truth), np.concatenate(scores)
    assert study.pooled["ap"] == pytest.approx(average_precision_score(*pooled), abs=1e-3)
    assert study.pooled["auroc"] == pytest.approx(roc_auc_score(*pooled), abs=1e-4)
    assert study.pooled["n_cases"] == 7
    assert study.pooled["n_subjects"] == 6
    assert study.pooled["n_voxels"] == len(pooled[0])
    each = [average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)]
    assert study.per_case_summary[Quantity("ap")] == MeanSd(
        pytest.approx(np.mean(each), abs=1e-3), pytest.approx(np.std(each, ddof=1), abs=1e-3), 7
    )
    healthy, _ = in_brain(manifest, maps, manifest.of_split("validation"))
    one, five, given = study.operating_points
    assert one.threshold == pytest.approx(np.quantile(np.concatenate(healthy), 0.99), rel=0.01)
    assert five.threshold == pytest.approx(np.quantile(np.concatenate(healthy), 0.95), rel=0.01)
    assert (given.threshold, given.name) == (1.5, "threshold_1.5")
    flagged = pooled[1] > one.threshold
    assert one["dice"] == pytest.approx(2 * (flagged & pooled[0]).sum() / (flagged.sum() + pooled[0].sum()))
    assert one["lesions"] == 7
    well, _ = in_brain(manifest, maps, manifest.of_split("test", healthy=True))
    assert one["fpr"] == pytest.approx((np.concatenate(well) > one.threshold).mean())
    everything = [np.concatenate([*truth, *(np.zeros(len(w), bool) for w in well)]), np.concatenate([*scores, *well])]
    assert study.all_voxels["ap"] == pytest.approx(average_precision_score(*everything), abs=1e-3)
    assert study.method == "maps"
    assert not study.notes


def test_intervals_are_over_people(small):
    study = measured(small)
    of_points = (("dice", "fpr_0.01"), ("sensitivity", "fpr_0.05"))
    for name in (("ap",), ("auroc",), ("oracle_dice",), *of_points):
        found = study.intervals[Quantity(*name)]
        assert found.low < found.value < found.high, name
        assert found.n_subjects == 6
    assert study.interval("ap").value == pytest.approx(study.pooled["ap"])
    assert study.interval("dice", at="fpr_0.01").value == pytest.approx(study.operating_points[0]["dice"])
    assert study.interval("fpr", at="fpr_0.01").n_subjects == 5
    header, rows = study_rows([study])
    ap, found = rows[0][header.index("AP")], study.interval("ap")
    assert ap == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_operating_points_never_see_a_test_scan(small):
    manifest, maps = small
    before = measured(small).operating_points[0].threshold
    for case in manifest.of_split("test"):
        path = score_file(maps, case.id)
        save(path, nib.load(path).get_fdata(dtype=np.float32) + 5)
    assert measured(small).operating_points[0].threshold == before
    for case in manifest.of_split("validation"):
        score_file(maps, case.id).unlink()
    study = measured(small)
    assert study.operating_points == []
    assert "No operating points" in study.notes[0]
    assert measured(small, thresholds=[0.5]).notes == []


def test_a_lesion_scan_without_a_map_is_one_in_which_nothing_was_found(small):
    _, maps = small
    whole = measured(small)
    score_file(maps, "p1-2").unlink()
    score_file(maps, "h0-7").unlink()
    study = measured(small)
    assert study.missing == ["p1-2", "h0-7"]
    assert study.pooled["n_missing"] == 2
    row = next(row for row in study.per_case if row.id == "p1-2")
    assert row.missing
    assert row.number("dice", at="fpr_0.01") == 0
    assert study.pooled["n_voxels"] == whole.pooled["n_voxels"]
    assert study.pooled["ap"] < whole.pooled["ap"]
    assert study.operating_points[0]["no_surface"] == 1
    assert study.pooled["n_healthy"] == 4  # nothing found in a healthy scan would be a reward
    json.loads(write_study(study, maps.parent / "out").read_text())


def test_everything_is_written(small, tmp_path):
    study = measured(small)
    results = json.loads(write_study(study, tmp_path / "out").read_text())
    wanted = {"ap", "auroc", "oracle_dice", "oracle_threshold", "prevalence", "fpr_at_95_tpr", "n_cases", "n_voxels"}
    assert wanted <= set(results["pooled"])
    wanted = {"name", "threshold", "dice", "sensitivity", "fpr", "lesion_f1", "hd95_mm", "false_alarm_slices"}
    assert wanted <= set(results["operating_points"][0])
    assert {"id", "ap", "auroc", "oracle_dice", "hd95_mm_fpr_0.01"} <= set(results["per_case"][0])
    assert results["intervals"]["ap"]["low"] == study.interval("ap").low
    assert results["case_level"]["max"]["auroc"]["n_subjects"] == 11
    assert "counts" not in results
    with open(tmp_path / "out" / "summary.csv") as stream:
        rows = {row["number"]: row for row in csv.DictReader(stream)}
    assert float(rows["ap"]["low"]) == study.interval("ap").low
    assert float(rows["per_case_mean_ap"]["value"]) == study.per_case_summary[Quantity("ap")].mean
    with open(tmp_path / "out" / "per_case.csv") as stream:
        assert len(list(csv.DictReader(stream))) == 12


def test_scaling_the_scores_changes_no_number(small):
    manifest, maps = small
    before = measured(small)
    for case in manifest.cases:
        path = score_file(maps, case.id)
        save(path, 64 * nib.load(path).get_fdata(dtype=np.float32))
    after = measured(small)
    for name in ("ap", "auroc", "oracle_dice", "fpr_at_95_tpr"):
        assert after.pooled[name] == before.pooled[name]
    for a, b in zip(after.operating_points, before.operating_points, strict=True):
        assert a.threshold == 64 * b.threshold
        assert all(a[name] == b[name] for name in ("dice", "lesion_f1", "hd95_mm"))
    assert after.interval("ap") == before.interval("ap")


def test_difference_of_two_methods(small, tmp_path):
    manifest, maps = small
    rng = np.random.default_rng(1)
    for case in manifest.cases:
        values = nib.load(score_file(maps, case.id)).get_fdata(dtype=np.float32)
        save(score_file(tmp_path / "worse", case.id), values + 3 * rng.standard_normal(SHAPE).astype(np.float32))
    a = measured(small)
    b = measured((manifest, tmp_path / "worse"))
    found = difference(a, b, resamples=200)
    assert found[Quantity("ap")].value == pytest.approx(a.pooled["ap"] - b.pooled["ap"])
    assert found[Quantity("ap")].low > 0
    fewer = manifest.model_copy(update={"cases": manifest.cases[2:]})
    fewer._path = manifest.path
    with pytest.raises(MedvaeError, match="same lesion cases"):
        difference(a, measured((fewer, maps)))


def refusals(manifest, maps):
    """Name, map of case p1-2, the words of the refusal."""
    good = nib.load(score_file(maps, "p1-2")).get_fdata(dtype=np.float32)
    bad = good.copy()
    bad[5, 5, 5] = np.nan
    yield bad, AFFINE, "1 of 1,680 brain voxels are NaN"
    bad = good.copy()
    bad[5, 5, 5:7] = np.inf
    yield bad, AFFINE, "2 of 1,680 brain voxels are infinite"
    yield good[:, :, :-1], AFFINE, "another grid.*--resample"
    yield good, np.diag([2.0, 2.0, 3.0, 1.0]), "another grid.*60.0 mm away|another grid.*30.0 mm away"
    yield np.stack([good, good], -1), AFFINE, "a single 3D volume was expected"


def test_bad_maps_are_named_and_all_of_them_at_once(small):
    manifest, maps = small
    good = score_file(maps, "p1-2").read_bytes()
    for array, affine, words in refusals(manifest, maps):
        save(score_file(maps, "p1-2"), array, affine)
        save(score_file(maps, "p2-3"), array, affine)
        with pytest.raises(MedvaeError, match=words) as caught:
            measured(small)
        for name in ("p1-2", "p2-3"):
            assert f'case "{name}"' in str(caught.value)
            assert str(score_file(maps, name)) in str(caught.value)
    score_file(maps, "p2-3").write_bytes(good[: len(good) // 2])
    score_file(maps, "p1-2").write_text("no NIfTI at all")
    with pytest.raises(MedvaeError, match=r'case "p1-2".*cannot be read'):
        measured(small)
    score_file(maps, "p1-2").write_bytes(good)
    with pytest.raises(MedvaeError, match=r'case "p2-3".*(cut off|cannot be read)'):
        measured(small)


def test_nan_outside_the_brain_is_no_problem(small):
    _, maps = small
    values = nib.load(score_file(maps, "p1-2")).get_fdata(dtype=np.float32)
    before = measured(small)
    values[0] = np.nan
    save(score_file(maps, "p1-2"), values)
    assert measured(small).pooled == before.pooled


def test_other_grids_are_resampled_only_when_asked(small):
    manifest, maps = small
    before = measured(small)
    for case in manifest.cases:  # the same values, in another order of axes and directions
        image = nib.load(score_file(maps, case.id))
        nib.save(nib.as_closest_canonical(image), score_file(maps, case.id))
    with pytest.raises(MedvaeError, match="another grid"):
        measured(small)
    study = measured(small, resampled=True)
    assert study.pooled == before.pooled
    assert len(study.notes) == 12
    assert "resampled" in study.notes[0]


def test_what_is_strange_is_noted_and_measured(small):
    manifest, maps = small
    values = nib.load(score_file(maps, "p1-2")).get_fdata(dtype=np.float32)
    strange = {
        "p1-2": (np.full(SHAPE, 0.25, np.float32), "everywhere in the brain"),
        "p2-3": ((values > 1).astype(np.float32), "looks like a mask"),
    }
    for name, (array, _) in strange.items():
        save(score_file(maps, name), array)
    label = manifest.resolve("p3-4_label.nii.gz")
    save(label, np.zeros(SHAPE, np.uint8))
    save(manifest.resolve("p4-5_label.nii.gz"), np.ones(SHAPE, np.uint8))
    study = measured(small)
    notes = "\n".join(study.notes)
    for name, (_, words) in strange.items():
        assert words in notes
        assert f'case "{name}"' in notes
    assert 'case "p3-4": ' in notes
    assert "holds no lesion" in notes
    assert "whole brain lesion" in notes
    rows = {row.id: row for row in study.per_case}
    assert rows["p1-2"].number("auroc") == 0.5
    assert np.isnan(rows["p3-4"].number("ap"))
    assert np.isnan(rows["p4-5"].number("ap"))
    assert study.per_case_summary[Quantity("ap")].n == 5
    assert study.case_level.n_lesion == 6  # the empty one is neither ill nor healthy
    assert np.isfinite(study.pooled["ap"])


def test_percent_under_the_name_of_a_probability_is_only_noted(small):
    manifest, maps = small
    for case in manifest.cases:
        values = nib.load(score_file(maps, case.id)).get_fdata(dtype=np.float32)
        save(maps / f"{case.id}_desc-anomaly_probseg.nii.gz", 100 / (1 + np.exp(-values)))
    study = evaluate(maps, manifest, EvaluationOptions(resamples=50))
    assert "named a probability" in study.notes[0]
    assert study.pooled["auroc"] == pytest.approx(measured(small).pooled["auroc"], abs=1e-3)


def test_labels_that_are_none(small):
    manifest, _ = small
    label = manifest.resolve("p3-4_label.nii.gz")
    for values, words in (
        (np.full(SHAPE, 0.4, np.float32), "no whole numbers"),
        (np.full(SHAPE, 7, np.uint8), "label values 7"),
    ):
        save(label, values)
        with pytest.raises(MedvaeError, match=f'case "p3-4".*{words}'):
            measured(small)


def test_lesion_outside_the_brain_is_said(small):
    manifest, _ = small
    label = manifest.resolve("p3-4_label.nii.gz")
    values = nib.load(label).get_fdata()
    values[0:2, 0:3, 0:3] = 1
    save(label, values.astype(np.uint8))
    assert any("50% of the lesion" in note for note in measured(small).notes)


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["medvae", "evaluate", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_line(small, tmp_path, capsys, monkeypatch):
    manifest, maps = small
    base = (maps, "--manifest", manifest.path, "--out", tmp_path / "out", "--quiet")
    code, _, err = run(capsys, monkeypatch, *base, "--pattern", PATTERN, "--threshold", 1, "--against", maps)
    assert code == 0, err
    table = (tmp_path / "out" / "table.md").read_text()
    for words in (
        "oracle",
        "realised FPR",
        "lesion F1",
        "paired differences",
        "+0.000 [+0.000, +0.000]",
        "0.1–0.3",
        "above 1",
    ):
        assert words in table, words
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["differences"][str(maps)]["ap"]["value"] == 0

    code, _, err = run(capsys, monkeypatch, *base)
    assert code == 1
    assert "--pattern" in err
    assert "15 NIfTI files" in err
    code, _, err = run(capsys, monkeypatch, *base, "--pattern", "map.nii.gz")
    assert (code, "{id}" in err) == (1, True)
    code, _, err = run(capsys, monkeypatch, *base, "--pattern", PATTERN, "--split", "train")
    assert (code, "no labelled or healthy case in split train" in err) == (1, True)
    code, _, err = run(capsys, monkeypatch, *base, "--pattern", PATTERN, "--threshold", "nan")
    assert (code, "finite" in err) == (1, True)
    score_file(maps, "p1-2").unlink()
    code, _, err = run(capsys, monkeypatch, *base, "--pattern", PATTERN)
    assert code == 1
    assert "no map for 1 cases: p1-2" in err
    assert json.loads((tmp_path / "out" / "results.json").read_text())["missing"] == ["p1-2"]


def test_a_label_without_lesion_takes_no_part_in_any_number(small):
    manifest, maps = small
    last = manifest.of_split("test", healthy=False)[-1]
    others = manifest.model_copy(update={"cases": [case for case in manifest.cases if case.id != last.id]})
    expected = measured((others, maps), thresholds=[1.5])
    for spoil in (np.zeros(SHAPE, np.uint8), outside_of_the_brain()):
        save(manifest.resolve(last.label), spoil)
        study = measured(small, thresholds=[1.5])
        assert study.pooled == pytest.approx(expected.pooled, nan_ok=True)
        for found, wanted in zip(study.operating_points, expected.operating_points, strict=True):
            assert found.numbers == pytest.approx(wanted.numbers, nan_ok=True)
        assert study.per_case_summary == expected.per_case_summary
        assert study.case_level == expected.case_level
        assert study.intervals == expected.intervals
        assert any(last.id in note and "neither as a lesion case nor as healthy" in note for note in study.notes)
        assert [case.id for case in study.per_case if not case.ill and not case.healthy] == [last.id]


def outside_of_the_brain():
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, :4] = 1
    return label


def test_ignored_voxels_do_not_count(small):
    manifest, maps = small
    regions = {"lesion": [1], "ignore": [2]}
    manifest = manifest.model_copy(update={"label_values": regions})
    ill, kept, truths = manifest.of_split("test", healthy=False), [], []
    for case in ill:
        label = np.asarray(nib.load(manifest.resolve(case.label)).dataobj).copy()
        label[:, :, 6:] = np.where(label[:, :, 6:] == 1, 1, 2)
        save(manifest.resolve(case.label), label)
        brain = (nib.load(manifest.resolve("brain.nii.gz")).get_fdata() > 0) & (label != 2)
        kept.append(nib.load(score_file(maps, case.id)).get_fdata()[brain])
        truths.append(label[brain] == 1)
    study = measured((manifest, maps))
    assert study.pooled["ap"] == pytest.approx(average_precision_score(np.hstack(truths), np.hstack(kept)), abs=1e-3)
    assert study.pooled["prevalence"] == pytest.approx(np.hstack(truths).mean())


def test_maps_labels_and_masks_that_an_itk_program_saved_lie_on_scans_with_two_places(small):
    """nibabel puts such a scan at its sform, ITK at its qform, and what ITK saves has that place only."""
    cohort, maps = small
    before = evaluate(maps, cohort, EvaluationOptions(pattern=PATTERN), quiet=True)
    elsewhere = AFFINE.copy()
    elsewhere[:3, 3] += [15, -20, 9]
    for path in (*cohort.path.parent.glob("*.nii.gz"), *maps.rglob("*.nii.gz")):
        image = nib.load(path)
        image.set_qform(elsewhere, 1)
        image.set_sform(AFFINE, 4)
        nib.save(image, path)
        if "label" in path.name or "brain" in path.name or path.is_relative_to(maps):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path))
            assert np.abs(nib.load(path).affine - AFFINE).max() > 5
    after = evaluate(maps, cohort, EvaluationOptions(pattern=PATTERN), quiet=True)
    assert after.pooled == before.pooled
