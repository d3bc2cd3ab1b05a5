"""The routes of `queue-eval web`. All answers but the page and its files are JSON, errors too.

Calls to the server block, so they run in threads. What many viewers want comes from a follower, which reads
it once for all of them (`follow`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from queue_eval import __version__
from queue_eval.errors import (
    CampaignNotFoundError,
    QueueEvalError,
    ServerError,
    ServerUnreachableError,
    UsageError,
)
from queue_eval.web import metrics
from queue_eval.web.access import Secrets
from queue_eval.web.actions import carry_out, parse_order
from queue_eval.web.follow import LIST, CampaignFollower, Followers
from queue_eval.web.follower import Follower
from queue_eval.web.guard import Guard
from queue_eval.web.pushed import EventStream, to_json
from queue_eval.web.tables import JobTable, parse_question
from queue_eval.web.topics import AWAY, Topic, ids_of, pushed_topics, topic_of

STATIC = Path(__file__).parent / "static"

MOST_STREAMS = 100
"""So many browsers are pushed to at once."""

_MOST_BODY_BYTES = 2**21
_TABLES_AT_ONCE = 2
_COMPRESSED_FROM_BYTES = 1024

T = TypeVar("T")


class Settings(NamedTuple):
    """How a web server was started."""

    secrets: Secrets
    read_write: bool = False
    prefix: str = ""
    """The path below which all routes are, like ``/eval``; empty for none."""
    static: Path = STATIC


def make_app(followers: Followers, settings: Settings) -> ASGIApp:
    """The application. It ends the followers when it ends."""
    site = _Site(followers, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await run_sync(followers.close)

    routes = [
        Route("/", site.index),
        Mount("/static", StaticFiles(directory=settings.static, check_dir=False)),
        Route("/metrics", site.metrics),
        Route("/api/session", site.session),
        Route("/api/campaigns", site.campaigns),
        Route("/api/events", site.list_events),
        Route("/api/c/{name}/events", site.events),
        Route("/api/c/{name}/jobs", site.jobs),
        Route("/api/c/{name}/jobs/{id}", site.job),
        Route("/api/c/{name}/actions", site.act, methods=["POST"]),
        *(
            Route(f"/api/c/{{name}}/{kind}", site.panel(kind))
            for kind in ("overview", "course", "sample", "curves", "slots")
        ),
    ]
    if settings.prefix:
        routes = [Mount(settings.prefix, routes=routes)]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={
            QueueEvalError: _failed, HTTPException: _not_there, Exception: _unexpected,
        },
    )  # fmt: skip
    app.router.redirect_slashes = False  # it would answer with an address that a proxy hides
    compressed = GZipMiddleware(app, minimum_size=_COMPRESSED_FROM_BYTES, compresslevel=6)
    return Guard(compressed, settings.secrets, prefix=settings.prefix, read_write=settings.read_write)


class _Site:
    """What is behind the routes."""

    def __init__(self, followers: Followers, settings: Settings) -> None:
        self._followers = followers
        self._settings = settings
        self._streams = 0
        self._tables = anyio.CapacityLimiter(_TABLES_AT_ONCE)

    async def index(self, _: Request) -> Response:
        page = self._settings.static / "index.html"
        if not page.is_file():
            raise HTTPException(404, "this build has no pages; the documents are below api/")
        return FileResponse(page)

    async def session(self, _: Request) -> Response:
        own = self._settings
        csrf = own.secrets.csrf if own.read_write else None
        return JSONResponse({"read_write": own.read_write, "csrf": csrf, "version": __version__})

    async def campaigns(self, _: Request) -> Response:
        return _json(await run_sync(lambda: self._followers.of_list().document()))

    async def metrics(self, _: Request) -> Response:
        text = await run_sync(lambda: self._followers.of_list().metrics())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    def panel(self, kind: str) -> Callable[[Request], Any]:
        """The route of one kind of document."""

        async def show(request: Request) -> Response:
            topic = topic_of(kind, request.query_params)
            name = request.path_params["name"]
            return _json(await run_sync(lambda: self._followers.of(name).document(topic)))

        return show

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        question = parse_question(
            query.get("state", ""), query.getlist("where"), query.get("sort", ""), query.get("limit", ""),
            query.get("after", ""),
        )  # fmt: skip
        group = query.get("group")

        def answer() -> Any:
            follower = self._follower(request)
            ids = None if group is None else follower.read(lambda: follower.documents.failed_of(group))
            table = JobTable(follower.read(lambda: follower.queue))
            return table.answer(
                question, lambda direction: follower.read(lambda: follower.documents.best_of(direction)), ids
            )

        return _json(await run_sync(answer, limiter=self._tables))

    async def job(self, request: Request) -> Response:
        ids = ids_of(request.path_params["id"])
        topic = topic_of("job", {**request.query_params, "job": str(ids[0]) if ids else ""})
        found = await run_sync(lambda: self._follower(request).document(topic)) if ids else None
        if found is None:
            raise CampaignNotFoundError(
                f"campaign {request.path_params['name']!r} has no job {request.path_params['id']!r}"
            )
        return _json(found)

    async def events(self, request: Request) -> Response:
        topics = pushed_topics(request.query_params)
        return await self._stream(self._follower(request), topics)

    async def list_events(self, _: Request) -> Response:
        return await self._stream(self._followers.of_list(), {LIST, AWAY})

    async def act(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise UsageError("an action is sent as application/json")
        order = parse_order(await _body(request))

        def carry() -> Any:
            follower = self._follower(request)

            def failed_of(line: str) -> list[int]:
                return follower.read(lambda: follower.documents.failed_of(line))

            try:
                return carry_out(order, follower.read(lambda: follower.queue), failed_of)
            finally:
                follower.poke()

        return _json(await run_sync(carry))

    def _follower(self, request: Request) -> CampaignFollower:
        return self._followers.of(request.path_params["name"])

    async def _stream(self, follower: Follower, topics: set[Topic]) -> Response:
        if self._streams >= MOST_STREAMS:
            raise ServerUnreachableError(f"{MOST_STREAMS} pages are open already; close some of them")
        subscription = follower.publisher.subscribe(topics)
        self._streams += 1

        def end() -> None:
            self._streams -= 1
            subscription.close()

        try:
            follower.poke()
            await run_sync(follower.wait_until_ready)
        except BaseException:
            end()
            raise
        return EventStream(subscription, end)


async def _body(request: Request) -> Any:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY_BYTES:
            raise UsageError(f"the request is larger than {_MOST_BODY_BYTES} bytes; name fewer jobs")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the request is no JSON") from None


def _json(document: Any) -> Response:
    return Response(to_json(document), media_type="application/json")


def _error(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)


async def _failed(_: Request, error: Exception) -> Response:
    if isinstance(error, CampaignNotFoundError):
        return _error(404, str(error))
    return _error(503 if isinstance(error, ServerError) else 400, str(error))


async def _not_there(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "there is nothing at this address" if error.detail == "Not Found" else error.detail
    return _error(error.status_code, sentence)


async def _unexpected(_: Request, error: Exception) -> Response:
    return _error(500, f"unexpected {type(error).__name__}: {error}")
