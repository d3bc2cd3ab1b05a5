"""`queue-eval server`: start, stop and look at the embedded server."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from queue_eval.cli.terminal import say, say_json
from queue_eval.errors import UsageError
from queue_eval.server.certificates import Certificates
from queue_eval.server.lifecycle import ServerState, server_state, start_server, stop_server
from queue_eval.server.settings import Network
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, home_folder, safe_url

_home_option = click.option(
    "--home", metavar="FOLDER", help="Folder of the server [default: $QUEUE_EVAL_HOME, else .queue_eval]."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group("server")
def server_group() -> None:
    """The bundled Valkey server, in the background."""


@server_group.command("start")
@click.option("--host", metavar="ADDRESS", help="Listen on TCP too, on this address ('' for no longer).")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port, 0 for a free one [default: 6379].")
@click.option("--advertise", metavar="HOST", help="Name or address of this server in access files.")
@click.option("--tls/--no-tls", default=None, help="Encrypt, with certificates made here.")
@click.option("--tls-cert", metavar="FILE", help="Encrypt, with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--tls-ca", metavar="FILE", help="Its authority, if that is not a public one (PEM).")
@click.option("--allow-rq/--no-allow-rq", default=None, help="Let drivers and workers use RQ on it, too.")
@click.option(
    "--fsync",
    type=click.Choice(["always", "everysec"]),
    help="When the log is forced to disk: before each answer, or each second [default: always].",
)
@click.option(
    "--new-secrets", is_flag=True,
    help="New passwords and keys: copies of earlier access files stop working.",
)
@_home_option
def start(
    host: str | None, port: int | None, advertise: str | None, tls: bool | None, tls_cert: str | None,
    tls_key: str | None, tls_ca: str | None, allow_rq: bool | None, fsync: str | None,
    new_secrets: bool, home: str | None,
) -> None:  # fmt: skip
    """Start the server, and keep it until it is stopped.

    Options left out are as at the last start of this home.
    """
    network = Network(host, port, advertise, tls, _tls_files(tls, tls_cert, tls_key, tls_ca), allow_rq)
    before = server_state(home)
    access = start_server(home, network=network, fsync=fsync, keep=True, new_secrets=new_secrets)
    after = server_state(home)
    if before.pid is None:
        folder = home_folder(home)
        say(f"server started: {_where(after)}")
        say(f"access file: {folder / ACCESS_FILE}")
        if (folder / WORKER_ACCESS_FILE).exists():
            say(f"access file for workers: {folder / WORKER_ACCESS_FILE}")
        return
    say(f"server already running: {_where(after)}")
    if network != Network() or fsync is not None:
        say(f"its settings stay ({safe_url(access.url)}); stop it first to change them", err=True)


def _tls_files(
    tls: bool | None, certificate: str | None, key: str | None, authority: str | None
) -> Certificates | None:
    """The user's own files. Raises UsageError when one is missing, or --tls is given, too."""
    if certificate is None and key is None and authority is None:
        return None
    if tls is not None:
        raise UsageError("--tls makes certificates, --tls-cert brings one; give one of them")
    if certificate is None or key is None:
        raise UsageError("a certificate of your own takes both --tls-cert and --tls-key")
    # Paths are made absolute: the server runs in another folder.
    files = (certificate, key, authority)
    return Certificates(*(str(Path(file).expanduser().absolute()) if file else "" for file in files))


@server_group.command("stop")
@_home_option
def stop(home: str | None) -> None:
    """Stop the server; its data, password and key are kept for the next start."""
    folder = home_folder(home)
    if stop_server(home):
        say(f"server stopped; its data stays in {folder / 'data'}")
    else:
        say(f"no server was running in {folder}")


@server_group.command("status")
@_home_option
@_json_option
@click.pass_context
def status(context: click.Context, home: str | None, as_json: bool) -> None:
    """Say whether the server runs; exit status 1 if it does not."""
    state = server_state(home)
    if as_json:
        document = asdict(state) | {"home": str(home_folder(home))}
        document["started_at"] = state.started_at and state.started_at.isoformat()
        say_json(json.dumps(document))
    elif state.state == "running":
        say(f"server running: {_where(state)}")
    else:
        reason = "not running (stopped for want of work)" if state.unneeded else _REASONS[state.state]
        say(f"server {reason}: {home_folder(home)}")
    if state.state != "running":
        context.exit(1)


_REASONS = {
    "crashed": "not running (it ended without being stopped; start it again)",
    "stopped": "not running (stopped)",
    "absent": "not running (never started)",
}


def _where(state: ServerState) -> str:
    since = f", since {state.started_at:%Y-%m-%d %H:%M:%S} UTC" if state.started_at else ""
    until = "until stopped" if state.keep else "until unneeded"
    place = f"pid {state.pid}" if state.pid else f"on {state.node}"
    tls = ", TLS" if state.tls else ""
    return f"{state.url} ({place}{tls}, fsync {state.fsync}, kept {until}{since})"
