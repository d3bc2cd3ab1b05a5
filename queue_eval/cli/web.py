"""`queue-eval web`: a view in a browser."""

from __future__ import annotations

import re

import click

from queue_eval.cli.connect import connected
from queue_eval.cli.failures import complain
from queue_eval.cli.options import server_options
from queue_eval.cli.terminal import say
from queue_eval.errors import MethodUnavailableError, UsageError

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


@click.command("web")
@click.option("--host", default="localhost", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(min=0, max=65535), metavar="PORT",
    help="Port to listen at; 0: any that is free [default: 8642, or the next that is free].",
)
@click.option("--prefix", default="", metavar="PATH", help="Path in front, where a proxy leaves it: /eval.")
@click.option("--read-write", is_flag=True, help="Let the browser stop, cancel and retry jobs, and more.")
@server_options
def web_command(
    host: str, port: int | None, prefix: str, read_write: bool, url: str | None, home: str | None
) -> None:
    """Show campaigns in a browser, live, until Ctrl-C."""
    prefix = prefix.rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"--prefix {prefix!r} is no path; give one like /eval")
    try:
        from queue_eval.web.access import Secrets
        from queue_eval.web.app import Settings
        from queue_eval.web.serve import DEFAULT_PORT, listen, serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise MethodUnavailableError(
            f"the view in a browser needs the package {error.name}; install it with: "
            "pip install 'queue-eval[web]'"
        ) from error
    settings = Settings(Secrets.of_environment(), read_write=read_write, prefix=prefix)
    with connected(url, home, looks=True) as link:
        access = link.access
    listening = listen(host, port)

    def tell() -> None:
        if listening.is_other_port:
            say(f"port {DEFAULT_PORT} is taken; this is port {listening.port}", err=True)
        if not listening.is_private:
            complain(
                "warning: what passes to other machines is not encrypted, the token in the address neither; "
                "rather leave --host out and come by: ssh -L"
            )
        say(f"open {listening.address(settings)}")
        say("jobs can be changed there" if read_write else "it shows; nothing can be changed there")
        say("end it with Ctrl-C")

    serve(access, settings, listening, tell)
