"""Names are printed as they are: never as markup, never as an instruction to the terminal."""

import os
import sys

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError
from rich.text import Text

from medvae.cli import main
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.manifest import Case
from medvae.prediction import scans_of_files
from medvae.progress import Progress
from medvae.reporting.tables import print_table
from medvae.terminal import plain_console, printable

ODD = ["[/B]", "[bold]x[/]", "[red]", "a[0]", "[link=file:///etc/passwd]", ":smile:", "\\[x]", "[/]"]


@pytest.mark.parametrize("name", ODD)
def test_brackets_and_colons_are_printed_as_they_are(capsys, name):
    print_table(name, ["case", name], [[name, Text("2 errors", "red")]])
    with Progress(name, 1) as progress:
        progress.update(1, case=name)
    plain_console().print(name)
    said = capsys.readouterr()
    assert said.out.count(name) == 4
    assert said.err.count(name) == 2


@pytest.mark.parametrize("name", ODD)
def test_a_live_bar_takes_names_as_they_are(monkeypatch, capsys, name):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(name, 1) as progress:
        progress._console.width = 200
        progress.update(1, case=name)
    assert name in capsys.readouterr().err


def test_control_characters_are_shown_and_not_obeyed():
    assert printable("a\x1b[2Jb\x07\x9b1m\u202etxt") == "a\\x1b[2Jb\\x07\\x9b1m\\u202etxt"
    assert printable("Zoë\t脳\nnext") == "Zoë\t脳\nnext"


def test_tables_and_progress_obey_no_control_characters(capsys):
    print_table("\x1b[2J", ["case"], [["\x1b]0;title\x07"]])
    with Progress("Checking", 1) as progress:
        progress.update(1, case="\x1b[2J")
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err


def test_errors_and_warnings_obey_no_control_characters(monkeypatch, capsys, tmp_path):
    scan = tmp_path / "a\x1b[2J.nii"
    scan.write_bytes(b"no scan")
    monkeypatch.setattr(sys, "argv", ["medvae", "check", str(tmp_path / "no\x1b[2J.json")])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "\\x1b[2J.json: there is no such file" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("name", ["a\nb", "a b", "a/b", "a\\b", "a\x1bb", "a\0b", "\x9bm", "", "x" * 181])
def test_ids_that_no_file_should_be_called_are_refused(name):
    with pytest.raises(ValidationError):
        Case(id=name, image="a.nii", split="test")


@pytest.mark.parametrize("name", [*(n for n in ODD if "\\" not in n and "/" not in n), "..", "脳"])
def test_other_ids_stay_allowed(name):
    assert Case(id=name, image="a.nii", split="test").id == name


def test_scans_are_named_without_what_no_name_should_have(tmp_path):
    assert [scan.id for scan in scans_of_files(["../a\nb\x1b[1m.nii.gz", "/etc/....nii"])] == ["a_b_[1m", "..."]
    with pytest.raises(MedvaeError, match=r"\\udcff.*not UTF-8"):
        scans_of_files([os.fsdecode(b"a\xff.nii")])


def test_a_name_that_is_not_utf8_is_told_when_it_would_be_written(tmp_path):
    with pytest.raises(MedvaeError, match=r"not UTF-8.*\\udcff"):
        write_json(tmp_path / "a.json", {"Sources": [os.fsdecode(b"a\xff.nii")]})
    assert not list(tmp_path.iterdir())


def test_the_commands_print_odd_ids(tmp_path, monkeypatch, capsys):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "[i].nii")
    cases = [{"id": name, "image": "[i].nii", "split": "test", "site": name} for name in ("[red]", "a[0]", ":smile:")]
    write_json(tmp_path / "[bold].json", {"name": "[bold]", "modality": {"0": "[T1]"}, "cases": cases})
    for words in (["check"], ["prepare", "--out", tmp_path / "cache"]):
        monkeypatch.setattr(sys, "argv", ["medvae", words[0], str(tmp_path / "[bold].json"), *map(str, words[1:])])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr().out
        assert all(word in said for word in ("[bold]: 3", "[red]", "a[0]", ":smile:", "[i].nii"))
