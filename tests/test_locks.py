"""Folders that one process at a time may change."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from medvae.errors import MedvaeError
from medvae.locks import locked

HOLD = "import sys; from medvae.locks import locked\nwith locked(sys.argv[1]):\n print(flush=True); sys.stdin.read()"
COUNT = """
import sys, pathlib; from medvae.locks import locked
for _ in range(50):
    with locked(sys.argv[1]):
        path = pathlib.Path(sys.argv[1], "count")
        path.write_text(str(int(path.read_text()) + 1))
"""


def holder(folder):
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_a_locked_folder_is_refused_and_says_by_whom_until_its_process_ends(tmp_path):
    process = holder(tmp_path / "run")
    with (
        pytest.raises(MedvaeError, match=f"taken by process {process.pid} on "),
        locked(tmp_path / "run", busy="taken by {owner}"),
    ):
        pass
    process.communicate(timeout=20)
    with locked(tmp_path / "run", busy="taken by {owner}"):
        pass
    assert not (tmp_path / "run").exists()  # it was empty, as before


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_the_lock_of_a_killed_process_is_open(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert list(tmp_path.iterdir())
    with locked(tmp_path, busy="taken by {owner}"):
        pass
    assert not list(tmp_path.iterdir())


def test_of_processes_and_threads_one_at_a_time_is_in(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(2)]

    def add():
        for _ in range(50):
            with locked(tmp_path):
                (tmp_path / "count").write_text(str(int((tmp_path / "count").read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert (tmp_path / "count").read_text() == "250"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_an_error_inside_opens_the_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path, busy="taken"):
            raise KeyboardInterrupt
