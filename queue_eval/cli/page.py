"""`queue-eval page`: a campaign as one file for a browser, for a paper or a colleague."""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path

import click

from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.exported_jobs import exported_jobs
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import print_json
from queue_eval.cli.terminal import say
from queue_eval.errors import UsageError
from queue_eval.web.page import page_html
from queue_eval.web.page_documents import Documents, campaign_documents, exported_documents

_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command("page")
@click.argument("campaign", required=False)
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="File to write or replace: .html.")
@click.option(
    "--from", "source", type=_PATH, metavar="FILE",
    help="Read what `export` has written (.csv, .parquet, .jsonl), and no server.",
)  # fmt: skip
@click.option("--key", metavar="NAME", help="The number in the results that is the objective.")
@click.option("--minimize", is_flag=True, help="The lowest is best.")
@server_options
@json_option
def page_command(
    campaign: str | None, out: Path, source: Path | None, key: str | None, minimize: bool, url: str | None,
    home: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write one file that shows a campaign in any browser, without a server or a network.

    With --from, CAMPAIGN is only what the page is called; without it, the file's name is.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{str(out)!r} is no name of a page; give a .html file")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}; create it, or choose another --out")
    direction = "min" if minimize else "max"
    if source is not None:
        if not source.is_file():
            raise UsageError(f"there is no file {source}; give one that queue-eval export has written")
        name = campaign or source.stem
        documents = exported_documents(name, source.name, partial(exported_jobs, source), key, direction)
    elif campaign is not None:
        name, documents = campaign, _of_server(campaign, url, home, key, direction)
    else:
        raise UsageError("no campaign is named; give its name, or a file that was exported: --from FILE")
    text = page_html(name, documents)
    _write(out, text)
    finished = sum(documents["course"]["count"])
    if as_json:
        print_json({"campaign": name, "finished": finished, "out": str(out), "bytes": len(text.encode())})
    else:
        say(f"{name} with {finished} finished job{'' if finished == 1 else 's'} written to {out}; "
            "open it in a browser")  # fmt: skip


def _of_server(
    campaign: str, url: str | None, home: str | None, key: str | None, direction: str
) -> Documents:
    with campaign_queue(campaign, url, home, looks=True) as queue:
        return campaign_documents(queue, key, direction)


def _write(out: Path, text: str) -> None:
    """Replace the file whole."""
    path = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            # Written to disk before it gets its name: a power cut must not leave half a file under that name.
            os.fsync(file.fileno())
        path.replace(out.absolute())
    finally:
        path.unlink(missing_ok=True)
