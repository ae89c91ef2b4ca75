"""A process that is kept: it loads once, it can be ended at any time, and its death is told."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path

import pytest

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.kept import KeptProcess


def work(item, tell):
    """What an item asks for."""
    kind, value = item
    if kind == "tell":
        for stage in value:
            tell(stage)
    elif kind == "wait":
        tell("waiting")
        time.sleep(value)
    elif kind == "warn":
        for text in value:
            warnings.warn(text, MedvaeWarning, stacklevel=1)
    elif kind == "refuse":
        raise MedvaeError(value)
    elif kind == "break":
        raise ZeroDivisionError(value)
    elif kind == "memory":
        raise MemoryError
    elif kind == "die":
        os._exit(9)
    elif kind == "die once" and not Path(value).exists():
        Path(value).touch()
        os._exit(9)
    return os.getpid()


@pytest.fixture
def process():
    kept = KeptProcess(work)
    yield kept
    kept.end()


def test_one_process_does_all_items_and_tells_how_far_it_is(process):
    heard = []
    first = process(("tell", ["a", "b"]), heard.append).result
    assert heard == ["a", "b"]
    assert process(("tell", [])).result == first == process.pid
    assert first != os.getpid()


def test_errors_are_results_and_warnings_come_with_them_once(process):
    done = process(("warn", ["one", "two", "one"]))
    assert done.warned == ("one", "two")
    assert str(process(("refuse", "not a scan")).result) == "not a scan"
    assert "ZeroDivisionError: by nothing" in str(process(("break", "by nothing")).result)
    assert "memory was not enough" in str(process(("memory", None)).result)
    assert process(("tell", [])).warned == ()


def test_a_process_that_dies_is_replaced_and_told_if_it_dies_again(process, tmp_path):
    before = process(("tell", [])).result
    again = process(("die once", str(tmp_path / "died"))).result
    assert again not in (before, None)
    assert "died twice" in str(process(("die", None)).result)
    assert process(("tell", [])).result not in (before, again)


def test_it_is_ended_from_another_thread_and_the_next_item_has_a_new_one(process):
    before = process(("tell", [])).result
    assert process(("wait", 60), lambda _: threading.Thread(target=process.end).start()) is None
    assert process(("tell", [])).result != before
    process.end()  # while it has nothing to do
    assert isinstance(process(("tell", [])).result, int)


def test_what_is_not_wanted_any_more_when_the_process_is_ready_is_not_begun(process):
    process.end()
    assert process(("wait", 60), wanted=lambda: False) is None
