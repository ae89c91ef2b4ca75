"""Reports of thousands of cases: a page that a browser opens, and folders that a person opens."""

import re
from pathlib import Path

import pytest
from browser import Browser
from predicted import make_predictions

from medvae.reporting.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of thirty cases, as if it were of thousands; one has no scan."""
    folder = tmp_path_factory.mktemp("many & é")
    cohort = make_predictions(folder, ["ill&1", "ill2"], [f"well{number:02d}" for number in range(28)])
    (folder / "scans/case29.nii.gz").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medvae.reporting.report.INLINE_CASES", 20)
        patch.setattr("medvae.reporting.report.TOGETHER", 25)
        patch.setattr("medvae.reporting.report.SHOWN_NOTES", 1)
        write_report(folder / "predictions", folder / "report", manifest=cohort, quiet=True)
    return folder / "report"


def test_each_case_has_a_folder(report):
    assert {path.name for path in (report / "cases").iterdir() if path.is_file()} == {
        "LICENCES.txt", "MADE_BY_MEDVAE_REPORT.txt", "niivue.umd.js",
    }  # fmt: skip
    own = {path.name for path in (report / "cases" / "well05").iterdir()}
    assert own == {"well05.html", "well05.js", "well05.webp"}


def test_every_link_leads_to_a_file(report):
    for page in [report / "report.html", *report.glob("cases/*/*.html")]:
        for way in re.findall(r'(?:href|src)="([^"#:]+)"', page.read_text()):
            assert (page.parent / way.replace("%26", "&")).is_file(), (page, way)


def test_the_page_grows_by_a_line_of_numbers_for_each_case(report):
    html = (report / "report.html").read_text()
    assert html.count("<tr>") < 25
    assert html.count("data:image/webp") == 0
    assert html.count('<p class="note">') >= 2
    assert "more notes</summary>" in html


def shown(browser: Browser) -> list[list[str]]:
    rows = "[...document.querySelectorAll('#table tbody tr')]"
    return browser.run(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")


def test_the_table_is_made_as_it_is_shown(report, tmp_path_factory):
    with Browser.or_skip(tmp_path_factory.mktemp("profile"), width=900, height=640) as browser:
        browser.open((report / "report.html").as_uri())
        first = shown(browser)
        assert len(first) == 25
        assert first[0][0] == "ill&1 lesion"
        assert re.fullmatch(r"\d+\.\d\d", first[0][2])
        assert browser.run("document.querySelectorAll('#table tbody img').length") == 25
        browser.run("document.getElementById('on').click()")
        assert len(shown(browser)) == 5
        assert "was not found" in shown(browser)[-1][0]
        column = "[...document.querySelectorAll('#table th button')].find(b => b.textContent === 'flagged, ml')"
        browser.run(f"{column}.click()")
        volumes = [float(row[2]) for row in shown(browser)]
        assert volumes == sorted(volumes, reverse=True)
        browser.run("document.getElementById('find').value = 'WELL07'")
        browser.run("document.getElementById('find').dispatchEvent(new Event('input'))")
        assert [row[0] for row in shown(browser)] == ["well07 healthy"]
        link = "document.querySelector('#table tbody a')"
        assert browser.run(f"{link}.href").endswith("/cases/well07/well07.html")
        assert browser.errors == []
        browser.open((report / "cases" / "well07" / "well07.html").as_uri(), "window.medvaeReady === true")
        assert browser.errors == []
