"""The clinic's program on the included cohort: overlays, workspaces, montages, a table, and one bad scan."""

import csv
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from medvae.config import read_config
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = str(REPOSITORY / "pipelines" / "lesion_overlays.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared):
    cohort = read_manifest(REPOSITORY / "data_manifests" / "included_t1.json")
    few = [*cohort.of_split("train")[:4], *cohort.of_split("validation")[:2]]
    cohort = cohort.model_copy(update={"cases": few})
    out = tmp_path_factory.mktemp("run") / "normative"
    fit(read_config(REPOSITORY / "configs" / "normative_baseline.yaml"), cohort, out, cache=prepared, quiet=True)
    return out


def test_one_bad_scan_does_not_stop_the_rest(tmp_path, run, monkeypatch, capsys):
    incoming, out = tmp_path / "new scans", tmp_path / "new scans" / "results"
    (incoming / "friday").mkdir(parents=True)
    included = REPOSITORY / "data_manifests" / "included"
    for name in ("patient07_T1", "patient26_T1"):
        shutil.copy(included / "open_ms" / f"{name}.nii.gz", incoming / "friday")
    (incoming / "bad_T1.nii.gz").write_bytes((included / "ixi" / "IXI049_T1.nii.gz").read_bytes()[:5000])
    monkeypatch.setattr(sys, "argv", [PROGRAM, str(run), str(incoming), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(PROGRAM, run_name="__main__")
    assert ended.value.code == 1
    assert "2 of 3 scans" in capsys.readouterr().out
    with open(out / "summary.csv", encoding="utf-8") as stream:
        rows = {row["scan"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"bad_T1", "patient07_T1", "patient26_T1"}
    assert "cut off" in rows["bad_T1"]["remark"]
    assert float(rows["patient26_T1"]["flagged ml"]) >= float(rows["patient26_T1"]["largest ml"]) > 0
    assert (out / "report.html").is_file()
    assert sorted(path.name for path in (out / "cases").glob("*.html")) == ["patient07_T1.html", "patient26_T1.html"]
    assert sorted(path.name for path in (out / "montages").iterdir()) == ["patient07_T1.png", "patient26_T1.png"]
    for name in ("patient07_T1", "patient26_T1"):
        for ending in (".itksnap", ".seg.nrrd", "_label-lesion_mask.nii.gz", "_desc-anomaly_probseg.nii.gz"):
            assert (out / "overlays" / f"{name}{ending}").is_file()


def test_results_among_the_scans_are_no_scans(tmp_path):
    find_scans = runpy.run_path(PROGRAM)["find_scans"]
    for name in ("a_T1.nii.gz", "sub/b_T1.MGZ", "sub/c_T2.nii", "notes.txt", "out/overlays/a_T1_mask.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_scans([tmp_path], "*", tmp_path / "out")
    assert [path.name for path in found] == ["a_T1.nii.gz", "b_T1.MGZ", "c_T2.nii"]
    assert [path.name for path in find_scans([tmp_path], "*_T1*", tmp_path / "out")] == ["a_T1.nii.gz", "b_T1.MGZ"]
    assert find_scans([tmp_path / "notes.txt"], "*", tmp_path / "out") == [tmp_path / "notes.txt"]  # told later
    with pytest.raises(MedvaeError, match="holds no scan"):
        find_scans([tmp_path / "out"], "*", tmp_path / "out")
