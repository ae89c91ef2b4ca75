import errno
import os

import pytest

from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, whole_folder, write_bytes, write_json


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    write_bytes(target, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MedvaeError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "run"
    with whole_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as folder:
        (folder / "x").write_text("2")
        raise KeyboardInterrupt
    assert (target / "x").read_text() == "1"
    with whole_folder(target) as folder:
        (folder / "y").write_text("3")
    assert sorted(p.name for p in target.iterdir()) == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "run"):
        (tmp_path / "missing").read_text()


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    with whole_folder(tmp_path / "run") as folder:
        (folder / "x").write_text("1")
    (tmp_path / ".run.abc.part").mkdir()
    (tmp_path / ".run.abc.old").mkdir()
    (tmp_path / ".other.abc.part").mkdir()
    remove_leftovers(tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.abc.part", "run"]


def test_folder_put_aside_by_a_killed_process_gets_its_name_back(tmp_path):
    (tmp_path / ".run.abc.old" / "run").mkdir(parents=True)
    (tmp_path / ".run.abc.old" / "run" / "x").write_text("1")
    remove_leftovers(tmp_path / "run")
    assert (tmp_path / "run" / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
