"""Tables over all scans of a folder: one row a scan, one row a finding, whoever wrote them and in whatever order."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import medvae.prediction
from medvae.config import Config
from medvae.derivatives import FAILURES, FINDINGS_TABLE, LESIONS_TABLE
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.fitting import fit
from medvae.imaging.components import components
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.prediction import Scan, predict, predict_one, predict_scan, scans_of_manifest
from medvae.prediction_tables import FINDINGS, LESIONS, TABLES, cell, table_files, write_tables
from medvae.regions.names import REGIONS, TISSUES
from medvae.schema import read_document
from tests.conftest import STANDARD_GRID, make_brain

SIDECAR = "{}_label-lesion_mask.json"


@pytest.fixture(scope="module")
def detector(cohort, tmp_path_factory, prepared):
    """Dark places of the scan itself: no network."""
    content = {"name": "dark", "network": None, "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2}}
    return fit(
        Config.model_validate(content), cohort, tmp_path_factory.mktemp("runs") / "dark", cache=prepared, quiet=True
    )


@pytest.fixture(scope="module")
def predicted(detector, cohort, tmp_path_factory, prepared):
    """A folder with both test scans; copied by those who change it."""
    out = tmp_path_factory.mktemp("predicted") / "maps"
    predict(detector, scans_of_manifest(cohort), out, cache=prepared, quiet=True)
    return out


@pytest.fixture
def mine(predicted, tmp_path):
    return shutil.copytree(predicted, tmp_path / "maps")


def rows(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def tables(out):
    return {path.name: path.read_bytes() for path in table_files(out) if path.is_file()}


def sidecar(name, *, findings=2, **more):
    """What a table needs of a sidecar, made by hand."""
    found = [
        {"VolumeMl": 2.0 - number, "CentreMm": [1.5, -2.0, 3.0], "Peak": 0.9, "Mean": 0.7, "CentreMNI152Mm": [1, 2, 3],
         "Hemisphere": "left", "Region": "insula", "RegionShare": 0.8, "Tissue": "border",
         "Location": "periventricular"}
        for number in range(findings)
    ]  # fmt: skip
    return {
        "Sources": [f"{name}.nii.gz"], "Threshold": 0.5, "LesionVolumeMl": 3.0, "BrainVolumeMl": 1200.5,
        "Model": "dark", "OperatingPoint": "fpr_0.01", "Findings": found, **more,
    }  # fmt: skip


def test_a_row_per_scan_says_what_its_sidecar_says(predicted):
    found = rows(predicted / LESIONS_TABLE)
    assert [row["case_id"] for row in found] == ["sub06", "sub07"]
    for row in found:
        told = read_document(predicted / SIDECAR.format(row["case_id"]))
        assert float(row["volume_ml"]) == told["LesionVolumeMl"]
        assert float(row["brain_ml"]) == told["BrainVolumeMl"]
        assert float(row["p_value"]) == pytest.approx(told["CasePValue"])
        assert row["operating_point"] == "fpr_0.01"
        assert row["detector"] == "dark"
        assert row["unlike"] == str("Notes" in told).lower()


def test_a_row_per_finding_is_a_component_of_the_mask(predicted):
    for scan in rows(predicted / LESIONS_TABLE):
        name = scan["case_id"]
        found = [row for row in rows(predicted / FINDINGS_TABLE) if row["case_id"] == name]
        mask = read_volume(predicted / f"{name}_label-lesion_mask.nii.gz")
        anomaly = read_volume(predicted / f"{name}_desc-anomaly_probseg.nii.gz").array
        labels, sizes = components(mask.array > 0)
        assert len(found) == len(sizes) == int(scan["findings"]) > 0
        assert [int(row["finding"]) for row in found] == list(range(1, len(sizes) + 1))
        volumes = [float(row["volume_ml"]) for row in found]
        assert volumes == pytest.approx(sorted(sizes * 0.008, reverse=True), abs=1e-3)
        assert sum(volumes) == pytest.approx(float(scan["volume_ml"]), abs=1e-3)
        assert volumes[0] == float(scan["largest_ml"])
        own = labels == np.argmax(sizes) + 1
        centre = mask.geometry.affine[:3, :3] @ np.argwhere(own).mean(axis=0) + mask.geometry.affine[:3, 3]
        assert [float(found[0][axis]) for axis in "xyz"] == pytest.approx(centre, abs=0.06)
        assert float(found[0]["peak"]) == pytest.approx(anomaly[own].max(), abs=1e-4)
        assert float(found[0]["mean"]) == pytest.approx(anomaly[own].mean(), abs=1e-4)
        assert {row["region"] for row in found} <= set(REGIONS.values())


def test_places_are_those_of_the_template_to_which_the_scan_was_registered(detector, tmp_path, monkeypatch):
    """A scan whose world is shifted: its findings have the coordinates of its file, and the regions of its brain."""
    from medvae.preparation import steps

    shift, shifted = np.array([30.0, -8.0, 12.0]), np.eye(4)
    shifted[:3, 3] = shift
    monkeypatch.setattr(steps, "register", lambda *_, **__: SimpleNamespace(transform=shifted))
    for name, grid in (
        ("here", STANDARD_GRID),
        ("there", Geometry(shifted @ STANDARD_GRID.affine, STANDARD_GRID.shape)),
    ):
        write_volume(tmp_path / f"{name}.nii.gz", make_brain(1), grid)
    predict(detector, [Scan(name, (tmp_path / f"{name}.nii.gz",)) for name in ("here", "there")], tmp_path / "maps",
            quiet=True)  # fmt: skip
    assert read_document(tmp_path / "maps" / SIDECAR.format("there"))["RegisteredToMNI152"]
    found = rows(tmp_path / "maps" / FINDINGS_TABLE)
    here, there = ([row for row in found if row["case_id"] == name] for name in ("here", "there"))
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        for axis, step in zip("xyz", shift, strict=True):
            assert float(other[axis]) == pytest.approx(float(one[axis]) + step, abs=0.11)
            assert float(other[f"{axis}_mni152"]) == pytest.approx(float(one[f"{axis}_mni152"]), abs=0.11)
            assert float(one[f"{axis}_mni152"]) == pytest.approx(float(one[axis]), abs=0.11)
        for name in ("volume_ml", "hemisphere", "region", "tissue", "location"):
            assert other[name] == one[name]


def test_the_files_are_tables_as_bids_has_them(predicted):
    """Tabs, one header, no empty cell, n/a, snake case; a dictionary that describes every column."""
    for name, columns in TABLES.items():
        text = (predicted / name).read_bytes().decode("utf-8")
        assert text.endswith("\n")
        assert '"' not in text
        head, *lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
        assert head == [column.name for column in columns]
        assert len(set(head)) == len(head)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in head)
        assert lines
        for line in lines:
            assert len(line) == len(head)
            assert all(cell == cell.strip() != "" for cell in line)
        described = json.loads((predicted / name).with_suffix(".json").read_text(encoding="utf-8"))
        assert list(described) == head
        for column, told in described.items():
            assert set(told) <= {"Description", "Units", "Levels"}
            assert told["Description"].endswith(".")
            if "Levels" in told:
                at = head.index(column)
                assert {line[at] for line in lines} <= {*told["Levels"], "n/a"}
    assert set(described["tissue"]["Levels"]) == set(TISSUES.values())


def test_tables_are_the_same_in_any_order_and_of_several_runs(detector, cohort, predicted, tmp_path):
    scans = scans_of_manifest(cohort)
    predict(detector, scans[::-1], tmp_path / "back", quiet=True)
    for scan in scans[::-1]:  # two runs into one folder
        predict(detector, [scan], tmp_path / "two", quiet=True)
    expected = tables(predicted)
    assert len(expected) == 4
    assert [tables(tmp_path / name) for name in ("back", "two")] == [expected] * 2


def test_predictions_one_by_one_extend_the_tables(detector, cohort, predicted, tmp_path):
    first, second = scans_of_manifest(cohort)
    predict(detector, [first], tmp_path / "maps", quiet=True)
    predict_scan(detector, second, tmp_path / "maps", "fpr_0.01")
    assert tables(tmp_path / "maps") == tables(predicted)
    predict_one(second.images[0], detector, tmp_path / "maps")
    assert [row["case_id"] for row in rows(tmp_path / "maps" / LESIONS_TABLE)] == ["sub06", "sub07", "sub07_T1"]


def test_a_scan_that_is_predicted_again_has_its_new_rows_only(detector, mine, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    write_volume(scan, make_brain(1), STANDARD_GRID)
    predict(detector, [Scan("new", (scan,))], mine, quiet=True)
    before = {name: [row for row in rows(mine / name) if row["case_id"] == "new"] for name in TABLES}
    others = {name: [row for row in rows(mine / name) if row["case_id"] != "new"] for name in TABLES}
    brain = make_brain(1)
    brain[40:50, 50:60, 40:50] = np.where(brain[40:50, 50:60, 40:50] > 0, 1, 0)
    write_volume(scan, brain, STANDARD_GRID)
    predict(detector, [Scan("new", (scan,))], mine, quiet=True)
    for name in TABLES:
        after = rows(mine / name)
        assert [row for row in after if row["case_id"] != "new"] == others[name]
        assert [row for row in after if row["case_id"] == "new"] != before[name]
    assert [row["case_id"] for row in rows(mine / LESIONS_TABLE)] == ["new", "sub06", "sub07"]


def test_a_scan_that_fails_has_no_row_and_is_named_with_the_failures(detector, cohort, mine, tmp_path):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(cohort.images(cohort.case("sub06"))[0].read_bytes()[:5000])
    before = tables(mine)
    predict(detector, [Scan("cut", (cut,))], mine, quiet=True)
    assert tables(mine) == before
    assert list(read_document(mine / FAILURES)) == ["cut"]
    predict(detector, [Scan("cut", (cut,))], tmp_path / "nothing", quiet=True)
    assert tables(tmp_path / "nothing") == {}


def test_a_run_that_is_stopped_leaves_tables_of_what_it_finished(detector, cohort, predicted, tmp_path, prepared):
    def stop(made):
        if made.id == "sub07":
            raise KeyboardInterrupt
        return made

    out = tmp_path / "maps"
    with pytest.raises(KeyboardInterrupt):
        predict(detector, scans_of_manifest(cohort), out, then=stop, cache=prepared, quiet=True)
    assert [row["case_id"] for row in rows(out / LESIONS_TABLE)] == ["sub06", "sub07"]  # its files were whole
    (out / SIDECAR.format("sub07")).unlink()  # as if it had been killed before that
    write_tables(out)
    assert [row["case_id"] for row in rows(out / LESIONS_TABLE)] == ["sub06"]
    predict(detector, scans_of_manifest(cohort), out, cache=prepared, quiet=True)
    assert tables(out) == tables(predicted)


def test_tables_are_written_while_a_long_run_goes_on(detector, cohort, tmp_path, monkeypatch):
    out, seen = tmp_path / "maps", []
    monkeypatch.setattr(medvae.prediction, "TABLES_EVERY_S", -1.0)

    def look(made):
        seen.append([row["case_id"] for row in rows(out / LESIONS_TABLE)] if (out / LESIONS_TABLE).exists() else [])
        return made

    predict(detector, scans_of_manifest(cohort), out, then=look, quiet=True)
    assert seen == [[], ["sub06"]]


def test_no_cell_begins_as_a_quoted_one():
    assert cell('"a" is not b') == "'a' is not b"
    assert cell('not "a"') == 'not "a"'
    assert cell(None) == cell("") == "n/a"


def test_tables_come_back_from_the_sidecars_alone(mine):
    before = tables(mine)
    for path in [*table_files(mine), *mine.glob("*.nii.gz")]:
        path.unlink()
    write_tables(mine)
    assert tables(mine) == before


def test_cells_hold_no_tab_and_no_line_end(tmp_path):
    notes = ["looks like\tT2.", "two\nlines."]
    write_json(tmp_path / SIDECAR.format("a b"), sidecar("a b", Notes=notes, Model='say "hi"'))
    write_tables(tmp_path)
    (row,) = rows(tmp_path / LESIONS_TABLE)
    assert row["case_id"] == "a b"
    assert row["notes"] == "looks like T2. two lines."
    assert row["unlike"] == "true"
    assert row["detector"] == 'say "hi"'
    assert row["p_value"] == "n/a"
    listed = [
        [one[name] for name in ("finding", "volume_ml", "x", "y_mni152")] for one in rows(tmp_path / FINDINGS_TABLE)
    ]
    assert listed == [["1", "2", "1.5", "2"], ["2", "1", "1.5", "2"]]


def test_a_scan_without_findings_has_zeros_and_one_of_an_earlier_version_nothing(tmp_path):
    write_json(tmp_path / SIDECAR.format("none"), sidecar("none", findings=0))
    old = {key: value for key, value in sidecar("old").items() if key != "Findings"}
    write_json(tmp_path / SIDECAR.format("old"), old)
    write_tables(tmp_path)
    none, before = rows(tmp_path / LESIONS_TABLE)
    assert (none["findings"], none["largest_ml"], none["notes"], none["unlike"]) == ("0", "0", "n/a", "false")
    assert (before["findings"], before["largest_ml"], before["volume_ml"]) == ("n/a", "n/a", "3")
    assert rows(tmp_path / FINDINGS_TABLE) == []
    assert (tmp_path / FINDINGS_TABLE).read_text().count("\n") == 1


def test_a_sidecar_that_cannot_be_read_costs_no_other_row(tmp_path):
    write_json(tmp_path / SIDECAR.format("good"), sidecar("good"))
    (tmp_path / SIDECAR.format("cut")).write_text('{"Thresh')
    write_json(tmp_path / SIDECAR.format("odd"), sidecar("odd") | {"Findings": [{"VolumeMl": "large"}]})
    write_tables(tmp_path)
    assert [row["case_id"] for row in rows(tmp_path / LESIONS_TABLE)] == ["good"]


def test_a_scan_that_was_only_centred_has_no_regions_and_says_why(detector, cohort, tmp_path, monkeypatch):
    from medvae.preparation import steps
    from medvae.preparation.alignment import Misplaced

    def refuse(*_, **__):
        raise Misplaced("refused", "it is turned")

    monkeypatch.setattr(steps, "register", refuse)
    monkeypatch.setattr(steps, "IN_PLACE_DICE", 2.0)
    preparation = detector.config.preparation.model_copy(update={"registration": "if_possible"})
    centred = _with_preparation(detector, preparation)
    predict(centred, scans_of_manifest(cohort), tmp_path / "maps", quiet=True)
    found = rows(tmp_path / "maps" / FINDINGS_TABLE)
    assert found
    for row in found:
        assert {row[name] for name in ("hemisphere", "region", "tissue", "location", "x_mni152")} == {"n/a"}
        assert row["x"] != "n/a"
    told = read_document(tmp_path / "maps" / SIDECAR.format("sub06"))
    assert "only the centre of its brain was moved" in told["FindingsWithoutRegion"]
    assert {row["unlike"] for row in rows(tmp_path / "maps" / LESIONS_TABLE)} == {"true"}


def _with_preparation(detector, preparation):
    from dataclasses import replace

    return replace(detector, config=detector.config.model_copy(update={"preparation": preparation}))


def test_tables_go_with_the_predictions_that_are_replaced(detector, cohort, mine, prepared):
    predict(detector, scans_of_manifest(cohort)[:1], mine, rate=detector.points[-1].false_positive_rate, overwrite=True,
            cache=prepared, quiet=True)  # fmt: skip
    assert [row["case_id"] for row in rows(mine / LESIONS_TABLE)] == ["sub06"]
    assert {row["operating_point"] for row in rows(mine / LESIONS_TABLE)} == {detector.points[-1].name}


def test_a_full_disk_leaves_the_former_tables(mine, monkeypatch):
    before = tables(mine)
    write_json(mine / SIDECAR.format("more"), sidecar("more"))

    def full(*_):
        raise MedvaeError("no space left")

    monkeypatch.setattr("medvae.prediction_tables.json_bytes", full)
    with pytest.raises(MedvaeError, match="no space"):
        write_tables(mine)
    assert tables(mine) == before


def test_names_of_columns_are_those_of_the_documents(repository):
    text = (repository / "docs" / "VIEWING.md").read_text(encoding="utf-8")
    for column in (*LESIONS, *FINDINGS):
        if not column.name.endswith("_mni152"):
            assert f"`{column.name}`" in text, column.name
