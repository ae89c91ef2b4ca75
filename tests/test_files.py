import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from medvae.errors import MedvaeError
from medvae.files import is_empty, remove_leftovers, whole_folder, write_bytes, write_json, write_json_once
from medvae.locks import locked

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")


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


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        assert write_bytes(tmp_path / name, b"x").read_bytes() == b"x"
        with whole_folder(tmp_path / "sub" / name) as folder:
            (folder / "x").write_text("1")


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert not list(tmp_path.iterdir())


def killed_while(tmp_path, code):
    """Run code that ends with the kill of its own process."""
    begin = f"import os, signal, pathlib; from medvae.files import *; here = pathlib.Path({str(tmp_path)!r})"
    process = subprocess.run([sys.executable, "-c", f"{begin}\n{code}"], check=False)
    assert process.returncode == -signal.SIGKILL


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
WRITING = f"import medvae.files\nmedvae.files.os.fsync = lambda _: {KILL}\nwrite_bytes(here / 'sub' / 'loss.png', b'x')"
FILLING = f"with whole_folder(here / 'run') as folder:\n (folder / 'x').write_text('new')\n {KILL}"
NAMING = f"""
rename, renamed = os.replace, []
def replace(a, b):
    if renamed:
        {KILL}
    renamed.append(rename(a, b))
os.replace = replace
with whole_folder(here / 'run') as folder:
    (folder / 'x').write_text('new')
"""


@posix
def test_what_killed_processes_left_is_removed_wherever_it_lies(tmp_path):
    killed_while(tmp_path, WRITING)
    killed_while(tmp_path, FILLING)
    (tmp_path / "notes.part").write_text("mine")
    (tmp_path / ".mine.part").write_text("mine")
    assert len(names(tmp_path)) == 6
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 4  # that in the subfolder stays
    remove_leftovers(tmp_path, deep=True)
    assert names(tmp_path) == [".mine.part", "notes.part", "sub"]


@posix
def test_only_leftovers_of_one_file_are_removed_where_others_own_the_folder(tmp_path):
    killed_while(tmp_path, FILLING)
    remove_leftovers(tmp_path, of="figure.pdf")
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path, of="run")
    assert names(tmp_path) == []


@posix
def test_folder_put_aside_by_a_killed_process_gets_its_name_back(tmp_path):
    with whole_folder(tmp_path / "run") as folder:
        (folder / "x").write_text("old")
    killed_while(tmp_path, NAMING)
    assert not (tmp_path / "run").exists()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["run", "run/x"]
    assert (tmp_path / "run" / "x").read_text() == "old"


@posix
def test_nothing_of_a_living_process_is_removed(tmp_path):
    code = f"import sys; from medvae.files import whole_folder\nwith whole_folder({str(tmp_path / 'run')!r}) as f:\n"
    code += " (f / 'x').write_text('1'); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    with whole_folder(tmp_path / "mine") as folder:
        (folder / "x").write_text("1")
        os.utime(folder, (0, 0))
        remove_leftovers(tmp_path, deep=True)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert names(tmp_path) == ["mine", "mine/x", "run", "run/x"]


def test_what_another_machine_or_an_earlier_version_left_goes_after_a_day(tmp_path):
    theirs = [tmp_path / ".a.json.0123abcd-77-0123abcd.part", tmp_path / ".a.json.x_y12345.part"]
    for path in theirs:
        path.write_text("")
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in theirs)
    for path in theirs:
        os.utime(path, (time.time() - 90000,) * 2)
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in theirs)


def test_a_leftover_of_an_earlier_process_with_this_number_is_removed(tmp_path, monkeypatch):
    """In a container the only process has the number 1, each time."""
    with whole_folder(tmp_path / "run") as folder:
        shutil.copytree(folder, tmp_path / "copy")
        left = tmp_path / folder.name.replace(folder.name[-13:], "00000000.part")
        os.rename(tmp_path / "copy", left)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [folder.name]


def test_folders_of_two_that_finish_together_are_both_whole(tmp_path):
    def write(number):
        for _ in range(40):
            with whole_folder(tmp_path / "run") as folder:
                for name in "abc":
                    (folder / name).write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert names(tmp_path) == ["run", "run/a", "run/b", "run/c"]
    assert len({path.read_text() for path in (tmp_path / "run").iterdir()}) == 1


def test_of_several_that_write_once_one_does(tmp_path):
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        return write_json_once(tmp_path / "new" / "a.json", number)

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(write, range(8)))
    assert sum(done) == 1
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == done.index(True)
    assert names(tmp_path) == ["new", "new/a.json"]


def test_a_folder_with_a_lock_and_temporary_files_is_empty(tmp_path):
    assert is_empty(tmp_path / "none")
    with whole_folder(tmp_path / "run"), locked(tmp_path):
        assert is_empty(tmp_path)
    assert not is_empty(tmp_path)
    (tmp_path / "file").write_text("")
    assert not is_empty(tmp_path / "file")
