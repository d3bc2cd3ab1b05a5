"""Stands before all routes: asks `access` about each request, and adds the headers that bind the browser."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from queue_eval.web.access import Asked, Refusal, Secrets, refusal

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self'; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATIC = "static/"


class Guard:
    """ASGI middleware. `prefix`: the path below which all routes are; empty, or like ``/eval``."""

    def __init__(self, app: ASGIApp, own: Secrets, *, prefix: str, read_write: bool) -> None:
        self._app = app
        self._own = own
        self._prefix = prefix
        self._read_write = read_write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no route takes a WebSocket; uvicorn refuses what is not accepted
        path: str = scope["path"]
        if path != self._prefix and not path.startswith(f"{self._prefix}/"):
            response: ASGIApp = _refused(Refusal(404, f"nothing is here; look below {self._prefix}/"))
            await response(scope, receive, _with_headers(send, is_kept=False))
            return
        below = path[len(self._prefix) :].lstrip("/")
        asked = Asked(
            scope["method"], below, Headers(scope=scope), scope.get("query_string", b"").decode("latin-1")
        )
        is_kept = below.startswith(_STATIC)
        await self._answer(asked, path)(scope, receive, _with_headers(send, is_kept=is_kept))

    def _answer(self, asked: Asked, path: str) -> ASGIApp:
        if asked.path == "login":
            return self._login(asked)
        refused = refusal(asked, self._own, read_write=self._read_write)
        if refused is not None:
            return _refused(refused, is_page=asked.path == "")
        if path == self._prefix and self._prefix:
            # Relative addresses in a page need the slash. The last part of the path is all that is sure here.
            return RedirectResponse(f"{self._prefix.rpartition('/')[2]}/", 307)
        return self._app

    def _login(self, asked: Asked) -> Response:
        """Exchange the token for a cookie."""
        if asked.method != "GET" or not self._own.is_token(asked.token()):
            sentence = "the token is missing or wrong; open the address that queue-eval web has printed"
            return _refused(Refusal(401, sentence), is_page=True)
        response = RedirectResponse("./", 303)
        # Without a path the cookie is for the folder of this address as the browser sees it: the prefix, also
        # where a proxy has put one in front that nobody has told us.
        response.set_cookie(self._own.cookie, self._own.session, path=None, httponly=True, samesite="strict")
        return response


def _refused(refused: Refusal, *, is_page: bool = False) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    if is_page:
        return PlainTextResponse(f"{refused.sentence}\n", refused.status, headers)
    return JSONResponse({"error": refused.sentence}, refused.status, headers)


def _with_headers(send: Send, *, is_kept: bool) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers["Cache-Control"] = "no-cache" if is_kept else "no-store, no-transform"
        await send(message)

    return send_with_headers
