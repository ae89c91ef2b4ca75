"""Thresholds of a finished detector, set anew on other healthy scans."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from medvae.cli import app
from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble, load_detector
from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.fitting import fit, fit_ensemble
from medvae.imaging.volume import write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.prediction import Scan, predict, scans_of_manifest
from medvae.preparation.prepare import prepare_scan
from medvae.recalibration import HealthyScan, healthy_scans, recalibrate
from medvae.training.run_folder import trained_on, used_scans
from tests.conftest import STANDARD_GRID, make_brain

DARK = {
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
    "calibration": {"false_positive_rates": [0.01, 0.05], "mask_at": 0.01},
}
BRIGHT = DARK | {"score": DARK["score"] | {"polarity": "bright"}}


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("finished")
    for name, content in {"dark": DARK, "bright": BRIGHT}.items():
        fit(Config.model_validate({"name": name, **content}), cohort, folder / name, cache=prepared, quiet=True)
    fit_ensemble([folder / "dark", folder / "bright"], cohort, folder / "both", name="both", cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Manifest:
    """Four healthy people of a scanner with more blotches, one of whom came twice, and an ill one."""
    folder = tmp_path_factory.mktemp("site")
    cases = []
    for index in range(6):
        rng, brain = np.random.default_rng(index), make_brain(50 + index)
        blotches = ndimage.gaussian_filter(rng.normal(0, 1, brain.shape), 2)
        uneven = np.clip(brain * (1 + 0.15 * blotches / blotches.std()), 1, 255)
        write_volume(folder / f"{index}.nii.gz", np.where(brain > 0, uneven, 0).astype(np.uint8), STANDARD_GRID)
        label = "label.nii.gz" if index == 5 else None
        subject = "twice" if index in (3, 4) else None
        cases.append(Case(id=f"s{index}", image=f"{index}.nii.gz", split="validation", label=label, subject=subject))
    write_volume(folder / "label.nii.gz", (brain > 200).astype(np.uint8), STANDARD_GRID)
    return read_manifest(write_manifest(Manifest(name="site", modality={"0": "T1"}, cases=cases), folder / "m.json"))


def pooled(detector, manifest):
    volumes = [
        prepare_scan(manifest.images(case), detector.config.preparation, scale=detector.scale)
        for case in manifest.of_split("validation", healthy=True)
    ]
    return np.concatenate([detector.score(volume)[volume.mask] for volume in volumes])


@pytest.mark.parametrize("run", ["dark", "both"])
def test_the_asked_share_of_the_new_scans_lies_above_the_new_thresholds(runs, site, tmp_path, run, prepared):
    old = load_detector(runs / run)
    made = recalibrate(runs / run, healthy_scans(site), tmp_path / "out", cache=prepared, quiet=True)
    values = pooled(made.detector, site)
    np.testing.assert_array_equal(values, pooled(old, site))  # the score is the old one, voxel by voxel
    for point, before in zip(made.detector.points, old.points, strict=True):
        assert point.name == before.name
        assert np.mean(values > point.threshold) == pytest.approx(point.false_positive_rate, rel=0.01)
        assert made.realised[point.false_positive_rate] == pytest.approx(np.mean(values > before.threshold))
        assert made.before[point.false_positive_rate] == before.threshold
    assert made.realised[0.01] > 0.013  # or this site would not have needed it


def test_what_is_saved_is_a_detector_of_its_own_that_knows_where_it_comes_from(runs, site, tmp_path, prepared):
    old = Detector.load(runs / "dark")
    made = recalibrate(
        runs / "dark", healthy_scans(site), tmp_path / "out", name="ours", cache=prepared, quiet=True
    ).detector
    again = load_detector(tmp_path / "out")
    assert again.points == made.points
    assert (again.fingerprint, again.config.name) == (made.fingerprint, "ours")
    assert again.fingerprint != old.fingerprint
    assert again.calibrated_on == {"training": 4, "validation": 5}
    assert again.healthy.count == 4  # people, one of whom has two scans
    assert again.healthy_median != old.healthy_median
    record = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert record["recalibrated_from"] == {"model": "dark", "fingerprint": old.fingerprint}
    assert list(record["healthy_scans"]["validation"]) == ["s0", "s1", "s2", "s3", "s4"]
    assert trained_on(tmp_path / "out") == trained_on(runs / "dark") != set()


def test_an_ensembles_members_stay_as_they_are_and_it_predicts(runs, site, cohort, tmp_path, prepared):
    old = load_detector(runs / "both")
    made = recalibrate(runs / "both", healthy_scans(site), tmp_path / "out", cache=prepared, quiet=True).detector
    assert isinstance(made, Ensemble)
    assert made.config.name == "both_recalibrated"
    assert {k: m.points for k, m in made.members.items()} == {k: m.points for k, m in old.members.items()}
    _, failures = predict(made, scans_of_manifest(cohort), tmp_path / "maps", cache=prepared, quiet=True)
    assert not failures
    sidecar = json.loads((tmp_path / "maps" / "sub07_label-lesion_mask.json").read_text())
    assert sidecar["ThresholdSource"] == "0.01 of the brain voxels of 5 healthy validation scans lie above it"
    assert sidecar["Threshold"] == pytest.approx(0.5)  # the scale of the map moves with it


def test_the_sidecar_says_how_sure_a_threshold_is(runs, cohort, tmp_path, prepared):
    detector = load_detector(runs / "dark")
    calibration = detector.config.calibration.model_copy(update={"confidence": 0.999})
    sure = replace(detector, config=detector.config.model_copy(update={"calibration": calibration}))
    predict(sure, scans_of_manifest(cohort), tmp_path / "maps", cache=prepared, quiet=True)
    sidecar = json.loads((tmp_path / "maps" / "sub07_label-lesion_mask.json").read_text())
    assert sidecar["ThresholdSource"].endswith("lie above it, with 99.9 % confidence")


def test_scans_that_were_learned_from_are_refused(runs, cohort, tmp_path, prepared):
    for run in (runs / "dark", runs / "dark" / "detector", runs / "both"):
        with pytest.raises(MedvaeError, match=r'case "sub00" would set the thresholds.*trained on it'):
            recalibrate(
                run, healthy_scans(cohort, ["train", "validation"]), tmp_path / "leak", cache=prepared, quiet=True
            )
    assert not (tmp_path / "leak").exists()


def test_what_cannot_be_done_is_told_before_anything_is_written(runs, site, tmp_path, prepared):
    healthy, out = healthy_scans(site), tmp_path / "out"
    with pytest.raises(MedvaeError, match="split test: has no healthy scan"):
        recalibrate(
            runs / "dark", healthy_scans(site, ["test"]), out, where="m.json, split test", cache=prepared, quiet=True
        )
    with pytest.raises(MedvaeError, match="not empty"):
        recalibrate(runs / "dark", healthy, runs, cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="holds no detector"):
        recalibrate(tmp_path / "nothing", healthy, out, cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match=r'the name "two words"'):
        recalibrate(runs / "dark", healthy, out, name="two words", cache=prepared, quiet=True)
    two = HealthyScan(Scan("two", healthy[0].scan.images * 2), "two")
    with pytest.raises(MedvaeError, match=r'm.json: case "two": .* has 2 modalities, the detector was trained on 1'):
        recalibrate(runs / "dark", [two], out, where="m.json", cache=prepared, quiet=True)
    for lost in (tmp_path / "lost.nii.gz", tmp_path):
        scan = HealthyScan(Scan("lost", (lost,)), "lost")
        with pytest.raises(MedvaeError, match=r'the scans: case "lost": .*'):
            recalibrate(runs / "dark", [healthy[0], scan], out, cache=prepared, quiet=True)
    assert not out.exists()


def test_a_promise_of_the_config_needs_as_many_new_people(cohort, site, tmp_path, prepared):
    calibration = DARK["calibration"] | {"family_wise": [0.4]}
    fit(
        Config.model_validate({"name": "sure", **DARK, "calibration": calibration}),
        cohort,
        tmp_path / "run",
        cache=prepared,
        quiet=True,
    )
    made = recalibrate(tmp_path / "run", healthy_scans(site), tmp_path / "four", cache=prepared, quiet=True).detector
    assert made.points[-1].name == "fwer_0.4"
    assert "4 healthy subjects" in made.points[-1].guarantee
    with pytest.raises(MedvaeError, match="cannot be promised by 1 healthy"):
        recalibrate(tmp_path / "run", healthy_scans(site)[:1], tmp_path / "one", cache=prepared, quiet=True)


def test_the_command_takes_files_or_a_manifest_and_says_what_the_old_thresholds_were_worth(runs, site, tmp_path):
    def run(*parts):
        return CliRunner().invoke(app, ["calibrate", str(runs / "dark"), *map(str, parts), "-q"])

    files = [site.images(site.case(f"s{n}"))[0] for n in range(3)]
    result = run(*files, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "of these voxels exceed" in result.output
    assert "10 people or more should set a small rate (docs/CALIBRATION.md); here it is 3" in result.output
    assert "dark_recalibrated, thresholds from 3 healthy scans" in result.output
    result = run("--data", site.path, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert load_detector(tmp_path / "b").calibrated_on["validation"] == 5  # not the ill one
    assert run("--out", tmp_path / "c").exit_code == 2
    assert run(files[0], "--data", site.path, "--out", tmp_path / "c").exit_code == 2


def test_it_says_which_scans_it_was_trained_on_and_which_set_its_thresholds(runs, cohort, site, tmp_path, prepared):
    recalibrate(runs / "dark", healthy_scans(site), tmp_path / "out", cache=prepared, quiet=True)
    for folder, validation in ((runs / "dark", cohort), (runs / "both", cohort), (tmp_path / "out", site)):
        expected = {
            case.id: {sha256(manifest.images(case)[0])}
            for manifest, split in ((cohort, "train"), (validation, "validation"))
            for case in manifest.of_split(split, healthy=True)
        }
        assert used_scans(folder) == used_scans(folder / "detector") == expected
    assert used_scans(tmp_path) == {}


def test_scans_that_a_program_made_are_named_until_real_ones_set_the_thresholds(cohort, site, tmp_path, prepared):
    told = DARK | {"calibration": DARK["calibration"] | {"made_of": "T1"}}
    fit(Config.model_validate({"name": "made", **told}), cohort, tmp_path / "made", cache=prepared, quiet=True)
    recalibrate(tmp_path / "made", healthy_scans(site, ["validation"]), tmp_path / "real", cache=prepared, quiet=True)
    scan, said = scans_of_manifest(cohort)[0], {}
    for name in ("made", "real"):
        (made,), _ = predict(load_detector(tmp_path / name), [scan], tmp_path / f"{name}_out", quiet=True)
        sidecar = json.loads(made.mask.with_name(made.mask.name.replace(".nii.gz", ".json")).read_text())
        said[name] = sidecar["ThresholdSource"]
    assert "of 2 healthy validation scans, which a program made of T1 scans, lie above it" in said["made"]
    assert "program" not in said["real"]
