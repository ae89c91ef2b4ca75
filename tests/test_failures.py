"""The program that lists what a detector misses and draws the worst of each kind."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml
from predicted import make_predictions

from medvae.errors import MedvaeError
from medvae.manifest import read_manifest, write_manifest

PROGRAM = runpy.run_path(str(Path(__file__).resolve().parents[1] / "pipelines" / "failures.py"))


@pytest.fixture
def study(tmp_path):
    """A finished study of two patients and a family of two."""
    out = tmp_path / "study"
    made = make_predictions(tmp_path, ["p_a", "p_b", "t_a", "t_b"], ["healthy"])
    (out / "maps").mkdir(parents=True)
    (tmp_path / "predictions").rename(out / "maps" / "mine-0123")
    cases = [
        case.model_copy(update={"image": str(made.images(case)[0]), "label": str(made.resolve(case.label))})
        for case in made.cases
        if case.label
    ]
    for path, some in ((tmp_path / "patients.json", cases[:2]), (out / "inserted_tumour" / "inserted.json", cases[2:])):
        read_manifest(write_manifest(made.model_copy(update={"cases": some}), path))
    config = {"name": "small", "manifest": "patients.json", "keep_maps": True}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    return out


def test_every_lesion_scan_has_a_row_and_the_worst_of_each_kind_comes_first_and_is_drawn(study, tmp_path, monkeypatch):
    drawn = []
    names = PROGRAM["main"].__globals__
    draw = names["draw_montage"]
    monkeypatch.setitem(names, "draw_montage", lambda columns, out: (drawn.extend(columns), draw(columns, out))[1])
    PROGRAM["main"](study, tmp_path / "study.yaml", "mine", tmp_path / "out")
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[0] for row in rows] == ["patients"] * 2 + ["tumour"] * 2
    dice = [float(row[4]) for row in rows]
    assert dice[0] < dice[1]
    assert dice[2] < dice[3]
    assert {float(row[2]) for row in rows} == {2.3}  # 6 × 8 × 6 voxels of 8 mm³
    assert all(float(row[6]) <= float(row[5]) for row in rows)
    assert [one.shown.name for one in drawn] == [f"{rows[0][1]}, 2.3 ml", "tumour, 2.3 ml"]
    assert (tmp_path / "out" / "failures.png").stat().st_size > 0


def test_a_study_without_such_maps_is_refused_with_what_there_is(study):
    with pytest.raises(MedvaeError, match=r"0 folders called t1-2mm-….*mine-0123.*keep_maps"):
        PROGRAM["maps_of"](study, "t1-2mm")


def test_the_program_says_what_is_wrong_in_one_sentence(study, tmp_path, monkeypatch):
    words = ["failures.py", str(study), "--config", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"failures: .*0 folders"):
        runpy.run_path(PROGRAM["__file__"], run_name="__main__")
