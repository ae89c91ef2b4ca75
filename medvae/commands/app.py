"""``medvae app``: a page on this computer, for who would rather drop a scan than type a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import AllowLarge, Device, say, stopped_says
from medvae.errors import MedvaeError

EXAMPLE = "medvae app --detector runs/a"
PORT = 8321
LIMIT_MB = 1024
NEEDS = ("fastapi", "uvicorn", "platformdirs")


def app(
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Also offer the detector of this run or detector folder, first of all; may be repeated. Those that "
            "come with medvae are always offered.",
        ),
    ] = None,
    *,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep scans and results here: the history. By default in your data directory, which is shown.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; if it is in use, the next free one. 0: any.")
    ] = PORT,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    limit_mb: Annotated[int, typer.Option(min=1, help="Take no file of more MB.")] = LIMIT_MB,
    device: Device = "auto",
    allow_large: AllowLarge = False,
) -> None:
    r"""Open a page on this computer: drop scans on it, look at their maps, save them.

    Scans are predicted one after the other, as medvae predict does, and shown in a viewer with the map and the mask
    over them. Nothing leaves this computer: the page is served to it alone (127.0.0.1), to who has the address with its
    token, which is shown here.

    Scans and results stay in the history until you delete them there; what was queued goes on after the next start.
    Needs: pip install "medvae-anomaly\[app]".
    """
    from importlib.util import find_spec

    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise MedvaeError(
            f"medvae app needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. Run: "
            f'pip install "medvae-anomaly[app]"'
        )
    from medvae.app.history import default_folder
    from medvae.app.serving import serve

    with stopped_says("Stopped before the page was ready."):
        queued = serve(
            folder or default_folder(),
            runs=detector or [],
            device=device,
            port=port,
            most_bytes=limit_mb * 10**6,
            browser=browser,
            say=say,
        )
    left = f" {queued} scan{'s' * (queued != 1)} in the queue: they go on after the next start." if queued else ""
    say(f"\nStopped.{left}")
