"""Studies: what they refuse, what they do once, and that their numbers are those of `medvae evaluate`."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from medvae.benchmark import combine, make_plan, read_study, run_study, write_board
from medvae.benchmark import runner as runner_module
from medvae.benchmark.board import Board, Outcome
from medvae.benchmark.runner import open_bench
from medvae.benchmark.statistics import (
    Measured,
    Ranks,
    alike,
    critical_difference,
    nemenyi_quantile,
    paired_differences,
    rank,
    summarise,
)
from medvae.benchmark.store import keep, recall
from medvae.benchmark.study import BASELINES, polarity_of
from medvae.benchmark.writing import board_rows, cell, difference_rows, escape, latex, markdown
from medvae.config import read_config
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.result import Quantity
from medvae.evaluation.study import difference, evaluate
from medvae.locks import locked
from medvae.manifest import read_manifest

SMALL = ["training.steps=2", "training.validate_every=100", "sampling.workers=0", "sampling.batch_size=8",
         "network.widths=[4,8,8]", "network.squeeze=4", "network.latent_size=8"]  # fmt: skip

# Table 6 of Demšar 2006: ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf by AUC on 14 data sets.
DEMSAR_RANKS = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
        [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)  # fmt: skip


def write(folder: Path, cohort, repository, **changes) -> Path:
    """A study of one small network beside the baselines."""
    content = {
        "name": "small",
        "manifest": str(cohort.path),
        "methods": [{"name": "vae", "config": str(repository / "configs" / "vae_slice.yaml"), "overrides": SMALL}],
        "resamples": 100,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The scans on the standard grid, once for all studies."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def done(cohort, prepared, tmp_path_factory):
    """A finished study with two seeds, two ensembles and post-processing; its maps are kept."""
    folder = tmp_path_factory.mktemp("benchmark")
    path = write(
        folder, cohort, Path(__file__).resolve().parents[1], seeds=[0, 1], keep_maps=True,
        scores=[{"name": "own"}],
        ensembles={"seeds": ["vae-own"], "methods": {"both": ["vae-own", "normative_baseline"]}},
        postprocessing={"minimum_lesion_ml": 1},
    )  # fmt: skip
    board = run_study(read_study(path), folder / "out", cache=prepared, quiet=True)
    return path, folder / "out", board


# The study file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metods": []}, 'unknown key "metods": did you mean "methods"'),
        ({"methods": [{"config": "a.yaml", "override": ["x=1"]}]}, 'did you mean "overrides"'),
        ({"scores": [{"kind": "residual", "smoothing": 2}]}, 'did you mean "smoothing_mm"'),
        ({"scores": [{"normative": False}]}, "a score without a kind needs a name"),
        ({"scores": [{"kind": "residual"}, {"kind": "residual", "smoothing_mm": 3}]}, "is there 2 times"),
        ({"methods": [{"config": "a.yaml", "scores": ["none"]}]}, 'none" is none of the scores'),
        ({"methods": [{"name": "a"}]}, "a config to train or a detector: write one of the two"),
        ({"methods": [{"detector": "runs/a", "seeds": [1]}]}, "a detector is measured as it is"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": []}, "seeds"),
        ({"ensembles": {"methods": {"one": ["vae"]}}}, "two different rows or more"),
        ({"inserted": {"seed": 1}}, "the family ms is made of real shapes"),
        ({"inserted": {"families": ["tumor"]}}, "tumour"),
        ({"postprocessing": {"erosion": 1}}, 'did you mean "erosion_mm"'),
        ({"methods": [], "baselines": False}, "nothing to compare"),
    ],
)
def test_a_wrong_study_is_refused_with_its_file_and_key(tmp_path, cohort, repository, changes, words):
    with pytest.raises(MedvaeError, match=r"study\.yaml") as caught:
        read_study(write(tmp_path, cohort, repository, **changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "vea"}, 'reference "vea" is no row; there are vae, normative_baseline'),
        ({"ensembles": {"methods": {"two": ["vae", "dae"]}}}, '"dae" is no row'),
        ({"manifest": "none.json"}, "no such file"),
        ({"inserted": {"shapes": "none.npz"}}, "Paths are relative to the study"),
        ({"scores": [{"kind": "discrepancy", "polarity": "bright"}]}, 'no method can make the score "discrepancy"'),
    ],
)
def test_what_a_study_names_must_be_there(tmp_path, cohort, repository, changes, words):
    with pytest.raises(MedvaeError) as caught:
        make_plan(read_study(write(tmp_path, cohort, repository, **changes)))
    assert words in str(caught.value)


def test_the_baselines_are_the_presets_whatever_the_modality(repository):
    for name, score in BASELINES.items():
        preset = read_config(repository / "configs" / f"{name}.yaml")
        assert preset.score.model_dump() == preset.score.model_dump() | score
        assert preset.network is None
    assert [polarity_of([name]) for name in ("T1", "T2", "FLAIR", "T1ce")] == ["dark", "bright", "bright", "both"]


def test_the_included_study_holds_together_and_trains_nothing_twice(repository):
    plan = make_plan(read_study(repository / "configs" / "studies" / "included_t1.yaml"))
    assert not plan.left_out
    assert [target.name for target in plan.targets] == ["patients", "inserted"]
    assert len(plan.trainings) == 15
    assert not [row.problem for row in plan.rows if row.problem]
    assert {row.name for row in plan.rows} > {"cevae_planes", "normative_baseline", "dae_patch-residual_z"}
    choosing = make_plan(read_study(repository / "configs" / "studies" / "choosing_t1.yaml"))
    assert [target.name for target in choosing.targets] == ["inserted"]
    assert {one.key for one in choosing.trainings} < {one.key for one in plan.trainings}


def test_keys_follow_content_and_not_names(tmp_path, cohort, repository):
    def keys(**changes):
        plan = make_plan(read_study(write(tmp_path, cohort, repository, **changes)))
        return plan.trainings[0].key, plan.units[0].key

    config = str(repository / "configs" / "vae_slice.yaml")
    training, unit = keys()
    assert keys(methods=[{"name": "renamed", "config": config, "overrides": SMALL}]) == (training, unit)
    smoothed = keys(methods=[{"config": config, "overrides": [*SMALL, "score.smoothing_mm=3"]}])
    assert smoothed[0] == training
    assert smoothed[1] != unit
    assert keys(methods=[{"config": config, "overrides": [*SMALL, "training.learning_rate=0.1"]}])[0] != training
    assert keys(seeds=[4])[0] != training


# What is done


def test_what_is_done_is_not_done_again_and_the_tables_are_the_same(done, prepared, tmp_path, monkeypatch):
    path, out, board = done
    write_board(board, tmp_path / "first", pictures=False)
    for name in ("fit", "predict", "evaluate", "insert_cohort"):
        monkeypatch.setattr(runner_module, name, lambda *_, **__: pytest.fail("was done already"))
    again = run_study(read_study(path), out, cache=prepared, quiet=True)
    write_board(again, tmp_path / "second", pictures=False)
    files = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert files == ["leaderboard.csv", "leaderboard.md", "leaderboard.tex", "results.json", "timing.csv"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_another_score_does_not_train_again(done, prepared, cohort, repository, monkeypatch, tmp_path):
    _, out, _ = done
    study = read_study(
        write(tmp_path, cohort, repository, seeds=[0], scores=[{"name": "plain", "normative": False}], keep_maps=True)
    )
    monkeypatch.setattr("medvae.fitting.train", lambda *_, **__: pytest.fail("was trained already"))
    before = sorted((out / "runs").iterdir())
    board = run_study(study, out, cache=prepared, quiet=True)
    assert not board.failed
    assert board.of("patients")["vae-plain"].measured
    assert sorted((out / "runs").iterdir()) == before


def test_a_detector_that_is_there_is_measured_as_it_is(done, cohort, repository, tmp_path):
    _, out, board = done
    there = next((out / "detectors").glob("vae-own-seed1-*"))
    given = [{"name": "given", "detector": str(there)}, {"detector": "nowhere"}]
    path = write(tmp_path, cohort, repository, methods=given, baselines=False)
    found = run_study(read_study(path), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "runs").exists()
    outcomes = {one.row: one for one in found.outcomes}
    assert "nowhere: holds no detector" in outcomes["nowhere"].problems[0]
    before = next(one for one in board.outcomes if one.row == "vae-own").measured[1]
    assert outcomes["given"].measured[0].numbers == before.numbers


def test_numbers_are_those_of_medvae_evaluate(done, cohort):
    _, out, board = done
    outcomes = board.of("patients")
    assert list(outcomes)[:2] == ["vae-own", "vae-own+post"]
    for row in ("vae-own", "normative_baseline", "both"):
        one = outcomes[row]
        maps = next((out / "maps").glob(f"{one.labels[0]}-*"))
        expected = evaluate(maps, cohort, EvaluationOptions(resamples=100, masks=False), method=row)
        found = one.measured[0].study
        assert _as_json(replace(found, counts=[], maker="")) == _as_json(replace(expected, counts=[], maker=""))
        assert [one for _, _, one in found.counts] == [one for _, _, one in expected.counts]


def test_post_processed_rows_are_measured_on_the_masks(done, cohort):
    _, out, board = done
    plain, post = (board.of("patients")[row].measured[0] for row in ("vae-own", "vae-own+post"))
    maps = next((out / "maps").glob("vae-own-seed0-*"))
    files = EvaluationOptions(pattern="{id}_label-lesion_mask.nii.gz", thresholds=[0.5], resamples=100)
    flagged = evaluate(maps, cohort, files).point("threshold_0.5")
    dice, fpr = (Quantity(name, "fpr_0.01") for name in ("dice", "fpr"))
    assert post.numbers[dice] == flagged["dice"]
    assert post.numbers[fpr] == flagged["fpr"]
    assert post.numbers[fpr] < plain.numbers[fpr]  # small findings are gone
    assert post.numbers[Quantity("ap")] == plain.numbers[Quantity("ap")]
    assert [point.name for point in post.study.operating_points] == ["fpr_0.01"]
    assert {quantity.point for quantity in post.study.per_case[0].numbers} == {None, "fpr_0.01"}


def test_maps_are_removed_unless_asked_for_and_the_detector_stays(prepared, cohort, repository, tmp_path):
    path = write(tmp_path, cohort, repository, methods=[])
    board = run_study(read_study(path), tmp_path / "out", cache=prepared, quiet=True)
    assert set(board.of("patients")) == set(BASELINES)
    assert not list((tmp_path / "out" / "maps").iterdir())
    assert len(list((tmp_path / "out" / "detectors").iterdir())) == 2


def test_a_method_that_fails_is_a_row_and_the_rest_goes_on(prepared, cohort, repository, tmp_path, monkeypatch):
    config = str(repository / "configs" / "vae_slice.yaml")
    methods = [
        {"name": "broken", "config": config, "overrides": ["training.stepps=2"]},
        {"name": "explodes", "config": config, "overrides": [*SMALL, "training.learning_rate=1e30"]},
    ]
    study = read_study(
        write(tmp_path, cohort, repository, methods=methods, ensembles={"methods": {"two": ["broken", "explodes"]}})
    )
    board = run_study(study, tmp_path / "out", cache=prepared, quiet=True)
    assert len(board.failed) == 3
    text = markdown(board)
    assert "failed: " in text
    assert 'did you mean "steps"' in text
    assert "the loss became" in text
    assert "normative_baseline" in board.of("patients")
    lines = board.leaderboards[0].lines
    assert [line.row for line in lines[-3:]] == ["broken", "explodes", "two"]
    content = json.loads(write_board(board, tmp_path / "tables", pictures=False)[0].read_text())
    assert len(content["failed"]) == 3

    def unknown(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(runner_module, "fit", unknown)
    again = run_study(study, tmp_path / "out", cache=prepared, quiet=True)
    assert any("RuntimeError: out of memory" in problem for problem in again.failed)
    assert "Traceback" in next((tmp_path / "out" / "failures").iterdir()).read_text()


def test_ctrl_c_passes_through_and_what_was_measured_stays(prepared, cohort, repository, tmp_path, monkeypatch):
    study = read_study(write(tmp_path, cohort, repository, methods=[]))
    original, calls = runner_module.predict, []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(runner_module, "predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "out", cache=prepared, quiet=True)
    run_study(study, tmp_path / "out", cache=prepared, quiet=True)
    assert len(calls) == 3


def test_a_dry_run_writes_nothing(done, cohort, repository, tmp_path):
    study = read_study(write(tmp_path, cohort, repository))
    bench = open_bench(study, tmp_path / "out", writing=False)
    assert "1 trainings (0 done), 3 detectors on 1 target(s) (0 of 3 measured)" in bench.todo()
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text('{"pooled": {}}')
    with pytest.raises(MedvaeError, match="is of no benchmark"):
        open_bench(study, tmp_path / "out", writing=False)
    path, out, _ = done
    assert "2 trainings (2 done)" in open_bench(read_study(path), out, writing=False).todo()


def test_the_command(prepared, cohort, repository, tmp_path):
    from typer.testing import CliRunner

    from medvae.cli import app

    path = write(tmp_path, cohort, repository, methods=[{"name": "none", "config": "none.yaml"}])
    arguments = ["benchmark", str(path), "--out", str(tmp_path / "out"), "--cache", str(prepared), "-q"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert planned.exit_code == 0
    assert "cannot be done" in planned.output
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, MedvaeError)  # which ends the program with exit code 1
    assert "no such file" in str(result.exception)
    assert "normative_baseline" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert (tmp_path / "out" / "pictures" / "patients_curves.png").is_file()
    assert not (tmp_path / "out" / "pictures" / "patients_ranks.png").exists()


def test_a_study_for_choosing_opens_no_test_scan(repository, tmp_path):
    included = read_manifest(repository / "data_manifests" / "included_t1.json")
    few = [*included.of_split("train")[:3], *included.of_split("validation")[:2], *included.of_split("test")]
    cohort = combine(tmp_path / "cohort.json", "few", [(included, few)])
    for case in cohort.of_split("test"):  # not to be read: not a scan
        (tmp_path / f"{case.id}.nii.gz").write_text("no scan")
    cases = [c.model_copy(update={"image": f"{c.id}.nii.gz"}) if c.split == "test" else c for c in cohort.cases]
    blind = cohort.model_copy(update={"cases": cases})
    from medvae.manifest import write_manifest

    write_manifest(blind, tmp_path / "cohort.json")
    shapes = str(repository / "data_manifests" / "included" / "lesion_shapes.npz")
    inserted = {"shapes": shapes, "split": "validation"}
    path = write(tmp_path, cohort, repository, methods=[], inserted=inserted)
    board = run_study(read_study(path), tmp_path / "out", quiet=True)
    assert not board.failed
    (found,) = board.leaderboards
    assert (found.target, found.counts["n_cases"], found.counts["n_healthy"]) == ("inserted", 2, 2)
    assert "no average ranks" in found.no_ranks.lower()


def test_scans_left_half_inserted_are_made_again(repository, tmp_path, monkeypatch):
    included = repository / "data_manifests"
    inserted = {"shapes": str(included / "included" / "lesion_shapes.npz")}
    study = tmp_path / "study.yaml"
    content = {"name": "s", "manifest": str(included / "included_t1.json"), "inserted": inserted}
    study.write_text(yaml.safe_dump(content))
    bench = open_bench(read_study(study), tmp_path / "out")
    marker = tmp_path / "out" / "inserted" / "made.json"
    marker.parent.mkdir()
    marker.write_text(json.dumps({"key": "of another seed"}))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner_module, "insert_cohort", stopped)
    with pytest.raises(KeyboardInterrupt):
        runner_module._make_targets(bench)
    assert not marker.exists()  # or the other study would take its folder, now half of this one, for whole


# Statistics


def measured(subjects, seed, shift=0.0, resamples=200):
    """A study of random maps: 40 brain voxels for each subject, and one healthy scan of two others."""
    from medvae.evaluation.case import measure_case
    from medvae.evaluation.maps import CaseVoxels
    from medvae.evaluation.points import Point
    from medvae.evaluation.pooling import (
        MeasuredCases,
        point_result,
        pooled_intervals,
        pooled_numbers,
        scan_numbers,
    )
    from medvae.evaluation.result import Settings, Study
    from medvae.imaging.volume import Geometry
    from medvae.manifest import Case

    point, results = Point("fpr_0.01", 0.01, 0.7), []
    shape = (5, 4, 2)
    geometry = Geometry(np.diag([2.0, 2, 2, 1]), shape)
    for index, subject in enumerate([*subjects, "w1", "w2"]):
        rng, truth = np.random.default_rng([seed, index]), np.zeros(shape, bool)
        healthy = subject.startswith("w")
        truth[:2, :2, 0] = not healthy
        scores = (rng.random(shape) + shift * truth).astype(np.float32)
        case = Case(id=f"c{index}", image="x", label=None if healthy else "y", split="test", subject=subject)
        voxels = CaseVoxels(scores, truth, np.ones(shape, bool), geometry)
        results.append(measure_case(case, voxels, [point], overlap=0.1, smallest_ml=0))
    cases, rows = MeasuredCases(results), [found.result for found in results]
    return Study(
        method="m", cohort="c", pooled=pooled_numbers(cases), operating_points=[point_result(point, cases)],
        per_case=rows, intervals=pooled_intervals(cases, [point], resamples),
        case_level=scan_numbers(rows, resamples), settings=Settings(resamples=resamples),
        counts=[(found.result.id, found.result.subject, found.counts) for found in cases.ill],
    )  # fmt: skip


PEOPLE = ["a", "a", "b", "c", "d", "e", "f"]


def test_one_seed_has_the_intervals_and_differences_of_the_evaluation():
    one, other = measured(PEOPLE, 0, 0.3), measured(PEOPLE, 1)
    summary = summarise([Measured.of(one)])
    for name, expected in one.intervals.items():
        found = summary[name].interval
        assert (found.low, found.high, found.n_subjects) == pytest.approx(
            (expected.low, expected.high, expected.n_subjects)
        )
        assert found.value == pytest.approx(expected.value)
    assert math.isnan(summary[Quantity("ap")].sd)
    apart = paired_differences([Measured.of(one)], [Measured.of(other)])
    for name, expected in difference(one, other, resamples=200).items():
        assert (apart[name].value, apart[name].low, apart[name].high) == pytest.approx(
            (expected.value, expected.low, expected.high)
        )


def test_seeds_are_averaged_and_the_same_seed_twice_changes_no_interval():
    one, other = Measured.of(measured(PEOPLE, 0, 0.3)), Measured.of(measured(PEOPLE, 1, 0.3))
    summary = summarise([one, other])[Quantity("ap")]
    assert summary.mean == pytest.approx(np.mean([one.numbers[Quantity("ap")], other.numbers[Quantity("ap")]]))
    assert summary.sd == pytest.approx(np.std([one.numbers[Quantity("ap")], other.numbers[Quantity("ap")]], ddof=1))
    twice, alone = (summarise(seeds)[Quantity("ap")] for seeds in ([one, one], [one]))
    assert twice.interval == alone.interval
    assert twice.sd == 0
    assert cell(alone) == f"{alone.mean:.3f} [{alone.interval.low:.3f}, {alone.interval.high:.3f}]"


def test_a_number_of_scans_has_the_interval_of_the_evaluation_and_one_of_the_mean_over_seeds():
    one, other = measured(PEOPLE, 0, 0.3), measured(PEOPLE, 1, 0.3)
    auroc = Quantity("case_auroc", part="p99")
    found, expected = summarise([Measured.of(one)])[auroc], one.case_level.scores["p99"]["auroc"]
    assert (found.mean, found.interval.low, found.interval.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert found.interval.means_little  # healthy scans of two people only
    both = summarise([Measured.of(one), Measured.of(other)])[auroc]
    assert both.interval.low <= both.mean <= both.interval.high


def test_what_is_kept_is_recalled_and_damage_is_told(tmp_path):
    one = Measured.of(measured(PEOPLE, 0), 1.5)
    keep(one, tmp_path / "kept")
    again = recall(tmp_path / "kept")
    assert _as_json(again.study) == _as_json(one.study)
    assert again.seconds_per_scan == 1.5
    assert again.resampled.keys() == one.resampled.keys()
    np.testing.assert_array_equal(again.resampled[Quantity("ap")], one.resampled[Quantity("ap")])
    (tmp_path / "kept" / "counts.npz").write_bytes(b"PK half")
    with pytest.raises(MedvaeError, match="Remove the folder"):
        recall(tmp_path / "kept")


def test_nemenyi_has_the_quantiles_of_demsars_table_5():
    for alpha, published in {
        0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
        0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
    }.items():
        found = [nemenyi_quantile(methods, alpha) for methods in range(2, 11)]
        np.testing.assert_allclose(found, published, atol=1.1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # his worked example


def test_ranks_are_those_of_demsars_example_and_friedman_that_of_scipy():
    names = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
    found = rank(-DEMSAR_RANKS, names)
    assert dict(zip(found.methods, np.round(found.average, 3), strict=True)) == {
        "C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143,
    }  # fmt: skip
    expected = stats.friedmanchisquare(*(-DEMSAR_RANKS).T)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    people, count = DEMSAR_RANKS.shape
    squares = np.sum(np.square(found.average))
    without_ties = 12 * people / (count * (count + 1)) * (squares - count * (count + 1) ** 2 / 4)
    assert without_ties == pytest.approx(9.28, abs=0.02)  # as he prints it, without the correction for ties
    assert found.statistic >= without_ties
    assert alike(found) == [(0, 3)]  # 1.18 apart at most, and 1.25 would be needed


def test_groups_of_methods_that_are_not_told_apart():
    ranks = Ranks(("a", "b", "c", "d"), (1.0, 1.5, 2.4, 3.9), 20, 0, 0, 1.0)
    assert alike(ranks) == [(0, 1), (1, 2)]
    same = rank(np.ones((12, 3)), ["a", "b", "c"])
    assert (same.statistic, same.p_value, alike(same)) == (0, 1, [(0, 2)])
    with pytest.raises(ValueError, match="three methods"):
        rank(np.ones((12, 2)), ["a", "b"])


# The tables


def board_of(shifts, people, study, seeds=1, problems=()):
    """A board of random maps; the larger the shift the better."""
    outcomes = []
    for number, (row, shift) in enumerate(shifts.items()):
        found = tuple(Measured.of(measured(people, 10 * number + seed, shift)) for seed in range(seeds))
        labels = tuple(f"{row}-seed{seed}" for seed in range(seeds))
        kind = "baseline" if row in BASELINES else "method"
        outcomes.append(Outcome("patients", row, kind, found, labels))
    outcomes += [Outcome("patients", row, "method", problems=("out | of\nmemory",)) for row in problems]
    return Board(study, {"patients": "a & b"}, tuple(outcomes), next(iter(shifts)))


@pytest.fixture
def small_study(tmp_path, cohort, repository):
    return read_study(write(tmp_path, cohort, repository))


def test_the_leaderboard_is_sorted_and_marks_what_loses(small_study, tmp_path):
    shifts = {"normative_baseline": 0.3, "poor": 0.05, "good_one": 0.8, "intensity_baseline": 0.1, "none": -0.9}
    board = board_of(shifts, PEOPLE, small_study, seeds=2, problems=["broken"])
    (found,) = board.leaderboards
    values = [line.value("ap") for line in found.lines if line.numbers]
    assert values == sorted(values, reverse=True)
    rows = {line.row: line for line in found.lines}
    assert rows["good_one"].rank == 1
    assert rows["good_one"].remarks == ()
    assert any(remark.startswith("loses to") for remark in rows["poor"].remarks)
    assert "loses to both baselines" in rows["none"].remarks
    assert "no better than chance" in rows["none"].remarks
    assert rows["chance"].value("ap") == pytest.approx(found.counts["prevalence"])
    assert rows["chance"].rank is None
    assert rows["normative_baseline"].differences is None
    assert found.lines[-1].row == "broken"

    text = markdown(board)
    first = next(line for line in text.splitlines() if line.startswith("| good_one"))
    assert first.count("**") >= 2
    assert "| broken | – | – |" in text
    assert "failed: out / of memory" in text
    assert "fewer than" not in text
    header, differences = difference_rows(found)
    assert header[-1] == "by AP"
    assert {row[0]: row[-1] for row in differences}["good_one"] == "ahead"
    assert {row[0]: row[-1] for row in differences}["none"] == "behind"

    paper = latex(board)
    assert r"\textbf{" in paper
    assert r"good\_one" in paper
    assert r"a \& b" in paper
    assert "_" not in paper.replace(r"\_", "")
    assert all(paper.count(word) == 1 for word in (r"\toprule", r"\midrule", r"\bottomrule"))

    write_board(board, tmp_path / "out")
    with open(tmp_path / "out" / "leaderboard.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert float(table[0]["ap"]) == rows["good_one"].value("ap")
    assert float(table[0]["ap_low"]) < float(table[0]["ap"]) < float(table[0]["ap_high"])
    assert table[-1]["failed"] == "out | of\nmemory"
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["targets"]["patients"]["lines"][0]["row"] == "good_one"
    assert {p.name for p in (tmp_path / "out" / "pictures").iterdir()} == {"patients_curves.png", "patients_cases.png"}


def test_rows_that_print_alike_share_rank_and_bold(small_study):
    board = board_of({"a": 0.5, "b": 0.1}, PEOPLE, small_study)
    twin = replace(board.outcomes[0], row="twin")
    board = replace(board, outcomes=(*board.outcomes, twin))
    _, rows = board_rows(board.leaderboards[0], lambda text: f"*{text}*")
    places = {row[0]: row[1] for row in rows}
    assert places == {"a": "1", "twin": "1", "b": "3", "chance": "–"}
    assert [row[3].startswith("*") for row in rows if row[0] in ("a", "twin")] == [True, True]


def test_ranks_need_people_and_then_a_diagram_is_drawn(small_study, tmp_path):
    shifts = {"normative_baseline": 0.3, "poor": 0.05, "good": 0.8, "intensity_baseline": 0.1}
    few = board_of(shifts, ["a", "b"], small_study)
    assert few.leaderboards[0].ranks is None
    assert "2 people have lesions here, and ranks over so few mean nothing" in markdown(few)
    assert "too few people to tell" in markdown(few)
    many = board_of(shifts, [f"p{n}" for n in range(12)], small_study)
    ranks = many.leaderboards[0].ranks
    assert ranks.people == 12
    assert ranks.methods[0] == "good"
    assert "Friedman" in markdown(many)
    write_board(many, tmp_path / "out")
    assert (tmp_path / "out" / "pictures" / "patients_ranks.png").stat().st_size > 5000


def test_latex_shows_what_was_written():
    assert escape("50 % of a_b & {c} ± ⌈d⌉") == r"50 \% of a\_b \& \{c\} $\pm$ $\lceil$d$\rceil$"
    assert escape("\\") == r"\textbackslash{}"


# Cohorts


def test_cases_of_several_manifests_are_combined(cohort, tmp_path):
    folder = tmp_path / "else where"
    found = combine(
        folder / "both.json", "both", [(cohort, cohort.of_split("train")), (cohort, [cohort.case("sub07")])]
    )
    assert [case.id for case in found.cases] == ["sub00", "sub01", "sub02", "sub03", "sub07"]
    assert found.images(found.case("sub07"))[0].resolve() == cohort.images(cohort.case("sub07"))[0].resolve()
    with pytest.raises(MedvaeError, match="has no FLAIR; it has T1"):
        combine(folder / "x.json", "x", [(cohort, cohort.cases)], modalities=["FLAIR"])
    other = cohort.model_copy(update={"label_values": {"tumour": [1, 2, 3]}})
    other._path = Path("other.json")
    lesion = [cohort.case("sub07")]
    with pytest.raises(MedvaeError, match="read label values differently"):
        combine(folder / "x.json", "x", [(cohort, lesion), (other, lesion)])
    with pytest.raises(MedvaeError, match="used more than once"):
        combine(folder / "x.json", "x", [(cohort, lesion), (cohort, lesion)])


def _as_json(study):
    from medvae.evaluation.writing import plain

    return json.dumps(plain({f: getattr(study, f) for f in study.__dataclass_fields__ if f != "counts"}))


def test_a_study_is_worked_on_by_one_process_at_a_time(tmp_path, cohort, repository):
    study = read_study(write(tmp_path, cohort, repository))
    with locked(tmp_path / "out"), pytest.raises(MedvaeError, match="another command is at work in this folder"):
        run_study(study, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
