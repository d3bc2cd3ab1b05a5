"""Runs the web server: its socket, its address with the token, and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NamedTuple

import uvicorn

from queue_eval.errors import UsageError
from queue_eval.foreign_text import plain
from queue_eval.transport.access import Access
from queue_eval.web.app import Settings, make_app
from queue_eval.web.follow import Followers

DEFAULT_PORT = 8642
_TRIED_PORTS = 50
_BACKLOG = 128
_END_S = 2


class Listening(NamedTuple):
    """A socket at which browsers are heard, and how to name it."""

    socket: socket.socket
    host: str
    port: int
    is_other_port: bool
    """Whether another process has the port that is usual."""

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        address = self.socket.getsockname()[0]
        return bool(ipaddress.ip_address(address.partition("%")[0]).is_loopback)

    def address(self, settings: Settings) -> str:
        """What to open in a browser: it has the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{settings.prefix}/login?token={settings.secrets.token}"


def listen(host: str, port: int | None) -> Listening:
    """Listen at this port, else at the usual one or one of the next that are free. 0: any that is free.

    Raises UsageError for a host that is not of this machine, and for a port that is taken.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host!r} is no address of this machine ({error.strerror})") from error
    ports = [port] if port is not None else range(DEFAULT_PORT, DEFAULT_PORT + _TRIED_PORTS)
    for tried in ports:
        found = _bound(family, (place[0], tried, *place[2:]), host)
        if found is not None:
            own = found.getsockname()[1]
            return Listening(found, _shown(host), own, port is None and own != DEFAULT_PORT)
    taken = f"port {port} is" if port is not None else f"the ports {ports[0]} to {ports[-1]} are"
    raise UsageError(f"{taken} taken on {host}; give another one by --port, or 0 for any that is free")


def serve(access: Access, settings: Settings, listening: Listening, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready()` is called when both have that meaning."""
    with suppress(KeyboardInterrupt):
        WebServer(access, settings, on_ready).run(sockets=[listening.socket])


class WebServer(uvicorn.Server):
    """Ends its streams first when it is told to end: it would wait for them."""

    def __init__(
        self, access: Access, settings: Settings, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        for name in ("uvicorn", "uvicorn.error", "asyncio"):
            logger = plain(logging.getLogger(name))
            if not logger.handlers:
                logger.addHandler(logging.NullHandler())
        self.followers = Followers(access)
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                make_app(self.followers, settings), log_config=None, access_log=False, server_header=False,
                proxy_headers=False, ws="none", http="h11", loop="asyncio",
                timeout_graceful_shutdown=_END_S,
            )
        )  # fmt: skip

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    def end(self) -> None:
        """Let `run` return soon. May be called from any thread."""
        self.followers.stop()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not here: this is a signal handler, and the thread that it interrupts may hold a lock of theirs.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.followers.stop)
        super().handle_exit(sig, frame)


def _bound(family: int, place: tuple[object, ...], host: str) -> socket.socket | None:
    """A socket that listens there; None where another process does."""
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            return None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {place[1]} is not for this account; give one from 1024 on") from error
        raise UsageError(f"cannot listen at {host} ({error.strerror}); give another --host") from error
    return found


def _shown(host: str) -> str:
    """The name under which others reach a socket that listens at this host."""
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - it is compared
