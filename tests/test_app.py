"""The page's server: who may ask, what is taken, the queue, the history, and what is said of what fails."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

if not all(map(find_spec, ("fastapi", "uvicorn", "platformdirs", "httpx2"))):
    pytest.skip('the page is not installed: pip install -e ".[app]" httpx2', allow_module_level=True)

from conftest import STANDARD_GRID, make_brain
from fastapi.testclient import TestClient
from stub_task import Stub
from typer.testing import CliRunner

from medvae.app.detectors import AUTO
from medvae.app.history import ENTRY, History, default_folder, opened
from medvae.app.predicting import Asked, Predicting, Wanted
from medvae.app.queue import Queue
from medvae.app.server import make_app
from medvae.app.serving import free_port
from medvae.app.uploads import harmless_stem, shown_name
from medvae.cli import app as cli
from medvae.detection.scan import scans_of_files
from medvae.errors import MedvaeError
from medvae.imaging.volume import read_volume, write_volume

PORT, TOKEN = 8321, "a-token"
HOME = f"http://127.0.0.1:{PORT}"


@contextlib.contextmanager
def served(folder: Path, task, *, most_bytes: int = 10**6) -> Iterator[TestClient]:
    """A browser at the page, and the server while it is used."""
    with opened(folder) as history:
        queue = Queue(history, task)
        queue.ask_detectors()
        app = make_app(queue, port=PORT, token=TOKEN, most_bytes=most_bytes)
        with TestClient(app, base_url=HOME, headers={"origin": HOME}) as client:
            assert client.get("/", params={"token": TOKEN}).status_code == 200
            yield client


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory) -> Iterator[tuple[TestClient, Path]]:
    folder = tmp_path_factory.mktemp("stubbed")
    with served(folder / "history", Stub(folder / "gate")) as client:
        yield client, folder


@pytest.fixture
def client(stubbed) -> Iterator[TestClient]:
    """The page with an empty history; its process stays from test to test."""
    yield stubbed[0]
    for scan in scans(stubbed[0]):
        stubbed[0].delete(f"/api/scans/{scan['id']}")
    (stubbed[1] / "gate").unlink(missing_ok=True)


@pytest.fixture
def place(stubbed) -> Path:
    """The folder that holds the history of `client`."""
    return stubbed[1]


@pytest.fixture
def gate(place) -> Path:
    return place / "gate"


def nifti(array=None) -> bytes:
    """A small NIfTI file."""
    array = np.zeros((2, 2, 2), np.uint8) if array is None else array
    return nib.Nifti1Image(array, np.eye(4)).to_bytes()


def drop(client, name="scan.nii", content=None, **more):
    return client.post(
        "/api/scans", params={"name": name, "detector": "stub", **more}, content=nifti() if content is None else content
    )


def scans(client) -> list[dict]:
    """The oldest first."""
    return client.get("/api/scans").json()["scans"][::-1]


def until(client, state, *, of=None, seconds=240):
    """Wait until all scans, or one of an id, are in a state."""
    end = time.monotonic() + seconds
    while not all(scan["state"] in state for scan in scans(client) if of in (None, scan["id"])):
        assert time.monotonic() < end, scans(client)
        time.sleep(0.03)
    return scans(client)


FAST = "flair-rank-2mm"
FEW = ("--no-pictures", "--no-workspaces")
ENDED = ("done", "failed", "cancelled")


# Who may ask


def test_without_the_token_there_is_a_sentence_and_nothing_else(client):
    stranger = TestClient(client.app, base_url=HOME, headers={"origin": HOME})
    asked = [stranger.get(path) for path in ("/", "/api/scans", "/static/app.js", "/?token=wrong", "/?token=", "/x")]
    asked += [stranger.post("/api/scans?name=a&detector=stub", content=nifti()), stranger.delete("/api/scans/0")]
    stranger.cookies.set(f"medvae_app_{PORT}", "wrong")
    asked.append(stranger.get("/api/scans", headers={"cookie": '"{}=,;'}))
    for answer in (*asked, stranger.get("/api/scans")):
        assert answer.status_code == 403
        assert "Open the address that medvae app shows in the terminal" in answer.text
    assert scans(client) == []


def test_the_token_goes_into_a_cookie_that_scripts_and_other_pages_do_not_have(client):
    other = TestClient(client.app, base_url=HOME, follow_redirects=False)
    answer = other.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert other.get("/").status_code == 200  # a second browser, beside the first
    assert client.get("/").status_code == 200
    beside = {"cookie": f'x={{"a b": [1]}}; medvae_app_{PORT}={TOKEN}'}  # what another server of this computer has set
    assert TestClient(client.app, base_url=HOME).get("/", headers=beside).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "127.0.0.1", "127.0.0.1:9", "192.168.0.2:8321", ""]
)
def test_another_host_is_not_answered(client, host):
    assert client.get("/api/scans", headers={"host": host}).status_code == 403


def test_another_origin_is_not_answered_nor_a_change_without_one(client):
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{PORT}", f"http://127.0.0.1:{PORT + 1}"):
        assert client.get("/api/scans", headers={"origin": origin}).status_code == 403
    silent = TestClient(client.app, base_url=HOME, cookies=client.cookies)
    assert silent.get("/api/scans").status_code == 200
    assert silent.post("/api/scans?name=a&detector=stub", content=nifti()).status_code == 403
    assert silent.delete("/api/scans/0").status_code == 403
    assert scans(client) == []


def test_every_answer_forbids_what_the_page_does_not_need(client):
    drop(client)
    for path in ("/", "/api/scans", "/static/case.js", "/nothing", "/?token=wrong"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"


def test_there_are_no_pages_that_describe_the_server(client):
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404


# What is taken


def test_scans_are_predicted_in_their_order_by_one_process_that_stays(client, gate):
    gate.touch()
    for name in ("b.nii", "a.nii", "c.nii.gz"):
        content = gzip.compress(nifti()) if name.endswith("gz") else nifti()
        answer = drop(client, name, content, at="fpr_0.01")
        assert answer.status_code == 201
    done = until(client, ENDED)
    assert [scan["name"] for scan in done] == ["b.nii", "a.nii", "c.nii.gz"]
    assert {scan["state"] for scan in done} == {"done"}
    assert len({scan["found"]["seconds"] for scan in done}) == 1  # which is the process's number
    assert done[0]["notes"] == ["a note"]
    assert done[0]["found"]["point"] == "fpr_0.01"


def test_the_server_answers_while_a_scan_is_predicted(client, gate):
    first, second = (drop(client, name).json()["id"] for name in ("wait.nii", "next.nii"))
    until(client, ("running",), of=first)
    while not scans(client)[0]["stage"]:
        time.sleep(0.02)
    assert scans(client)[0]["stage"] == "preparing"
    assert (scans(client)[1]["state"], scans(client)[1]["before"]) == ("queued", 0)
    assert client.get("/").status_code == 200
    assert client.get(f"/scans/{first}").status_code == 404  # no page yet
    gate.touch()
    until(client, ("done",), of=second)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello", "A complete file that ends in"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "a picture or a PDF"),
        (b"<!doctype html><html>", "a web page"),
        (gzip.compress(gzip.compress(nifti(), mtime=0), mtime=0), "gzip twice"),
        (nifti()[:200], "A complete file that ends in"),
        (b"NRRD0004\ndata file: /etc/passwd\n\n", "another file"),
    ],
)
def test_what_is_no_scan_is_refused_in_the_words_of_the_command_line(client, place, tmp_path, content, words):
    answer = drop(client, "sub-01_T1.nii.gz", content)
    assert answer.status_code == 400
    assert words in answer.text
    assert answer.text.startswith("sub-01_T1.nii.gz: ")
    assert str(place) not in answer.text
    if words != "another file":
        (tmp_path / "scan.nii").write_bytes(content)
        with pytest.raises(MedvaeError) as told:
            read_volume(tmp_path / "scan.nii")
        assert answer.text == str(told.value).replace(f"{tmp_path}/scan.nii", "sub-01_T1.nii.gz")
    assert list((place / "history" / "scans").iterdir()) == []


def test_a_file_beyond_the_limit_is_refused_whether_it_says_so_or_not(tmp_path, gate):
    with served(tmp_path, Stub(gate), most_bytes=1000) as client:
        sent = []

        def pieces():
            yield nifti()
            for _ in range(1000):
                sent.append(1)
                yield bytes(100)

        for content in (bytes(1001), pieces()):
            answer = drop(client, "big.nii", content)
            assert answer.status_code == 413
            assert "big.nii: has more than 0 MB, which is the limit" in answer.text
        assert list((tmp_path / "scans").iterdir()) == []
        assert drop(client, content=nifti()).status_code == 201


NAMES = [
    "../../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "C:\\x\\y.nii", "..", ".", "", " ", "-rf.nii",
    ".a.nii.gz", "con.nii.gz", "LPT1.nii", "<img src=x onerror=alert(1)>.nii.gz", "a\x00b.nii", "\u202egz.iin",
    "ü" * 300 + "_FLAIR.nii.gz", "patient 1 (copy).nii", "名前_T1.nii.gz", "'; rm -rf ~; '.nii",
    "%2e%2e%2fx.nii", "entry.json",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_anywhere(client, place, name):
    answer = drop(client, name)
    assert answer.status_code == 201, answer.text
    (folder,) = (place / "history" / "scans").iterdir()
    files = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".part"}
    (scan,) = files - {ENTRY}
    assert re.fullmatch(r"[\w][\w-]*\.nii", scan)
    assert len(scan.encode()) < 120
    assert not {path.name for path in place.iterdir()} - {"history", "gate"}
    shown = scans(client)[0]["name"]
    assert shown
    assert not re.search("[\x00-\x1f\u202e/\\\\]", shown)


def test_the_sequence_at_the_end_of_a_long_name_is_kept():
    assert harmless_stem("x" * 300 + "_FLAIR.nii.gz").endswith("x_FLAIR")
    assert harmless_stem("sub-01_ses-2_T1w.nii") == "sub-01_ses-2_T1w"
    assert harmless_stem("sub-01.ZIP") == "sub-01"
    assert shown_name("C:\\data\\sub 01.nii") == "sub 01.nii"


@pytest.mark.parametrize("id", ["%2e%2e", "..%2f..%2fetc", "0" * 16, "entry.json", "x" * 500])
def test_no_address_leads_anywhere(client, id):
    for path in ("/scans/{}", "/scans/{}/volumes.js", "/scans/{}/files/map", "/static/{}", "/files/{}"):
        assert client.get(path.format(id)).status_code == 404
    assert client.delete(f"/api/scans/{id}").status_code in (404, 405)


def test_only_what_is_offered_can_be_chosen(client):
    for choice in ({"detector": "/etc"}, {"detector": "t1-2mm"}, {"detector": AUTO, "at": "fpr_0.01"}):
        answer = drop(client, **choice)
        assert answer.status_code == 400
        assert "is not offered" in answer.text
    assert client.post("/api/scans", content=nifti()).status_code == 422
    assert scans(client) == []


def test_a_page_that_knows_everything_is_sent_nothing(client):
    version = client.get("/api/scans").json()["version"]
    assert client.get("/api/scans", params={"since": version}).status_code == 204
    drop(client)
    until(client, ENDED)
    told = client.get("/api/scans", params={"since": version}).json()
    assert told["version"] > version
    assert len(told["scans"]) == 1


# The queue


def test_cancelling_ends_only_that_scan(client, gate):
    first, second, third = (drop(client, name).json()["id"] for name in ("wait.nii", "other.nii", "last.nii"))
    until(client, ("running",), of=first)
    assert client.post(f"/api/scans/{second}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/api/scans/{first}/cancel").json()["state"] == "cancelled"
    assert [scan["state"] for scan in until(client, ENDED)] == ["cancelled", "cancelled", "done"]
    assert client.post(f"/api/scans/{third}/cancel").json()["state"] == "done"  # too late
    gate.touch()
    for id in (first, third):
        client.post(f"/api/scans/{id}/again")
    assert [scan["state"] for scan in until(client, ENDED)] == ["done", "cancelled", "done"]


def test_what_fails_says_why_and_the_next_goes_on(client):
    for name in ("break.nii", "die.nii", "good.nii"):
        drop(client, name)
    broken, died, good = until(client, ENDED)
    assert (broken["state"], broken["message"]) == ("failed", "break.nii: cannot be read.")
    assert died["state"] == "failed"
    assert "died twice" in died["message"]
    assert good["state"] == "done"


def test_a_deleted_scan_leaves_nothing_even_while_it_is_predicted(client, place):
    first, second = (drop(client, name).json()["id"] for name in ("wait.nii", "wait2.nii"))
    until(client, ("running",), of=first)
    for id in (first, second):
        assert client.delete(f"/api/scans/{id}").status_code == 204
        assert client.delete(f"/api/scans/{id}").status_code == 404
    assert scans(client) == []
    assert list((place / "history" / "scans").iterdir()) == []
    drop(client)
    assert until(client, ENDED)[0]["state"] == "done"


# The history


def test_the_history_outlives_the_program_and_its_queue_goes_on(tmp_path, gate):
    with served(tmp_path, Stub(gate)) as client:
        drop(client, "done.nii")
        until(client, ENDED)
        running, waiting = (drop(client, name).json()["id"] for name in ("wait.nii", "wait2.nii"))
        until(client, ("running",), of=running)
    gate.touch()
    with served(tmp_path, Stub(gate)) as client:
        found = until(client, ENDED)
        assert [(scan["name"], scan["state"]) for scan in found] == [
            ("done.nii", "done"), ("wait.nii", "done"), ("wait2.nii", "done"),
        ]  # fmt: skip
        assert found[0]["found"]["volume_ml"] == 1.5
        client.delete(f"/api/scans/{waiting}")
    with served(tmp_path, Stub(gate)) as client:
        assert [scan["name"] for scan in scans(client)] == ["done.nii", "wait.nii"]


def test_a_detector_that_is_offered_no_more_is_asked_for(tmp_path, gate):
    with served(tmp_path, Stub(gate)) as client:
        id = drop(client).json()["id"]
        until(client, ENDED)
    path = tmp_path / "scans" / id / ENTRY
    path.write_text(path.read_text().replace('"stub"', '"/gone"', 1).replace('"done"', '"queued"'))
    with served(tmp_path, Stub(gate)) as client:
        (scan,) = until(client, ENDED)
        assert "Start medvae app --detector /gone" in scan["message"]


def test_broken_entries_are_told_and_left_alone(tmp_path):
    for name, content in (("a" * 16, "{"), ("b" * 16, json.dumps({"id": "../../x"}))):
        (tmp_path / "scans" / name).mkdir(parents=True)
        (tmp_path / "scans" / name / ENTRY).write_text(content)
    history = History(tmp_path)
    assert list(history) == []
    assert len(history.broken) == 2
    assert len(list((tmp_path / "scans").iterdir())) == 2


def test_one_program_at_a_time_has_a_history(tmp_path):
    code = (
        f"from medvae.app.history import opened\nfrom pathlib import Path\nwith opened(Path({str(tmp_path)!r})): pass"
    )
    with opened(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    assert "is the history of another medvae app, which is running" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="needs permissions of POSIX")
def test_scans_are_for_their_owner_alone(client, place):
    drop(client)
    assert (place / "history" / "scans").stat().st_mode & 0o077 == 0


def test_the_default_folder_is_the_users(monkeypatch, tmp_path):
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert default_folder() == tmp_path / "medvae" / "app"


# With a detector


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[TestClient]:
    """The page with the detectors that come with medvae."""
    task = Predicting("cpu", (FAST,))
    with served(tmp_path_factory.mktemp("a history"), task, most_bytes=10**8) as client:
        yield client


def send(client, name, content, detector=FAST, **more) -> dict:
    """What became of a scan."""
    answer = client.post("/api/scans", params={"name": name, "detector": detector, **more}, content=content)
    assert answer.status_code == 201, answer.text
    return ended(client, answer.json()["id"])


def ended(client, id) -> dict:
    return next(scan for scan in until(client, ENDED, of=id) if scan["id"] == id)


@pytest.fixture(scope="module")
def brain(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("brain") / "brain.nii.gz"
    write_volume(path, make_brain(0), STANDARD_GRID)
    return path.read_bytes()


@pytest.fixture(scope="module")
def done(real, brain) -> dict:
    return send(real, "p 1 <b>_FLAIR.nii.gz", brain)


def test_a_scan_is_predicted_as_the_command_line_does(real, done, brain, tmp_path):
    assert done["state"] == "done", done["message"]
    from medvae.prediction import predict_one

    (tmp_path / "p_1__b__FLAIR.nii.gz").write_bytes(brain)
    maps = predict_one(tmp_path / "p_1__b__FLAIR.nii.gz", FAST, tmp_path / "out")
    assert done["found"]["volume_ml"] == maps.lesion_volume_ml
    assert done["found"]["point"] == "rank_0.9"
    got = real.get(f"/scans/{done['id']}/files/map")
    assert got.content == (tmp_path / "out" / "p_1__b__FLAIR_desc-anomaly_probseg.nii.gz").read_bytes()
    assert "p_1__b__FLAIR_desc-anomaly_probseg.nii.gz" in got.headers["content-disposition"]
    table = real.get(f"/scans/{done['id']}/files/lesions").text
    assert table == (tmp_path / "out" / "lesions.tsv").read_text()


def test_its_page_has_the_viewer_and_nothing_that_runs_in_it(real, done):
    page = real.get(f"/scans/{done['id']}")
    assert page.headers["content-type"].startswith("text/html")
    assert "<b>_FLAIR" not in page.text
    assert re.findall(r"<script(?! src=| type=\"application/json\")", page.text) == []
    for address in re.findall(r'(?:src|href)="(/[^"]*)"', page.text):
        assert real.get(address).status_code == 200, address
    assert "not for clinical use" in page.text


def test_the_workspace_of_the_archive_finds_all_its_files(real, done, tmp_path):
    require_workspace(real, done, tmp_path)
    assert (tmp_path / "all" / "p_1__b__FLAIR" / "predictions" / "findings.tsv").is_file()


def require_workspace(real, done, tmp_path):
    """The workspaces in the archives of a scan open files that lie beside them."""
    for kind in ("workspace", "all"):
        with zipfile.ZipFile(io.BytesIO(real.get(f"/scans/{done['id']}/files/{kind}").content)) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path / kind)
        (workspace,) = (tmp_path / kind).rglob("*.itksnap")
        text = workspace.read_text()
        saved = re.search(r'key="SaveLocation" value="([^"]*)"', text)[1]
        paths = re.findall(r'key="AbsolutePath" value="([^"]*)"', text)
        assert len(paths) == 3
        for path in paths:
            assert (workspace.parent / os.path.relpath(path, saved)).is_file()


def test_of_all_scans_there_is_one_table_and_one_archive(real, done, brain):
    again = send(real, "p 1 <b>_FLAIR.nii.gz", brain, at="rank_0.95")
    assert again["found"]["volume_ml"] < done["found"]["volume_ml"]
    lines = real.get("/files/lesions").text.splitlines()
    points = [line.split("\t")[lines[0].split("\t").index("operating_point")] for line in lines[1:]]
    assert points[:2] == ["rank_0.9", "rank_0.95"]
    with zipfile.ZipFile(io.BytesIO(real.get("/files/all").content)) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert sum(name.endswith("/lesions.tsv") for name in names) == 2


def truncated(content):
    return content[: len(content) // 2]


def bomb(_):
    """Far more voxels than its header promises."""
    return gzip.compress(nifti(np.zeros((4, 4, 4), np.uint8)) + bytes(40 * 2**20), compresslevel=9)


def endless(_):
    """A header that promises terabytes."""
    start = bytearray(nifti())
    start[40:56] = np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], np.int16).tobytes()
    return gzip.compress(bytes(start))


@pytest.mark.parametrize("damage", [truncated, bomb, endless])
def test_damaged_files_and_bombs_fail_in_the_words_of_the_command_line(real, brain, tmp_path, damage):
    content = damage(brain)
    (tmp_path / "x_FLAIR.nii.gz").write_bytes(content)
    (scan,) = scans_of_files([tmp_path / "x_FLAIR.nii.gz"])
    from medvae.detection.ensemble import load_detector

    with pytest.raises(MedvaeError) as told:
        scan.prepare(load_detector(FAST))
    failed = send(real, "x_FLAIR.nii.gz", content)
    assert failed["state"] == "failed"
    assert failed["message"] == str(told.value).replace(f"{tmp_path}/", "")


def test_another_sequence_and_an_unknown_operating_point_are_told(real, brain):
    assert "is T1 by the name of its file" in send(real, "x_T1.nii.gz", brain)["message"]
    assert 'no operating point "fpv_5ml"' in send(real, "x_FLAIR.nii.gz", brain, at="fpv_5ml")["message"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> bytes:
    """A zip of two FLAIR series and a localiser."""
    pytest.importorskip("pydicom")
    from dicom_files import localiser, mr_slices, save

    folder = tmp_path_factory.mktemp("study")
    brain = make_brain(0).astype(np.float32)
    array = np.rint(brain * (4000 / brain.max())).clip(0).astype(np.uint16)
    for number in (4, 5):
        save(mr_slices(array, STANDARD_GRID.affine, number=number, description="FLAIR"), folder)
    save(localiser(), folder)
    return zip_of({path.name: path.read_bytes() for path in folder.iterdir()})


def zip_of(files) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def on_the_command_line(tmp_path, *arguments) -> str:
    """What `medvae predict` says when it fails, without the folder."""
    result = CliRunner().invoke(cli, ["predict", FAST, *map(str, arguments), "--out", str(tmp_path / "out"), *FEW])
    return str(result.exception or "").replace(f"{tmp_path}/", "") if result.exit_code else ""


def test_a_study_is_predicted_as_the_command_line_does_by_the_series_that_is_named(real, study, tmp_path):
    failed = send(real, "a person.zip", study)
    (tmp_path / "a person.zip").write_bytes(study)
    assert "2 series fit the detector. Choose one: --series 4 or 5." in failed["message"]
    assert failed["message"] in on_the_command_line(tmp_path, tmp_path / "a person.zip")

    real.post(f"/api/scans/{failed['id']}/again", params={"series": "5"})
    done = ended(real, failed["id"])
    assert (done["state"], done["series"]) == ("done", "5"), done["message"]
    assert done["notes"][0].startswith('a person.zip: series 5 "FLAIR", of 3\n')
    (tmp_path / "a_person.zip").write_bytes(study)
    assert on_the_command_line(tmp_path, tmp_path / "a_person.zip", "--series", "5") == ""
    map_ = real.get(f"/scans/{done['id']}/files/map").content
    assert map_ == (tmp_path / "out" / "a_person_desc-anomaly_probseg.nii.gz").read_bytes()
    require_workspace(real, done, tmp_path / "unpacked")
    page = real.get(f"/scans/{done['id']}").text
    assert "DOE^JANE" not in page
    assert real.delete(f"/api/scans/{done['id']}").status_code == 204


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(1000), zip_of({"a.txt": b"text"}), bytes(128) + b"DICM" + bytes(9)]
)
def test_a_study_without_images_fails_in_the_words_of_the_command_line(real, tmp_path, content):
    name = "x.zip" if content.startswith(b"PK") else "x.dcm"
    failed = send(real, name, content)
    (tmp_path / name).write_bytes(content)
    assert failed["message"]
    assert on_the_command_line(tmp_path, tmp_path / name).startswith(failed["message"])


def test_auto_takes_the_detector_of_the_sequence(brain, study, tmp_path, monkeypatch):
    monkeypatch.setattr("medvae.detection.by_sequence.by_sequence", lambda: {"FLAIR": FAST, "T2": "t2-rank-2mm"})
    (tmp_path / "x_T2w.nii.gz").write_bytes(brain)
    stages: list[str] = []
    made = Predicting("cpu", ())(Wanted("0" * 16, tmp_path, "x_T2w.nii.gz", AUTO, ""), stages.append)
    assert made.found.detector == "t2-rank-2mm"
    assert made.notes[0] == "detector: t2-rank-2mm, for T2 by the name of its file"
    assert list(dict.fromkeys(stages)) == ["preparing", "scoring", "writing"]

    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "x.zip").write_bytes(study)
    made = Predicting("cpu", ())(Wanted("1" * 16, tmp_path / "study", "x.zip", AUTO, "", "4"), stages.append)
    assert made.found.detector == FAST
    assert made.notes[0] == f'detector: {FAST}, for FLAIR by the description of its series "FLAIR"'
    left = {path.name for path in (tmp_path / "study" / "predictions").iterdir() if path.is_dir()}
    assert left == {"converted", "viewers"}  # and not what the zip held


def test_a_folder_that_holds_no_detector_is_told_before_the_page_opens(tmp_path):
    with opened(tmp_path / "history") as history:
        queue = Queue(history, Predicting("cpu", (str(tmp_path),)))
        with pytest.raises(MedvaeError, match="holds no detector"):
            queue.ask_detectors()
        queue.stop()


# The command


def test_the_next_free_port_is_taken_and_only_on_this_computer():
    with free_port(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with free_port(port) as other:
            assert other.getsockname()[1] > port


def test_a_missing_extra_is_named(monkeypatch):
    import importlib.util

    from medvae.commands.app import app

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MedvaeError, match=re.escape('pip install "medvae-anomaly[app]"')):
        app()


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_ends_it_and_all_that_it_started(tmp_path):
    command = [sys.executable, "-u", "-c", "from medvae.cli import main; main()", "app", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        [*command, "--folder", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "End with Ctrl-C" in line:
                break
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{20,})", line):
                port = int(found[1])
        with socket.create_connection(("127.0.0.1", port)) as asked:
            asked.sendall(f"GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert b" 403 " in asked.recv(200)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest = process.stdout.read()  # until the last of the group has closed it
        assert process.wait(60) == 0
    assert "Stopped." in rest
    assert "Traceback" not in rest
    assert not (tmp_path / ".medvae.lock").exists()


def test_a_device_that_is_not_there_is_told_before_the_page_opens():
    with pytest.raises(MedvaeError, match="cuda:99"):
        Predicting("cuda:99", ())(Asked.DETECTORS, print)
