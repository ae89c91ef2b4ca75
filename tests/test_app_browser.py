"""The page in a browser: a scan is dropped, its overlay is seen, and nothing is asked of anybody else."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from conftest import STANDARD_GRID, make_brain
from PIL import Image

from medvae.imaging.volume import write_volume

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page (apt install chromium)"),
    pytest.mark.skipif(
        not all(map(find_spec, ("fastapi", "uvicorn", "platformdirs"))),
        reason='the page is not installed: pip install -e ".[app]"',
    ),
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
]

READY = "document.documentElement?.dataset.ready === 'yes'"
NAME = "a <img src=x onerror=alert(1)> & b_FLAIR.nii.gz"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the page, as the terminal shows it."""
    command = [sys.executable, "-u", "-c", "from medvae.cli import main; main()", "app", "--no-browser", "--port", "0"]
    folder = tmp_path_factory.mktemp("history")
    with subprocess.Popen(
        [*command, "--detector", "flair-rank-2mm", "--limit-mb", "20", "--folder", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        told = ""
        for line in process.stdout:
            told += line
            if "End with Ctrl-C" in line:
                break
        found = re.search(r"http://\S+", told)
        assert found, told
        yield found[0]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.or_skip(tmp_path_factory.mktemp("profile"), width=1000, height=800) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet_and_at_home(browser: Browser, address: str) -> Iterator[None]:
    """No page writes an error to its console or asks anything of anybody but its own server."""
    browser.errors.clear()
    browser.requests.clear()
    yield
    assert browser.errors == []
    home = address.split("/?")[0] + "/"
    assert [asked for asked in browser.requests if not asked.startswith((home, "data:", "about:", "blob:"))] == []


def give(browser: Browser, *paths: Path) -> None:
    """Choose files as a person does."""
    document = browser.ask("DOM.getDocument")["root"]["nodeId"]
    field = browser.ask("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    browser.ask("DOM.setFileInputFiles", nodeId=field, files=[str(path) for path in paths])


def key(browser: Browser, name: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)


def focused(browser: Browser) -> str:
    return browser.run("document.activeElement.id || document.activeElement.textContent")


@pytest.fixture(scope="module")
def done(browser: Browser, address: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a scan that was given by its field."""
    scan = tmp_path_factory.mktemp("scans") / NAME
    write_volume(scan, make_brain(3), STANDARD_GRID)
    browser.open(address, READY)
    assert "token" not in browser.run("location.href")
    give(browser, scan)
    browser.until("document.querySelector('.steps .now, .scan.done') !== null", 240)
    browser.until("document.querySelector('.scan.done') !== null", 240)
    return browser.run("document.querySelector('.scan.done .main').href")


def test_a_scan_is_given_and_its_overlay_is_seen(browser: Browser, done: str) -> None:
    assert browser.run("document.querySelector('.scan h3').textContent") == NAME  # as it is called, and nothing runs
    assert browser.run("document.querySelectorAll('.scan img').length") == 0
    assert "ml flagged" in browser.run("document.querySelector('.scan .state').textContent")
    browser.open(done, "window.medvaeReady === true")
    box = "document.getElementById('canvas').getBoundingClientRect()"
    left, top, width, height = (round(browser.run(f"{box}.{side}")) for side in ("x", "y", "width", "height"))
    picture = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB")).astype(int)
    seen = picture[top : top + height, left : left + width]
    assert (seen.max(axis=-1) > 60).mean() > 0.05  # the scan
    assert (seen[..., 0] - seen[..., 2] > 60).sum() > 30  # the map's colours
    before = browser.run("document.getElementById('flagged').textContent")
    browser.run("document.getElementById('threshold').value = 0.9")
    browser.run("document.getElementById('threshold').dispatchEvent(new Event('input'))")
    assert browser.run("document.getElementById('flagged').textContent") != before
    assert "L" in browser.run("document.getElementById('values').textContent")


def test_a_folder_of_dicom_is_one_scan(browser: Browser, address: str, done: str, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from dicom_files import localiser, mr_slices, save

    files = mr_slices(np.full((40, 40, 30), 9, np.uint16), np.diag([2.0, 2, 2, 1]), description="T1 <b>")
    save([*files, *localiser()], tmp_path / "A person" / "within")
    (tmp_path / "A person" / ".hidden").write_text("nothing")
    browser.open(address, READY)
    x, y = (browser.run(f"document.getElementById('drop').getBoundingClientRect().{side} + 40") for side in "xy")
    data = {"items": [], "files": [str(tmp_path / "A person")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.ask("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)
    browser.until("document.querySelector('.scan.failed') !== null", 240)
    told = browser.run("document.querySelector('.scan.failed .warning').textContent")
    assert told.startswith("A person: holds no series that is a 3D MR scan of FLAIR. If one is, name it with --series.")
    assert "T1 <b>     MR 30 slices of 2 × 2 × 2 mm  (T1 by its description)" in told
    browser.run("document.querySelector('.scan.failed .series').value = '7'")
    browser.run("document.querySelector('.scan.failed [aria-label^=Again]').click()")
    browser.until("document.querySelector('.scan.failed .warning')?.textContent.includes('has no series 7')", 240)
    browser.run("window.confirm = () => true; document.querySelector('.scan.failed [aria-label^=Delete]').click()")
    browser.until("document.querySelector('.scan.failed') === null")


def test_what_is_no_scan_is_told_and_can_be_dismissed(browser: Browser, address: str, tmp_path: Path) -> None:
    (tmp_path / "photo.nii.gz").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (tmp_path / "huge.nii").write_bytes(bytes(21 * 10**6))
    browser.open(address, READY)
    give(browser, tmp_path / "photo.nii.gz", tmp_path / "huge.nii")
    browser.until("document.querySelectorAll('#refused li').length === 2")
    told = browser.run("document.getElementById('refused').textContent")
    assert "photo.nii.gz: cannot be read as a volume: it is a picture or a PDF" in told
    assert "huge.nii: has 21.0 MB, and the limit is 20.0 MB" in told
    for left in (1, 0):
        browser.run("document.querySelector('#refused button').click()")
        assert browser.run("document.querySelectorAll('#refused li').length") == left
    browser.errors.clear()  # the browser writes down that the file was refused (400)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), (320, False)])
def test_no_page_scrolls_sideways(browser: Browser, address: str, done: str, width: int, dark: bool) -> None:
    browser.look(width, 844, phone=width < 500, dark=dark)
    for page, ready in (address, READY), (done, "window.medvaeReady === true"):
        browser.open(page, ready)
        assert browser.run("document.documentElement.scrollWidth") <= width
        ink, ground = (browser.run(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
        assert abs(light[0] - light[1]) > 400
        assert (light[1] < light[0]) == dark
    browser.look(1000, 800)


def test_everything_is_reached_by_keys_and_has_a_name(browser: Browser, address: str, done: str) -> None:
    browser.open(address, READY)
    browser.until("document.querySelector('.scan.done') !== null")
    reached = []
    for _ in range(9):
        key(browser, "Tab", 9)
        reached.append(focused(browser))
    assert reached[:3] == ["detector", "at", "file"]
    assert {"Open", "Save", "Delete"} <= set(reached)
    for page, ready in (address, READY), (done, "window.medvaeReady === true"):
        browser.open(page, ready)
        nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "link", "combobox", "slider", "textbox", "checkbox", "list")
        nameless = [
            node["role"]["value"]
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] in roles[:-1] and not node.get("name", {}).get("value")
        ]
        assert nameless == []


def test_a_scan_is_deleted_after_a_question(browser: Browser, address: str, done: str) -> None:
    browser.open(address, READY)
    browser.run("window.confirm = () => false; document.querySelector('[aria-label^=Delete]').click()")
    assert browser.run("document.querySelectorAll('.scan').length") == 1
    browser.run("window.confirm = () => true; document.querySelector('[aria-label^=Delete]').click()")
    browser.until("document.querySelectorAll('.scan').length === 0")
    assert browser.run("document.getElementById('empty').hidden") is False
