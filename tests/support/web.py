"""A web server in a thread, and what a browser does with it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from queue_eval.transport.access import find_access
from queue_eval.web.access import Secrets
from queue_eval.web.app import Settings
from queue_eval.web.serve import WebServer, listen
from tests.support.waiting import wait_until

TIMEOUT_S = 20


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.document["error"]


class Browser:
    """Keeps the cookie of a login. `prefix`: what stands before all paths."""

    def __init__(self, port: int, settings: Settings) -> None:
        self.port = port
        self.settings = settings
        self.headers: dict[str, str] = {}

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
        """One request; `_` in the names of headers stands for `-`."""
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        if data is not None:
            sent.setdefault("content-type", "application/json")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)) as connection:
            connection.request(method, self.settings.prefix + path, data, sent)
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())

    def get(self, path: str) -> Any:
        """The document of a path that must be there."""
        reply = self.ask(path)
        assert reply.status == 200, reply
        return reply.document

    def log_in(self) -> Reply:
        reply = self.ask(f"/login?token={self.settings.secrets.token}")
        if "set-cookie" in reply.headers:
            self.headers["cookie"] = reply.headers["set-cookie"].partition(";")[0]
        return reply

    def act(self, campaign: str, **order: Any) -> Reply:
        """An action, as the page sends it."""
        csrf = self.get("/api/session")["csrf"] or ""
        return self.ask(f"/api/c/{campaign}/actions", "POST", order, x_csrf_token=csrf)

    @contextmanager
    def events(self, path: str) -> Iterator[Events]:
        """The events that are pushed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with closing(connection):
            connection.request("GET", self.settings.prefix + path, headers=self.headers)
            sock = connection.sock
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
            events = Events(reply)
            try:
                yield events
            finally:
                with suppress(OSError):  # the server has closed it
                    sock.shutdown(socket.SHUT_RDWR)  # a close alone would wait for the thread that reads
                events.join()


class Events:
    """Reads events in a thread of its own."""

    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self.all: list[tuple[int, str, Any]] = []
        """Number, type and document of each."""
        self.is_over = False
        self._reply = reply
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def newest(self, kind: str) -> Any:
        """The newest document of this type; None where there is none."""
        return next((document for _, found, document in reversed(self.all) if found == kind), None)

    def wait_for(self, kind: str, holds: Any = bool) -> Any:
        """The newest document of this type, once it fulfils a condition."""
        return wait_until(lambda: (found := self.newest(kind)) is not None and holds(found) and found)

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for raw in self._reply:
                line = raw.decode().rstrip("\n")
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    self.all.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                    fields = {}
        except (OSError, ValueError, http.client.HTTPException):
            pass  # the test has closed it
        self.is_over = True


@contextmanager
def web_server(home: Path, **options: Any) -> Iterator[Browser]:
    """A web server of this home, and a browser that has not logged in. `options`: of `Settings`."""
    settings = Settings(Secrets(), **options)
    listening = listen("127.0.0.1", 0)
    access = find_access(None, home)
    assert access is not None
    server = WebServer(access, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening.socket]})
    thread.start()
    try:
        yield Browser(listening.port, settings)
    finally:
        server.end()
        thread.join(TIMEOUT_S)
        listening.socket.close()
        assert not thread.is_alive()
