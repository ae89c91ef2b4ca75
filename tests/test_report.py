from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted import GRID, THRESHOLD, make_predictions, write_prediction
from typer.testing import CliRunner

from medvae.cli import app
from medvae.derivatives import FAILURES, MAP_SUFFIX, MASK_SUFFIX, SPREAD_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import read_study, write_study
from medvae.files import write_json
from medvae.imaging.components import components
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.manifest import read_manifest, write_manifest
from medvae.regions.findings import measure_findings
from medvae.reporting.report import _plain, write_report
from medvae.reporting.report_cases import page_names
from medvae.reporting.report_volumes import NATIVE_VOXELS, STEPS, Layers, encoded, voxels_above
from medvae.reporting.tables import percent, point_name
from medvae.schema import read_document

HOSTILE = "<script>alert('x')&\"é#?%20"


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.rows, self.folder = [], [], path.parent
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def of(self, tag: str, attribute: str) -> list[str]:
        return [found[attribute] for name, found in self.tags if name == tag and attribute in found]

    def missing_files(self) -> list[str]:
        """What the page links to or loads, and is not there."""
        names = [*self.of("a", "href"), *self.of("script", "src"), *self.of("img", "src"), *self.of("link", "href")]
        beside = [unquote(name.split("#")[0]) for name in names if not name.startswith(("data:", "#"))]
        return [name for name in beside if not (self.folder / name).is_file()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three scans with lesions, one of a hostile name, and two healthy ones."""
    folder = tmp_path_factory.mktemp("a folder with é")
    cohort = make_predictions(folder, ["ill-a", "ill-b", HOSTILE], ["well-a", "well-b"])
    write_report(folder / "predictions", folder / "report", manifest=cohort, quiet=True)
    return folder


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'id="page">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def volumes_of(page: Path) -> dict[str, nib.Nifti1Image]:
    text = page.with_suffix(".js").read_text().removeprefix("window.medvaeVolumes = ").removesuffix(";\n")
    return {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content)))
        for name, content in json.loads(text).items()
    }


def test_report_holds_numbers_curves_and_cases(made: Path) -> None:
    page = Page(made / "report/report.html")
    study = evaluate(made / "predictions", read_manifest(made / "cohort.json"))
    assert f"{study.pooled['ap']:.3f}" in page.text
    assert [label for label in page.of("svg", "aria-label") if label.startswith("Curves over")]
    assert [label for label in page.of("svg", "aria-label") if "realised false-positive rate" in label]
    assert page.missing_files() == []
    values = [value for value in page.of("td", "data-value")]
    assert {"ill-a", "ill-b", HOSTILE, "well-a", "well-b"} <= set(values)
    row = next(row for row in study.per_case if row.id == "ill-b")
    assert str(row.number("ap")) in values
    assert str(row.number("dice", at="fpr_0.01")) in values


def test_every_picture_has_words(made: Path) -> None:
    for path in (made / "report").rglob("*.html"):
        page = Page(path)
        assert all(found.get("alt") for tag, found in page.tags if tag == "img")
        assert all(found.get("aria-label") or found.get("aria-hidden") for tag, found in page.tags if tag == "svg")
        assert ("html", {"lang": "en"}) in page.tags


def test_nothing_is_asked_of_the_network(made: Path) -> None:
    for path in (made / "report").rglob("*.html"):
        page = Page(path)
        for tag, attribute in (("script", "src"), ("img", "src"), ("link", "href"), ("a", "href"), ("iframe", "src")):
            assert not [value for value in page.of(tag, attribute) if re.match(r"(https?:)?//", value)]
        assert not re.search(r"fetch\(|XMLHttpRequest|import\(|@import|url\((?!data:|#)", page.text)


def test_hostile_names_stay_words(made: Path) -> None:
    for path in (made / "report").rglob("*.html"):
        text = path.read_text()
        assert "<script>alert" not in text
        assert "<b>method</b>" not in text
        assert "small <cohort>" not in text
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (made / "report/cases").iterdir())


def test_report_says_nothing_of_the_machine(made: Path, tmp_path: Path) -> None:
    for path in (made / "report").rglob("*.html"):
        assert str(made.parent) not in path.read_text()


def test_same_input_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    write_report(made / "predictions", tmp_path, manifest=read_manifest(made / "cohort.json"), quiet=True)
    before = {p.relative_to(made / "report"): p.read_bytes() for p in (made / "report").rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_slider_counts_what_lies_above_it(made: Path) -> None:
    page = data_of(made / "report/cases/ill-a.html")
    heat = read_volume(made / f"predictions/ill-a{MAP_SUFFIX}").array
    truth = read_volume(made / "scans/case0_truth.nii.gz").array > 0
    for step in (0, 333, 500, 900):
        flagged = heat > step / 1000
        assert page["flagged"][step] == pytest.approx(flagged.sum() * GRID.voxel_volume_ml, abs=1e-3)
        dice = 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum())
        assert page["dice"][step] == pytest.approx(dice, abs=1e-4)
    assert [point["name"] for point in page["points"]] == ["1 % FPR", "5 % FPR"]
    assert data_of(made / "report/cases/well-a.html")["dice"] is None


def test_page_opens_at_the_largest_finding(made: Path) -> None:
    heat = read_volume(made / f"predictions/ill-b{MAP_SUFFIX}")
    page = data_of(made / "report/cases/ill-b.html")
    voxel = tuple(np.rint(np.linalg.inv(GRID.affine) @ [*page["at"], 1])[:3].astype(int))
    assert 8 <= voxel[0] < 16  # where the lesion is, not its mirror image
    assert 19 <= voxel[1] < 29
    assert heat.array[voxel] > THRESHOLD


def findings_table(page: Path) -> list[list[str]]:
    table = re.search(r"<h2>Largest findings</h2>.*?</table>", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def test_page_tells_where_findings_lie_if_the_sidecar_does_and_is_of_this_mask(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill", "edited", "centred"], ["old"])
    for name, way in (("ill", np.eye(4)), ("edited", np.eye(4)), ("centred", None)):
        mask = read_volume(tmp_path / f"predictions/{name}{MASK_SUFFIX}").array
        heat = read_volume(tmp_path / f"predictions/{name}{MAP_SUFFIX}").array
        found = measure_findings(mask, heat, GRID, way)
        path = tmp_path / f"predictions/{name}{MASK_SUFFIX.removesuffix('.nii.gz')}.json"
        why = {"FindingsWithoutRegion": "It was only centred."} if way is None else {}
        write_json(path, read_document(path) | {"Findings": [one.sidecar for one in found]} | why)
    path = tmp_path / f"predictions/edited{MASK_SUFFIX}"
    mask = read_volume(path).array > 0
    labels, sizes = components(mask)
    write_volume(path, (mask & (labels != np.argmax(sizes) + 1)).astype(np.uint8), GRID)
    write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path], quiet=True)

    mask, heat = (read_volume(tmp_path / f"predictions/ill{suffix}").array for suffix in (MASK_SUFFIX, MAP_SUFFIX))
    told = measure_findings(mask, heat, GRID, np.eye(4))
    head, *rows = findings_table(tmp_path / "out/cases/ill.html")
    assert head == ["finding", "ml", "highest value", "side", "region", "tissue", "location", "where, mm"]
    assert len(rows) == min(10, len(told)) > 1
    for row, finding in zip(rows, told, strict=False):
        place = finding.place
        assert row[1:7] == [
            f"{finding.volume_ml:.3f}", f"{finding.peak:.3f}", place.hemisphere, place.region, place.tissue,
            place.location,
        ]  # fmt: skip
    for name in ("edited", "centred", "old"):
        head, *_ = findings_table(tmp_path / f"out/cases/{name}.html")
        assert head == ["finding", "ml", "highest value", "where, mm"]
    assert "It was only centred." in (tmp_path / "out/cases/centred.html").read_text()


def test_page_says_what_was_announced_of_its_scan(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill", "plain"], [])
    path = tmp_path / f"predictions/ill{MASK_SUFFIX.removesuffix('.nii.gz')}.json"
    write_json(path, read_document(path) | {"Notes": ["looks like <FLAIR>.", "is cut off at the top."]})
    write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path], quiet=True)
    said, plain = ((tmp_path / f"out/cases/{name}.html").read_text() for name in ("ill", "plain"))
    assert '<p class="warning">Announced of this scan: looks like &lt;FLAIR&gt;.</p>' in said
    assert '<p class="warning">Announced of this scan: is cut off at the top.</p>' in said
    assert "Announced" not in plain


def test_page_shows_the_volumes_where_they_are(made: Path) -> None:
    shown = volumes_of(made / "report/cases/ill-a.html")
    scan, heat = (read_volume(made / name) for name in ("scans/case0.nii.gz", f"predictions/ill-a{MAP_SUFFIX}"))
    assert set(shown) == {"scan", "map", "mask", "truth"}
    for image in shown.values():
        np.testing.assert_allclose(image.affine, GRID.affine, atol=1e-5)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    np.testing.assert_allclose(shown["map"].get_fdata(), heat.array, atol=0.5 / 255 + 1e-6)
    inside = scan.array < np.percentile(scan.array[scan.array != 0], 99.9)
    np.testing.assert_allclose(shown["scan"].get_fdata()[inside], scan.array[inside], atol=scan.array.max() / 255)
    np.testing.assert_array_equal(shown["mask"].get_fdata() > 0, heat.array > THRESHOLD)


def test_large_scans_are_shown_at_2_mm_at_the_same_place() -> None:
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (60, -80, -40)
    grid = Geometry(affine, (150, 150, 120))
    assert np.prod(grid.shape) > NATIVE_VOXELS
    scan, region = np.ones(grid.shape, np.float32), np.zeros(grid.shape, bool)
    region[20:40, 60:90, 30:50] = True
    shown = Layers(grid, scan, region * 0.8, region, region).shown
    assert shown.geometry.spacing_mm == pytest.approx((2, 2, 2))
    assert shown.geometry.shape == (75, 75, 60)

    def centre(mask: np.ndarray, where: Geometry) -> np.ndarray:
        return where.affine[:3, :3] @ np.argwhere(mask).mean(0) + where.affine[:3, 3]

    np.testing.assert_allclose(centre(shown.mask, shown.geometry), centre(region, grid), atol=0.3)
    assert shown.mask.sum() * 8 == pytest.approx(region.sum(), rel=0.05)
    assert sum(map(len, encoded(shown).values())) < 2_000_000


def test_sizes_of_pages(made: Path) -> None:
    cases = made / "report/cases"
    shared = (cases / "niivue.umd.js").stat().st_size
    assert (cases / "ill-a.html").stat().st_size + (cases / "ill-a.js").stat().st_size + shared < 5_000_000
    assert (made / "report/report.html").stat().st_size < 1_000_000


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_voxels_above_counts_strictly(values: list[float]) -> None:
    array = np.array(values, np.float32)
    above = voxels_above(array)
    for step in (0, 1, 777, STEPS // 2, STEPS - 1, STEPS):
        assert above[step] == (array.astype(np.float64) * STEPS > step).sum()


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=8))
def test_page_names_are_safe_and_all_different(ids: list[str]) -> None:
    names = page_names(ids)
    assert len({name.lower() for name in names.values()}) == len(ids)
    assert all(re.fullmatch(r"[\w.-]{1,100}", name) and not name.startswith(".") for name in names.values())


def test_case_without_scan_is_told_and_the_rest_is_made(tmp_path: Path) -> None:
    cohort = make_predictions(tmp_path, ["ill-a", "ill-b"], ["well"])
    (tmp_path / "scans/case1.nii.gz").unlink()
    (tmp_path / f"predictions/well{MAP_SUFFIX}").write_bytes(b"cut off")
    report = write_report(tmp_path / "predictions", tmp_path / "out", manifest=cohort, quiet=True)
    assert "was not found" in report.problems["ill-b"]
    assert set(report.problems) == {"ill-b", "well"}
    assert "Not measured, for the reason given at each: ill-b, well." in report.notes
    (other,) = [case for case in cohort.cases if case.id == "ill-a"]
    alone = evaluate(tmp_path / "predictions", cohort.model_copy(update={"cases": [other]}))
    assert f"{alone.pooled['ap']:.3f}" in Page(tmp_path / "out/report.html").text
    page = Page(tmp_path / "out/cases/ill-b.html")
    assert "canvas" not in [tag for tag, _ in page.tags]
    assert "spread" not in Page(tmp_path / "out/cases/ill-a.html").of("input", "id")
    assert page.missing_files() == []
    assert (tmp_path / "out/cases/ill-a.js").exists()
    assert str(tmp_path) not in Page(tmp_path / "out/report.html").text


def test_case_with_a_broken_truth_is_told_and_the_others_are_measured(tmp_path: Path) -> None:
    cohort = make_predictions(tmp_path, ["ill-a", "ill-b"], ["well"])
    write_volume(tmp_path / "scans/case1_truth.nii.gz", np.full(GRID.shape, 0.5, np.float32), GRID)
    report = write_report(tmp_path / "predictions", tmp_path / "out", manifest=cohort, quiet=True)
    assert set(report.problems) == {"ill-b"}
    assert "no whole numbers" in report.problems["ill-b"]
    assert (tmp_path / "out/cases/ill-b.js").exists()  # its viewer is made, without the truth
    assert "Curves over the voxels" in Page(tmp_path / "out/report.html").text


def test_scans_are_found_where_they_lay(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill"], [])
    sidecar = tmp_path / f"predictions/ill{MASK_SUFFIX.replace('.nii.gz', '.json')}"
    elsewhere = tmp_path / "a b" / "scan.nii.gz"
    elsewhere.parent.mkdir()
    (tmp_path / "scans/case0.nii.gz").rename(elsewhere)
    write_json(sidecar, read_document(sidecar) | {"SpatialReference": "../a b/scan.nii.gz"})
    assert write_report(tmp_path / "predictions", tmp_path / "out", quiet=True).problems == {}
    elsewhere.write_bytes(b"cut off")
    (problem,) = write_report(tmp_path / "predictions", tmp_path / "out", quiet=True).problems.values()
    assert "scan.nii.gz: has changed" in problem
    assert "a b" not in problem
    assert str(tmp_path) not in problem


def test_spread_of_an_ensemble_is_a_layer(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill"], [])
    spread = np.linspace(0, 0.5, GRID.shape[0])[:, None, None] * np.ones(GRID.shape)
    write_volume(tmp_path / f"predictions/ill{SPREAD_SUFFIX}", spread.astype(np.float32), GRID)
    write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path / "scans"], quiet=True)
    page = tmp_path / "out/cases/ill.html"
    assert "spread" in Page(page).of("input", "id")
    inside = read_volume(tmp_path / f"predictions/ill{MAP_SUFFIX}").array > 0
    shown = volumes_of(page)["spread"].get_fdata()
    np.testing.assert_allclose(shown[inside], spread[inside], atol=0.5 / 255 + 1e-6)


def test_scan_that_changed_is_told(tmp_path: Path) -> None:
    cohort = make_predictions(tmp_path, ["ill"], [])
    scan = read_volume(tmp_path / "scans/case0.nii.gz")
    write_volume(tmp_path / "scans/case0.nii.gz", scan.array + 1, scan)
    report = write_report(tmp_path / "predictions", tmp_path / "out", manifest=cohort, quiet=True)
    assert "has changed" in report.problems["ill"]


def test_cases_that_the_detector_may_have_seen_are_told(tmp_path: Path) -> None:
    cohort = make_predictions(tmp_path, ["ill"], ["well"])
    cases = [case.model_copy(update={"split": "validation"}) if case.healthy else case for case in cohort.cases]
    cohort = read_manifest(write_manifest(cohort.model_copy(update={"cases": cases}), tmp_path / "seen.json"))
    report = write_report(tmp_path / "predictions", tmp_path / "out", manifest=cohort, quiet=True)
    assert any(note.startswith("Not of the test split: 1") for note in report.notes)


def test_scans_are_found_by_name_and_content(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill"], ["well"])
    elsewhere = tmp_path / "elsewhere/deep"
    elsewhere.mkdir(parents=True)
    (tmp_path / "scans/case0.nii.gz").rename(elsewhere / "case0.nii.gz")
    write_volume(elsewhere / "case1.nii.gz", np.ones(GRID.shape, np.float32), GRID)  # of this name, but another
    report = write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path / "elsewhere"], quiet=True)
    assert set(report.problems) == {"well"}
    assert "Nothing is measured" in Page(tmp_path / "out/report.html").text


def test_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    cohort = make_predictions(tmp_path, ["ill-a", "ill-b"], ["well"])
    for path in (tmp_path / "predictions").glob("ill-b*"):
        path.unlink()
    (tmp_path / f"predictions/well{MASK_SUFFIX.replace('.nii.gz', '.json')}").unlink()
    write_json(tmp_path / "predictions" / FAILURES, {"ill-b": f"{tmp_path}/scans/case1.nii.gz: has no brain."})
    write_report(tmp_path / "predictions", tmp_path / "out", manifest=cohort, quiet=True)
    text = Page(tmp_path / "out/report.html").text
    failures = text[text.index('id="failures"') :]
    assert "case1.nii.gz: has no brain." in failures
    assert "well" in failures


def test_another_folders_files_are_never_overwritten(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill"], [])
    mine = tmp_path / "out/cases/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(MedvaeError, match="did not write"):
        write_report(tmp_path / "predictions", tmp_path / "out", quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/report.html").write_text("<html>mine</html>")
    with pytest.raises(MedvaeError, match=r"report\.html: was not written by medvae report"):
        write_report(tmp_path / "predictions", tmp_path / "other", quiet=True)
    assert mine.read_text() == "precious"


def test_folder_without_scans_gives_a_report_without_viewers(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill"], ["well"])
    report = write_report(tmp_path / "predictions", tmp_path / "out", quiet=True)
    assert set(report.problems) == {"ill", "well"}
    assert any("--scans" in note for note in report.notes)


def test_address_of_a_note_is_no_path() -> None:
    told = _plain("/home/me/a b/x.nii.gz: see https://doi.org/10.1/x and/or /srv/data/y.nii", [Path("/home/me/a b")])
    assert told == "x.nii.gz: see https://doi.org/10.1/x and/or y.nii"


def test_second_run_replaces_its_own_pages_only(tmp_path: Path) -> None:
    make_predictions(tmp_path, ["ill", "gone"], [])
    write_report(tmp_path / "predictions", tmp_path / "out", quiet=True)
    (tmp_path / "out/results.json").write_text("mine")
    for path in (tmp_path / "predictions").glob("gone*"):
        path.unlink()
    write_report(tmp_path / "predictions", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out/cases/gone.html").exists()
    assert (tmp_path / "out/cases/ill.html").exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "report.html", "cases"}


def test_stopped_run_leaves_the_report_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_predictions(tmp_path, ["ill", "more"], [])
    write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path], quiet=True)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medvae.reporting.report_cases.largest_findings", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path], quiet=True)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvaeError, match="medvae predict RUN"):
        write_report(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(MedvaeError, match="is not a folder"):
        write_report(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_study_comes_back_from_disk(made: Path, tmp_path: Path) -> None:
    study = evaluate(made / "predictions", read_manifest(made / "cohort.json"))
    write_study(study, tmp_path)
    read, differences = read_study(tmp_path)
    assert differences == {}
    for name in ("method", "cohort", "missing", "notes", "settings"):
        assert getattr(read, name) == getattr(study, name)
    for name in ("pooled", "operating_points", "intervals", "per_case", "case_level"):
        assert repr(getattr(read, name)) == repr(getattr(study, name))  # NaN is not equal to itself
    (tmp_path / "results.json").write_text('{"method": "other"}')
    with pytest.raises(MedvaeError, match="is not what medvae evaluate writes"):
        read_study(tmp_path)


def test_evaluation_of_other_predictions_is_refused(made: Path, tmp_path: Path) -> None:
    cohort = read_manifest(made / "cohort.json")
    write_study(evaluate(made / "predictions", cohort, method="another"), tmp_path / "another")
    with pytest.raises(MedvaeError, match="none of the evaluations is of them"):
        write_report(made / "predictions", tmp_path / "out", evaluations=[tmp_path / "another"], quiet=True)
    write_study(evaluate(made / "predictions", cohort), tmp_path / "own")
    both = [tmp_path / "another", tmp_path / "own"]
    write_report(made / "predictions", tmp_path / "out", manifest=cohort, evaluations=both, quiet=True)
    text = Page(tmp_path / "out/report.html").text
    assert text.index("&lt;b&gt;method") < text.index(">another<")


def test_run_adds_training_and_options(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector:
        fingerprint, healthy = "another", None

    monkeypatch.setattr("medvae.reporting.report.load_detector", lambda _: Detector)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: <script>\n")
    lines = [{"step": s, "seconds": 1.0, "total": 2.0, "reconstruction": 2 / s, "kl": 0.1} for s in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = write_report(made / "predictions", tmp_path / "out", run=run, quiet=True)
    page = Page(report.path)
    assert any(label.startswith("Loss terms over 20") for label in page.of("svg", "aria-label"))
    assert "name: &lt;script&gt;" in page.text
    assert any("not the one that made these maps" in note for note in report.notes)
    (run / "metrics.jsonl").write_text('{"step": 10, "kl": ')
    assert any("no training curves" in note for note in write_report(made / "predictions", tmp_path / "out", run=run,
                                                                   quiet=True).notes)  # fmt: skip


def test_many_cases_keep_their_pictures_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvae.reporting.report.INLINE_CASES", 2)
    make_predictions(tmp_path, ["a", "b", "c"], [])
    write_report(tmp_path / "predictions", tmp_path / "out", scans=[tmp_path / "scans"], quiet=True)
    page = Page(tmp_path / "out/report.html")
    assert "cases/a.webp" in page.of("img", "src")
    assert page.missing_files() == []


def test_empty_mask_and_sidecar_without_extras(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    write_volume(scan, np.ones(GRID.shape, np.float32), GRID)
    folder = tmp_path / "predictions"
    write_prediction(folder, "flat", scan, np.full(GRID.shape, 0.1, np.float32), GRID, p_value=1)
    sidecar = folder / f"flat{MASK_SUFFIX.replace('.nii.gz', '.json')}"
    write_json(sidecar, {"LesionVolumeMl": 0.0, "Sources": [scan.name]})
    report = write_report(folder, tmp_path / "out", scans=[tmp_path], quiet=True)
    assert report.problems == {}
    assert data_of(tmp_path / "out/cases/flat.html")["points"] == []


def test_operating_points_are_called_what_they_promise() -> None:
    names = ("fpr_0.01", "fpr_0.005", "fpr_1e-05", "fwer_0.2", "fpr_x")
    assert [point_name(name) for name in names] == ["1 % FPR", "0.5 % FPR", "0.001 % FPR", "fwer_0.2", "fpr_x"]


def test_viewer_is_the_one_that_is_documented() -> None:
    viewer = resources.files("medvae.reporting") / "viewer"
    digest = hashlib.sha256((viewer / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in (viewer / "README.md").read_text()
    assert "BSD 2-Clause License" in (viewer / "LICENCES.txt").read_text()


def test_command_line(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["report", str(made / "predictions"), "--manifest", str(made / "cohort.json"), "--out", str(out), "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "5 cases; open in a browser" in result.output
    assert (out / "report.html").is_file()


def test_a_small_share_is_not_written_as_none():
    assert [percent(share) for share in (None, 0.0, 0.0004, 0.0005, 0.0017, 0.5)] == [
        "–", "0.0 %", "0.04 %", "0.1 %", "0.2 %", "50.0 %"
    ]  # fmt: skip
