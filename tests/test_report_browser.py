from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image
from predicted import make_predictions

from medvae.reporting.report import write_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium to open the pages (apt install chromium)"
)

VIEWER_READY = "window.medvaeReady === true"
NAMES = ["ill & <b>", "ünïcode"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder with é")
    names = [name.replace(" ", "_") for name in NAMES]
    healthy = [f"well{number:02d}" for number in range(28)]  # two pages of the table
    cohort = make_predictions(folder, names, healthy)
    (folder / "scans/case29.nii.gz").unlink()
    write_report(folder / "predictions", folder / "report", manifest=cohort, quiet=True)
    return folder / "report"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.or_skip(tmp_path_factory.mktemp("profile"), width=900, height=640) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet_and_offline(browser: Browser) -> Iterator[None]:
    """No page writes an error to its console or asks for anything that is not a file beside it."""
    browser.errors.clear()
    browser.requests.clear()
    yield
    assert browser.errors == []
    assert [
        address for address in browser.requests if not address.startswith(("file:", "data:", "about:", "blob:"))
    ] == []


def pixels(browser: Browser) -> np.ndarray:
    """The canvas of the viewer as it is seen, ``(H, W, 3)``."""
    box = "document.getElementById('canvas').getBoundingClientRect()"
    left, top, width, height = (round(browser.run(f"{box}.{side}")) for side in ("x", "y", "width", "height"))
    window = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB"))
    return window[top : top + height, left : left + width].astype(int)


def slide(browser: Browser, name: str, value: float) -> None:
    """Move a slider and wait until the picture has followed."""
    element = f"document.getElementById('{name}')"
    browser.run(f"{element}.value = {value}; {element}.dispatchEvent(new Event('input'))")
    browser.run("new Promise(done => setTimeout(done, 400))")


def shown(browser: Browser) -> list[list[str]]:
    """The values of the rows that the table shows."""
    rows = "[...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden)"
    return browser.run(f"{rows}.map(row => [...row.cells].map(cell => cell.dataset.value))")


def coloured(picture: np.ndarray) -> int:
    """Pixels that are warm: the map's colours."""
    return int((picture[..., 0] - picture[..., 2] > 60).sum())


def case_page(report: Path, name: str) -> str:
    return next(path for path in sorted((report / "cases").glob("*.html")) if name in path.name).as_uri()


def test_table_is_sorted_and_paged(report: Path, browser: Browser) -> None:
    browser.open((report / "report.html").as_uri())
    assert len(shown(browser)) == 25
    browser.run("document.getElementById('on').click()")
    assert len(shown(browser)) == 5
    column = "[...document.querySelectorAll('#table th button')].find(b => b.textContent.startsWith('p of'))"
    for direction in ("descending", "ascending"):
        browser.run(f"{column}.click()")
        assert browser.run(f"{column}.closest('th').getAttribute('aria-sort')") == direction
    values = [float(row[4]) for row in shown(browser)]
    assert values == sorted(values)
    assert len(set(values)) == 25
    browser.run("document.getElementById('find').value = 'WELL07'")
    browser.run("document.getElementById('find').dispatchEvent(new Event('input'))")
    assert [row[0] for row in shown(browser)] == ["well07"]


def test_lesion_without_a_number_comes_last(report: Path, browser: Browser) -> None:
    browser.open((report / "report.html").as_uri())
    column = "[...document.querySelectorAll('#table th button')].find(b => b.textContent === 'findings')"
    browser.run(f"{column}.click()")
    names = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[0].dataset.value)"
    browser.run("document.getElementById('on').click()")
    assert browser.run(names)[-1] == "well27"  # its scan is gone


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_do_not_scroll_sideways(report: Path, browser: Browser, width: int) -> None:
    browser.look(width, 844, phone=width < 500)
    for page, ready in ((report / "report.html").as_uri(), "true"), (case_page(report, "code"), VIEWER_READY):
        browser.open(page, ready)
        assert browser.run("document.documentElement.scrollWidth") <= width
    browser.look(900, 640)


def test_viewer_draws_the_scan_and_the_slider_changes_it(report: Path, browser: Browser) -> None:
    browser.open(case_page(report, "code"), VIEWER_READY)
    low = pixels(browser)
    assert (low.max(axis=-1) > 60).mean() > 0.05  # not blank
    assert coloured(low) > 50
    flagged = browser.run("document.getElementById('flagged').textContent")
    slide(browser, "threshold", 0.98)
    high = pixels(browser)
    assert coloured(high) < coloured(low) / 4
    assert browser.run("document.getElementById('flagged').textContent") != flagged
    assert browser.run("document.getElementById('shown').textContent") == "0.980"
    slide(browser, "threshold", 0.5)
    assert abs(pixels(browser) - low).mean() < 1


def test_address_opens_at_threshold_and_place(report: Path, browser: Browser) -> None:
    browser.open(case_page(report, "code") + "#threshold=0.7&at=-4,-12,10", VIEWER_READY)
    assert browser.run("document.getElementById('shown').textContent") == "0.700"
    assert "4 L, 12 P, 10 S" in browser.run("document.getElementById('values').textContent")


def test_operating_points_and_layers_are_at_hand(report: Path, browser: Browser) -> None:
    browser.open(case_page(report, "code"), VIEWER_READY)
    browser.run("[...document.getElementById('points').children].find(b => b.textContent === '5 % FPR').click()")
    assert browser.run("document.getElementById('shown').textContent") == "0.450"
    slide(browser, "map", 0)
    slide(browser, "truth", 0)
    assert coloured(pixels(browser)) == 0
    for view in range(5):
        browser.run(f"document.querySelectorAll('#views button')[{view}].click()")


def test_right_of_the_patient_is_on_the_left(report: Path, browser: Browser) -> None:
    browser.open(case_page(report, "code"), VIEWER_READY)
    # The lesion lies at x > 0, the patient's right, in an LAS file: in the axial view it must be left of the middle.
    browser.run("document.querySelector('[data-view=\"0\"]').click()")
    slide(browser, "truth", 0)
    slide(browser, "map", 0)
    slide(browser, "mask", 1)
    picture = pixels(browser)
    warm = picture[..., 0] - picture[..., 2] > 60
    assert np.argwhere(warm)[:, 1].mean() < picture.shape[1] / 2


def test_hostile_name_and_page_without_a_viewer(report: Path, browser: Browser) -> None:
    browser.open(case_page(report, "ill"), VIEWER_READY)
    assert browser.run("document.querySelector('h1').textContent") == "ill_&_<b>"
    browser.open(case_page(report, "well27"))
    assert browser.run("document.querySelector('canvas')") is None
    assert "was not found" in browser.run("document.querySelector('main').textContent")
