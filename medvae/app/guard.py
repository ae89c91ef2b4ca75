"""Who may talk to the page: a browser of this computer that was opened at the address which the terminal shows.

Any web page in any tab may send requests to a port of this computer, and may have a name of its own lead here (DNS
rebinding). So a request must name this server as its host, must not come from a page of another origin, and must carry
the token: once in the address, then as a cookie that pages of others cannot send.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
_NO_TOKEN = (
    "This page is only for who has its address with the token. Open the address that medvae app shows in the terminal; "
    "each start has a new one."
)
_OTHER_HOST = "This server answers to its own name only: open the address that medvae app shows in the terminal."
_OTHER_ORIGIN = "Requests of other pages are not answered."
_SAFE = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer: nothing is loaded from elsewhere, nothing runs that stands in a page, and nothing is kept."""


class Guard:
    """An application behind its token.

    Parameters
    ----------
    app
        What answers those who may ask.
    port
        Of the server.
    token
        What the address holds.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._token = token
        self._cookie = f"medvae_app_{port}"  # cookies do not tell ports apart
        self._hosts = {name if port == 80 else f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with a sentence."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, guarded)
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse(_OTHER_HOST, 403)
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self._hosts}:
            return PlainTextResponse(_OTHER_ORIGIN, 403)
        if origin is None and scope["method"] not in _SAFE:  # every browser sends it
            return PlainTextResponse(_OTHER_ORIGIN, 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given is not None and scope["path"] == "/" and scope["method"] in _SAFE:
            if not self._is_token(given[0]):
                return PlainTextResponse(_NO_TOKEN, 403)
            answer = RedirectResponse("/", 303)  # so that the token stays in no history
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        cookies = cookie_parser(headers.get("cookie", ""))  # one that breaks the rules does not hide the others
        return None if self._is_token(cookies.get(self._cookie, "")) else PlainTextResponse(_NO_TOKEN, 403)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())
