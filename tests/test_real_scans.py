"""The study on real scans, on a small copy of its folders: which scans it finds, refuses, measures and counts."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from medvae.benchmark import read_study
from medvae.benchmark.plan import make_plan
from medvae.config import Config
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.imaging.volume import Geometry, write_volume
from medvae.manifest import Case, Manifest, read_manifest
from tests.conftest import STANDARD_GRID, make_brain

REPOSITORY = Path(__file__).resolve().parents[1]
DARK = {
    "network": None,
    "preparation": {"registration": "none"},
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
    "calibration": {"false_positive_rates": [0.001, 0.01, 0.05], "mask_at": 0.01},
}
AWAY = Geometry(np.array([[2.0, 0, 0, 100], [0, 2, 0, 100], [0, 0, 2, 0], [0, 0, 0, 1]]), STANDARD_GRID.shape)
"""Where no brain lies: a scan there is refused."""


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "pipelines")
        yield runpy.run_path(str(REPOSITORY / "pipelines" / "real_scans.py"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The scans on the standard grid, for all tests."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def runs(cohort, prepared, tmp_path_factory):
    """Two detectors without a network, of which one finds what is bright and post-processes its masks."""
    folder = tmp_path_factory.mktemp("runs")
    fit(Config.model_validate({"name": "dark"} | DARK), cohort, folder / "dark", cache=prepared, quiet=True)
    bright = {"score": DARK["score"] | {"polarity": "bright"}, "postprocessing": {"minimum_lesion_ml": 0.5}}
    config = Config.model_validate({"name": "bright"} | DARK | bright)
    fit(config, cohort, folder / "bright", cache=prepared, quiet=True)
    return folder


TEMPLATE = make_brain(20)


def person(image, seed, *, label=None, mask=None, values=(1,), grid=STANDARD_GRID):
    """Write a scan, with a dark lesion if there is to be a ``label``, and its brain ``mask``."""
    grain = np.random.default_rng(seed).integers(-3, 4, TEMPLATE.shape)
    brain = np.where(TEMPLATE > 0, np.clip(TEMPLATE + grain, 1, 255), 0).astype(np.uint8)
    lesion = np.zeros(brain.shape, np.uint8)
    for place, value in enumerate(values):
        lesion[22 + 4 * place : 26 + 4 * place, 44:52, 46:54] = value
    if label:
        brain = np.where(lesion > 0, np.maximum(brain * 0.3, 1), brain).astype(np.uint8)
        write_volume(label, lesion, grid)
    if mask:
        write_volume(mask, (brain > 0).astype(np.uint8) * 40, grid)
    write_volume(image, brain, grid)


def tumour(data, name, seed, **more):
    folder = data / "brats18" / name
    person(folder / f"{name}_t1.nii.gz", seed, label=folder / f"{name}_seg.nii.gz", values=(1, 2, 4), **more)
    (folder / f"{name}_flair.nii.gz").write_bytes(b"not a T1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tumours, of which one is refused, a stroke, people of every site, no MS, and files that cannot be used."""
    data = tmp_path_factory.mktemp("data")
    tumour(data, "Brats18_A", 20)
    tumour(data, "Brats18_B", 21, grid=AWAY)
    (data / "brats18" / "Brats18_C").mkdir()
    shutil.copy(
        data / "brats18/Brats18_A/Brats18_A_seg.nii.gz", data / "brats18/Brats18_C/Brats18_C_seg.nii.gz"
    )  # fmt: skip
    stroke = data / "stroke_t1" / "sub-r1" / "sub-r1_ses-1_space-orig"
    ending = "label-lesion_desc-T1lesion_mask.nii.gz"
    person(f"{stroke}_desc-brain_T1w.nii.gz", 22, label=f"{stroke}_{ending}")
    again = str(stroke).replace("ses-1", "ses-2")
    for part in ("desc-brain_T1w.nii.gz", ending):
        shutil.copy(f"{stroke}_{part}", f"{again}_{part}")
    ixi = read_manifest(REPOSITORY / "data_manifests/lists/ixi_t1_2mm.json", files_must_exist=False)
    for split, count in (("test", 2), ("train", 1)):
        for number, case in enumerate(ixi.of_split(split)[:count]):
            mask = None if number else data / "ixi_t1_2mm" / case.mask
            person(data / "ixi_t1_2mm" / case.image, 23 + number, mask=mask)
    for number in (3, 4):
        person(data / "novosibirsk_t1" / f"sub-{number:02d}_T1.nii.gz", 26 + number)
    person(data / "ibsr_t1" / "IBSR_01.nii.gz", 31)
    (data / "ibsr_t1" / "IBSR_02.nii.gz").write_bytes(b"no scan")
    elderly = data / "elderly_t1_flair_2mm"
    person(elderly / "t1" / "Subj1_T1.nii.gz", 32, mask=elderly / "anatomy" / "Subj1_T1_DLMUSE.nii.gz")
    return data


@pytest.fixture(scope="module")
def done(program, data, runs, prepared, tmp_path_factory):
    """All groups, measured with one detector."""
    out = tmp_path_factory.mktemp("real") / "out"
    assert not program["main"](data, [str(runs / "dark")], out, cache=prepared)  # one scan failed
    return out


def rows(out):
    content = json.loads((out / "results.json").read_text())
    return {(row["group"], row["detector"]): row for row in content["rows"]}, content


def times(out):
    return {path: path.stat().st_mtime_ns for path in (out / "predictions").rglob("*.nii.gz")}


def test_every_scan_is_found_once_or_told_why_not(done, data):
    found, content = rows(done)
    cases = {group: list(row["cases"]) for (group, _), row in found.items()}
    ixi = read_manifest(REPOSITORY / "data_manifests/lists/ixi_t1_2mm.json", files_must_exist=False).of_split("test")
    assert cases == {
        "tumour": ["Brats18_A", "Brats18_B"],
        "stroke": ["sub-r1"],
        "ixi": [ixi[0].id],
        "novosibirsk": ["sub-03", "sub-04"],
        "ibsr": ["IBSR_01"],
        "elderly": ["Subj1"],
    }
    unused = {Path(way).name: why for files in content["unused"].values() for way, why in files.items()}
    assert unused["Brats18_C_seg.nii.gz"] == "has no T1"
    assert "another scan" in unused["sub-r1_ses-2_space-orig_desc-brain_T1w.nii.gz"]
    assert "has no IXI" in unused[Path(ixi[1].image).name]
    assert sum("split train" in why for why in unused.values()) == 1
    assert "IBSR_02.nii.gz" in unused
    assert len(unused) == 5
    assert any(sentence.startswith("ms: there is no scan") for sentence in content["missing"])
    for text in unused.values():
        assert " ".join(text.split()) in (done / "table.md").read_text()
    manifest = read_manifest(done / "manifests" / "tumour.json")
    assert manifest.images(manifest.cases[0])[0].samefile(data / "brats18/Brats18_A/Brats18_A_t1.nii.gz")
    assert not list(done.rglob("*_t1.nii.gz"))  # nothing is copied


def test_a_refused_scan_is_one_in_which_nothing_was_found(done):
    row = rows(done)[0]["tumour", "dark"]
    assert (row["numbers"]["scans"], row["numbers"]["failed"]) == (2, 1)
    seen, refused = row["cases"]["Brats18_A"], row["cases"]["Brats18_B"]
    assert seen["ap"] > 0.5 > refused["ap"]
    assert seen["dice"] > 0.5
    assert refused["dice"] == 0
    assert "Dice" in refused["failed"]
    assert refused["mask_ml"] is None
    assert row["numbers"]["ap_per_case"] == pytest.approx((seen["ap"] + refused["ap"]) / 2)
    assert row["numbers"]["lesion_sensitivity"] == 0.5
    assert seen["lesion_ml"] == pytest.approx(12 * 8 * 8 * 0.008)  # every label value counts
    table = (done / "cases.md").read_text().splitlines()
    assert sum("failed: " in line and "Brats18_B" in line for line in table) == 1
    assert len(table) == 4 + 8


def test_sites_are_measured_apart_and_the_old_with_their_lesions_are_not_healthy(done):
    found, _ = rows(done)
    assert {group: row["kind"] for (group, _), row in found.items()} == {
        "tumour": "lesions", "stroke": "lesions", "ixi": "healthy", "novosibirsk": "healthy", "ibsr": "healthy",
        "elderly": "apart",
    }  # fmt: skip
    row = found["novosibirsk", "dark"]
    rates = [row["numbers"][f"fpr_{rate}"] for rate in ("0.001", "0.01", "0.05")]
    assert 0 <= rates[0] <= rates[1] < rates[2] < 0.5
    volumes = [case["mask_ml"] for case in row["cases"].values()]
    assert row["numbers"]["mean_ml"] == row["numbers"]["median_ml"] == pytest.approx(np.mean(volumes))
    table = (done / "table.md").read_text()
    lesions, healthy, elderly = (table.index(f"## {title}") for title in ("Scans with", "Healthy", "Elderly"))
    assert lesions < table.index("| stroke | dark |") < healthy < table.index("| ibsr | dark |") < elderly
    assert elderly < table.index("| elderly | dark |")


def test_again_repeats_nothing_and_every_look_is_counted(program, data, runs, prepared, done, capsys):
    out = Path(shutil.copytree(done, done.with_name("again")))
    before, cohort = times(out), (out / "cohort.json").read_text()
    program["main"](data, [str(runs / "dark")], out, cache=prepared)
    assert "Look 2 at these cases, at 1 detector so far" in capsys.readouterr().out
    assert times(out) == before
    numbers = [{key: row["numbers"] for key, row in rows(place)[0].items()} for place in (out, done)]
    assert numbers[0] == numbers[1]
    both = [str(runs / "dark"), str(runs / "bright")]
    assert program["main"](data, both, out, cache=prepared, only=["stroke"])
    assert "Look 3 at these cases, at 2 detectors so far" in capsys.readouterr().out
    assert (out / "cohort.json").read_text() == cohort  # that of all groups
    looks = [json.loads(line) for line in (out / "looks.jsonl").read_text().splitlines()]
    assert [set(look["detectors"]) for look in looks] == [{"dark"}, {"dark"}, {"dark", "bright"}]
    found, content = rows(out)
    assert content["look"] == 3
    assert looks[2]["numbers"]["stroke: bright"]["ap"] == found["stroke", "bright"]["numbers"]["ap"]
    assert found["stroke", "dark"]["numbers"]["ap"] > found["stroke", "bright"]["numbers"]["ap"]
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("| stroke")]
    assert [line.split("|")[2].strip() for line in lines] == ["dark", "bright"]  # the best first
    (out / "looks.jsonl").write_text("no log\n")
    with pytest.raises(MedvaeError, match=r"looks\.jsonl"):
        program["main"](data, [str(runs / "dark")], out, cache=prepared, only=["stroke"])
    assert (out / "looks.jsonl").read_text() == "no log\n"


def test_other_cases_are_another_count(program, data, runs, prepared, done):
    out = Path(shutil.copytree(done, done.with_name("others")))
    log = json.loads((out / "looks.jsonl").read_text())
    log["cases"] = {"tumour other": "0" * 64}
    (out / "looks.jsonl").write_text(json.dumps(log) + "\n")
    program["main"](data, [str(runs / "dark")], out, cache=prepared, only=["stroke"])
    assert rows(out)[1]["look"] == 1
    assert len((out / "looks.jsonl").read_text().splitlines()) == 2


def test_it_goes_on_where_it_was_stopped(program, data, runs, prepared, tmp_path, monkeypatch):
    names = program["main"].__globals__
    predict, stopped = names["predict"], []

    def once(detector, scans, *arguments, **options):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(scans[0].id)
        return predict(detector, scans, *arguments, **options)

    monkeypatch.setitem(names, "predict", once)
    out, detectors = tmp_path / "out", [str(runs / "dark")]
    with pytest.raises(KeyboardInterrupt):
        program["main"](data, detectors, out, cache=prepared, only=["novosibirsk"])
    assert not (out / "looks.jsonl").exists()
    before = times(out)
    monkeypatch.setitem(names, "predict", predict)
    assert program["main"](data, detectors, out, cache=prepared, only=["novosibirsk"])
    assert before.items() < times(out).items()


def test_a_detector_is_not_measured_on_what_it_learned_from(program, cohort, runs, prepared, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    person(data / "novosibirsk_t1" / "sub-03_T1.nii.gz", 40)
    for name, case in (("sub-07", cohort.of_split("train")[1]), ("sub-08", cohort.of_split("validation")[0])):
        shutil.copy(cohort.images(case)[0], data / "novosibirsk_t1" / f"{name}_T1.nii.gz")
    with pytest.raises(MedvaeError, match=r"dark: learned from 2 .* novosibirsk sub-07, novosibirsk sub-08\."):
        program["main"](data, [str(runs / "dark")], out)
    assert not (out / "predictions").exists()
    assert not (out / "looks.jsonl").exists()
    config = tmp_path / "dark.yaml"
    config.write_text(json.dumps({"name": "dark"} | DARK))
    with pytest.raises(MedvaeError, match="2 of the scans"):
        program["main"](data, [], out, configs=[config], cohort=cohort.path)
    assert not (out / "runs").exists()
    options = {"configs": [config], "cohort": cohort.path, "cache": prepared}
    assert program["main"](data, [], out, leave_out=True, **options)
    assert list(rows(out)[0]["novosibirsk", "dark"]["cases"]) == ["sub-03"]


def test_people_are_told_by_name_where_only_one_data_set_calls_them_so(program, tmp_path):
    names = program["main"].__globals__
    groups = {group.name: group for group in names["GROUPS"]}

    def scans(group, name):
        manifest = Manifest(
            name=group, modality={"0": "T1"}, cases=[Case(id=name, image="a", split="test", sha256="a")]
        )
        return type("Some", (), {"group": groups[group], "manifest": manifest, "cases": manifest.cases})

    found = [scans("ixi", "IXI049"), scans("novosibirsk", "sub-03")]
    used = {"IXI049": {"b"}, "sub-03": {"b"}}
    with pytest.raises(MedvaeError, match=r"1 of the scans .* ixi IXI049\."):
        names["refuse_learned"](found, {"run": used}, leave_out=False)
    (doubt,) = names["refuse_learned"](found[1:], {"run": used}, leave_out=False)
    assert "novosibirsk sub-03" in doubt
    (doubt,) = names["refuse_learned"](found, {"run": {}}, leave_out=False)
    assert "does not say" in doubt


def test_the_benchmark_can_take_the_same_scans(done):
    shipped = read_study(REPOSITORY / "configs" / "studies" / "real_t1.yaml")
    assert shipped.resolve(shipped.manifest).resolve() == REPOSITORY / "runs" / "real_t1" / "cohort.json"
    cohort = read_manifest(done / "cohort.json")
    assert {case.site for case in cohort.of_split("test")} >= {"tumour", "stroke", "ixi", "novosibirsk", "ibsr"}
    assert "Subj1" not in {case.id for case in cohort.cases}
    study = shipped.model_copy(update={"manifest": str(done / "cohort.json")})
    study._path = shipped.path
    plan = make_plan(study)
    assert [target.name for target in plan.targets] == ["patients"]
    assert not [row.problem for row in plan.rows if row.problem]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--detector", "t1-2mm", "--only", "tumor"], 'no group "tumor"; there are tumour, stroke'),
        ([], "give a --detector or a --config"),
        (["--detector", "t1-2mm"], "holds no scan that can be measured"),
        (["--detector", "nowhere", "--only", "ibsr"], "nowhere: holds no detector"),
    ],
)
def test_errors_are_one_clear_message(program, tmp_path, monkeypatch, arguments, words):
    if "ibsr" in arguments:
        person(tmp_path / "data" / "ibsr_t1" / "IBSR_01.nii.gz", 33)
    command = ["real_scans.py", tmp_path / "data", "--out", tmp_path / "out", *arguments]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    monkeypatch.syspath_prepend(REPOSITORY / "pipelines")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / "pipelines" / "real_scans.py"), run_name="__main__")
    assert words in str(ended.value.code)


def test_a_dry_run_says_what_is_there(program, data, tmp_path, capsys):
    assert program["main"](data, [], tmp_path / "out", dry_run=True)
    said = capsys.readouterr().out
    assert "novosibirsk" in said
    assert "ms: there is no scan" in said
    assert not (tmp_path / "out" / "predictions").exists()


def test_quick_takes_two_cases_of_each_group(program, tmp_path):
    for number in range(3):
        person(tmp_path / "data" / "ibsr_t1" / f"IBSR_{number:02d}.nii.gz", number)
    assert program["main"](tmp_path / "data", [], tmp_path / "out", dry_run=True, quick=True)
    cases = read_manifest(tmp_path / "out" / "manifests" / "ibsr.json").cases
    assert [case.id for case in cases] == ["IBSR_00", "IBSR_01"]
