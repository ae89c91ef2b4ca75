"""The server's start and end: a port of this computer's own, a browser, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from medvae.app.guard import LOOPBACK
from medvae.app.history import opened
from medvae.app.predicting import Predicting
from medvae.app.queue import Queue
from medvae.app.server import make_app
from medvae.errors import MedvaeError

PORTS_TRIED = 20
_GRACE_S = 2


def serve(
    folder: Path,
    *,
    runs: Sequence[str],
    device: str,
    port: int,
    most_bytes: int,
    browser: bool,
    say: Callable[[str], None],
) -> int:
    """Serve the page until Ctrl-C; the number of scans that are queued then.

    Parameters
    ----------
    folder
        Of the history.
    runs
        Detectors that are offered before those that come with medvae, by their folders.
    device
        Where networks work.
    port
        The first that is tried; the next free one is taken.
    most_bytes
        Of a scan.
    browser
        Open one.
    say
        Prints a line.

    Raises
    ------
    MedvaeError
        If there is no free port, a folder holds no detector, or another program has the history.
    """
    with opened(folder) as history, free_port(port) as listening:
        taken = listening.getsockname()[1]
        if port not in (0, taken):
            say(f"note: port {port} is in use; port {taken} is taken.")
        for problem in history.broken:
            say(f"note: {problem}")
        say("loading the detectors…")
        queue = Queue(history, Predicting(device, tuple(runs)))
        queue.ask_detectors()
        token = secrets.token_urlsafe(24)
        address = f"http://{LOOPBACK}:{taken}/?token={token}"
        app = make_app(queue, port=taken, token=token, most_bytes=most_bytes)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", http="h11",
            timeout_graceful_shutdown=_GRACE_S, lifespan="on",
        )  # fmt: skip
        say(f"open in a browser of this computer: {address}")
        say(f"history: {folder}. End with Ctrl-C.")
        if browser:
            threading.Thread(target=_show, args=(address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises when all is closed
            uvicorn.Server(config).run(sockets=[listening])
        return sum(entry.state == "queued" for entry in history)


def _show(address: str) -> None:
    with contextlib.suppress(webbrowser.Error):  # there is none
        if type(webbrowser.get()) is not webbrowser.GenericBrowser:  # one without windows would take the terminal
            webbrowser.open(address)


def free_port(first: int) -> socket.socket:
    """A socket that listens on the first free port from ``first`` on, on this computer only; 0 takes any.

    Raises
    ------
    MedvaeError
        If `PORTS_TRIED` of them are in use.
    """
    for port in range(first, min(first + PORTS_TRIED, 65536)) if first else [0]:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # a port that was just given up; on Windows it would take one that is in use
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            why = error.strerror or str(error)
    raise MedvaeError(f"--port {first}: neither it nor the {PORTS_TRIED - 1} after it are free ({why}). Give another.")
