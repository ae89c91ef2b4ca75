"""The page and what it asks for. Sentences are answered as plain text, all else as JSON, pages and files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from medvae import __version__
from medvae.app.downloads import ARCHIVES, FILES, archive_of, archive_of_many, single_file, table_of_all, zipped
from medvae.app.guard import Guard
from medvae.app.history import PAGE, Entry, Gone
from medvae.app.predicting import PAGE_NAME
from medvae.app.queue import Queue, is_choice
from medvae.app.uploads import TooLarge, receive, shown_name
from medvae.errors import MedvaeError
from medvae.reporting.page_templates import page_templates

STATIC = {
    "app.js": ("medvae.app", "templates/app.js", "text/javascript"),
    "dropped.js": ("medvae.app", "templates/dropped.js", "text/javascript"),
    "case.js": ("medvae.reporting", "templates/case.js", "text/javascript"),
    "niivue.umd.js": ("medvae.reporting", "viewer/niivue.umd.js", "text/javascript"),
}
"""Files that pages load: where they lie, and what they are."""
_LONGEST_UID = 64
_UNFINISHED = "This scan has no maps (yet)."


def make_app(queue: Queue, *, port: int, token: str, most_bytes: int) -> Guard:
    """The application behind its token; the queue works while it runs.

    Parameters
    ----------
    queue
        The scans; it knows which detectors there are.
    port
        Of the server.
    token
        What the address of the page holds.
    most_bytes
        Of a scan.
    """
    history = queue.history

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        queue.start()
        try:
            yield
        finally:
            queue.stop()

    app = FastAPI(title="medvae", openapi_url=None, lifespan=running)

    @app.exception_handler(MedvaeError)
    def told_error(_: Request, error: MedvaeError) -> Response:
        return PlainTextResponse(str(error), {TooLarge: 413, Gone: 404}.get(type(error), 400))

    @app.exception_handler(HTTPException)
    def told_status(_: Request, error: HTTPException) -> Response:
        return PlainTextResponse(str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    def told_request(_: Request, error: RequestValidationError) -> Response:
        names = ", ".join(str(problem["loc"][-1]) for problem in error.errors())
        return PlainTextResponse(f"The request is not as it should be: {names}.", 422)

    def finished(id: str) -> Entry:
        entry = history[id]
        if entry.state != "done":
            raise HTTPException(404, _UNFINISHED)
        return entry

    @app.get("/")
    def page() -> Response:
        template = page_templates("medvae.app").get_template("app.html")
        settings = {"choices": [asdict(choice) for choice in queue.choices], "mostBytes": most_bytes}
        return HTMLResponse(
            template.render(
                version=__version__, settings=settings, folder=str(history.folder), files=FILES, archives=ARCHIVES
            )
        )

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        package, path, kind = STATIC[name]
        return Response(resources.files(package).joinpath(path).read_bytes(), media_type=kind)

    @app.get("/api/scans")
    def scans(since: int = -1) -> Response:
        with history.change:
            version, entries = history.version, list(history)
            if version == since:  # which is asked several times a second
                return Response(status_code=204)
            waiting = [entry.id for entry in entries if entry.state == "queued"]
            shown = [_as_shown(entry, queue, waiting) for entry in reversed(entries)]
        return JSONResponse({"version": version, "scans": shown})

    @app.post("/api/scans", status_code=201)
    async def add(request: Request, name: str, detector: str, at: str = "") -> Response:
        if not is_choice(queue.choices, detector, at):
            raise HTTPException(400, f"The detector {detector} is not offered, or has no operating point {at}.")
        if int(request.headers.get("content-length") or 0) > most_bytes:
            raise TooLarge(shown_name(name), most_bytes)
        try:
            entry = await receive(
                request.stream(), history, name=name, detector=detector, at=at.strip(), most=most_bytes
            )
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse(_as_shown(entry, queue, []), 201)

    @app.post("/api/scans/{id}/cancel")
    def cancel(id: str) -> Response:
        return JSONResponse(_as_shown(queue.cancel(id), queue, []))

    @app.post("/api/scans/{id}/again")
    def again(id: str, series: Annotated[str, Query(max_length=_LONGEST_UID)] = "") -> Response:
        return JSONResponse(_as_shown(queue.again(id, series=series.strip()), queue, []))

    @app.delete("/api/scans/{id}", status_code=204)
    def delete(id: str) -> Response:
        queue.remove(id)
        return Response(status_code=204)

    @app.get("/scans/{id}")
    def scan_page(id: str) -> Response:
        return _file(history.folder_of(finished(id).id) / PAGE / f"{PAGE_NAME}.html", "text/html")

    @app.get("/scans/{id}/volumes.js")
    def volumes(id: str) -> Response:
        return _file(history.folder_of(finished(id).id) / PAGE / f"{PAGE_NAME}.js", "text/javascript")

    @app.get("/scans/{id}/files/{kind}")
    def file(id: str, kind: str) -> Response:
        entry = finished(id)
        stem = entry.stem
        if kind in ARCHIVES:
            return _archive(archive_of(history, entry, kind), f"{stem}_{kind}.zip")
        if kind not in FILES:
            raise HTTPException(404, "There is no such file.")
        path = single_file(history, entry, kind)
        name = path.name if path.name.startswith(stem) else f"{stem}_{path.name}"
        return _file(path, "application/octet-stream", name)

    @app.get("/files/{kind}")
    def files_of_all(kind: str) -> Response:
        done = [entry for entry in history if entry.state == "done"]
        if not done:
            raise HTTPException(404, "No scan is done yet.")
        if kind == "all":
            return _archive(archive_of_many(history, done), "medvae.zip")
        if kind != "lesions":
            raise HTTPException(404, "There is no such file.")
        return Response(
            table_of_all(history, done),
            media_type="text/tab-separated-values",
            headers={"content-disposition": 'attachment; filename="lesions.tsv"'},
        )

    return Guard(app, port, token)


def _as_shown(entry: Entry, queue: Queue, waiting: list[str]) -> dict[str, Any]:
    """An entry as the page gets it."""
    shown = entry.model_dump(mode="json", exclude={"file"})
    shown["detector"] = next((one.name for one in queue.choices if one.key == entry.detector), entry.detector)
    shown["stage"] = queue.stage.get(entry.id, "")
    shown["before"] = waiting.index(entry.id) if entry.id in waiting else 0
    return shown


def _file(path: Path, kind: str, name: str | None = None) -> Response:
    if not path.is_file():
        raise HTTPException(404, f"{path.name} is not there any more.")
    return FileResponse(path, media_type=kind, filename=name)


def _archive(files: dict[str, Path], name: str) -> Response:
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return StreamingResponse(zipped(files), media_type="application/zip", headers=headers)
