"""The settings of a server's start: those asked for, else those of the last start, else the defaults."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from queue_eval.errors import UsageError
from queue_eval.machine import host_id
from queue_eval.server.certificates import Certificates, provide, server_names
from queue_eval.server.home import Record, ServerHome, this_node

DEFAULT_PORT = 6379


@dataclass(frozen=True)
class Network:
    """How a server listens to others. A field that is None is as at the last start; at the first start, off.

    `host` adds TCP on that address, at `port` (6379 by default; 0: a free one); "" takes TCP away.
    `advertise` is the name or address in the access files, if it is not `host`. `tls` encrypts, with
    certificates that we make, or with those of `tls_files`. `allow_rq` lets the users `driver` and `worker`
    also use RQ on this server.
    """

    host: str | None = None
    port: int | None = None
    advertise: str | None = None
    tls: bool | None = None
    tls_files: Certificates | None = None
    allow_rq: bool | None = None


def new_record(
    files: ServerHome, last: Record | None, network: Network, fsync: str | None, keep: bool,
    new_secrets: bool = False,
) -> Record:  # fmt: skip
    """The record of a new start, with the settings asked for, else those of `last`, else the defaults.

    Raises UsageError for settings that do not go together, and for TLS files that cannot be used.
    """
    if new_secrets and last is not None:
        last = replace(last, password=secrets.token_hex(24), key="", driver_password="", worker_password="")
    host, port = _address(last, network)
    advertise = network.advertise if network.advertise is not None else (last.advertise if last else "")
    certificates = _certificates(files, last, network, host, advertise)
    allow_rq = network.allow_rq if network.allow_rq is not None else bool(last and last.allow_rq)
    crashed_kept = last is not None and last.phase != "stopped" and last.keep
    return Record(
        phase="starting",
        node=this_node(),
        socket=files.choose_socket(),
        password=last.password if last else secrets.token_hex(24),
        key=files.fitting_key(last.key if last else "", is_group=bool(host), anew=new_secrets),
        host=host,
        port=port,
        fsync=fsync or (last.fsync if last else "always"),
        keep=keep or crashed_kept,
        started_at=time.time(),
        advertise=advertise if host else "",
        tls_cert=certificates.certificate,
        tls_key=certificates.key,
        tls_ca=certificates.authority,
        driver_password=(last and last.driver_password) or (secrets.token_hex(24) if host else ""),
        worker_password=(last and last.worker_password) or (secrets.token_hex(24) if host else ""),
        allow_rq=allow_rq,
        host_id=host_id(),
    )


def _address(last: Record | None, network: Network) -> tuple[str, int]:
    host, port = network.host, network.port
    if host is None and port is not None:
        host = (last.host if last else "") or "127.0.0.1"
    if host is None:
        return (last.host, last.port) if last else ("", 0)
    if not host:
        return "", 0
    if port is None:
        port = last.port if last and last.host else DEFAULT_PORT
    return host, port or _free_port(host)


def _certificates(
    files: ServerHome, last: Record | None, network: Network, host: str, advertise: str
) -> Certificates:
    """The TLS files of the server; all "" without TLS."""
    before = Certificates(last.tls_cert, last.tls_key, last.tls_ca) if last else Certificates("", "", "")
    own = str(files.certificates)
    given = network.tls_files or (before if network.tls is None else None)
    if given is None and not network.tls:
        return Certificates("", "", "")
    if not host:
        if network.tls or network.tls_files:
            raise UsageError("TLS is for servers that listen to others; name an address with --host")
        return Certificates("", "", "")
    if given is None or given.certificate.startswith(own):
        return provide(files.certificates, server_names(host, advertise))
    if given.certificate:
        _check_files(given)
    return given


def _check_files(given: Certificates) -> None:
    for file in filter(None, given):
        try:
            with Path(file).open("rb") as opened:
                is_pem = b"-----BEGIN " in opened.read()
        except OSError as error:
            raise UsageError(f"the TLS file {file} cannot be read ({error.strerror})") from error
        if not is_pem:
            raise UsageError(f"the TLS file {file} is not PEM; convert it with openssl")


def _free_port(host: str) -> int:
    try:
        address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(address[0]) as probe:
            probe.bind(address[4])
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host!r} ({error.strerror}); name an address of this machine"
        ) from error
