"""What others have written reaches no terminal as control sequences: commands, logs, warnings, errors."""

from __future__ import annotations

import ast
import io
import logging
import socketserver
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.keys import Keys
from queue_eval.campaign.registry import WorkerCard
from queue_eval.cli import SECTIONS
from queue_eval.cli.progress import open_progress, shown_causes
from queue_eval.errors import DamagedError, QueueEvalError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.machine import machine_id
from queue_eval.user_warning import warn_user
from tests.support.cli import COMMAND, ROOT, Filled, cli_here, filled_campaign, run_on_terminal
from tests.support.forgery import (
    FORGED,
    FORGED_LINES,
    TITLE,
    controls,
    forge_campaign,
    forge_holders,
    forge_whole_key,
    forge_workers,
    unforge_workers,
)
from tests.support.marks import long

SHOWN = r"\x1b]0;FORGED\x07"
"""How the title is shown instead of set."""

CALLS: dict[str, list[tuple[str, ...]]] = {
    "campaigns": [("campaigns",), ("campaigns", "--prune", "--older-than", "0s", "--dry-run")],
    "status": [("status", "CAMPAIGN")],
    "top": [],  # live on a terminal: see test_top
    "jobs": [
        ("jobs", "CAMPAIGN"), ("jobs", "CAMPAIGN", "--where", "state~e", "--sort", "-worker",
         "--columns", "id,worker,x,error"),
    ],
    "job": [("job", "CAMPAIGN", "1"), ("job", "CAMPAIGN", "3"), ("job", "CAMPAIGN", "4")],
    "explain": [("explain", "CAMPAIGN"), ("explain", "CAMPAIGN", "3"), ("explain", "CAMPAIGN", "4")],
    "wait": [("wait", "CAMPAIGN", "--until", "failed")],  # it ends before there is a bar
    "logs": [("logs", "CAMPAIGN", "3"), ("logs", "CAMPAIGN", "1", "5"), ("logs", "CAMPAIGN")],
    "workers": [("workers",), ("workers", "stop", f"loyal{FORGED}"), ("workers", "stop", FORGED_LINES)],
    "export": [
        ("export", "CAMPAIGN", "--out", "out.csv"),
        ("export", "CAMPAIGN", "--table", "attempts", "--out", "out.jsonl"),
        ("export", "CAMPAIGN", "--table", "reports", "--out", "out.csv"),
    ],
    "page": [("page", "CAMPAIGN", "--out", "page.html")],
    "doctor": [("doctor",)],
    "pause": [("pause", "CAMPAIGN")],
    "resume": [("resume", "CAMPAIGN")],
    "stop": [("stop", "CAMPAIGN", "5"), ("stop", "CAMPAIGN")],
    "cancel": [("cancel", "CAMPAIGN", "5")],
    "retry": [("retry", "CAMPAIGN", "3"), ("retry", "CAMPAIGN", "--source-changed")],
    "run": [("run", "os:getpid", "--configs", "configs.jsonl", "--campaign", "CAMPAIGN")],
    "worker": [("worker", "--name", "w", "--campaign", "CAMPAIGN", "--idle-timeout", "1s")],
    "purge": [("purge", "CAMPAIGN"), ("purge", "CAMPAIGN", "--yes")],
    "server": [("server", "status")],
    "web": [],  # it writes nothing but its address; test_web.py looks at its documents
    "chaos": [],  # it reads nothing but a server and a campaign of its own
}
WITHOUT_JSON = ("run", "worker", "purge")
TELLS = ("campaigns", "status", "jobs", "job", "explain", "workers", "doctor", "worker", "run")
"""Commands that show control sequences of others, escaped. `logs` leaves colours and the like out."""


@contextmanager
def forged_campaign(home: Path, campaign: str) -> Iterator[Filled]:
    with filled_campaign(home, campaign) as filled:
        client = filled.link.client
        forge_campaign(client, campaign)
        client.zadd(keys.CAMPAIGNS, {f"campaign{FORGED_LINES}": 1})
        names = forge_workers(client, campaign)
        try:
            yield filled
        finally:
            unforge_workers(client, names)
            client.zrem(keys.CAMPAIGNS, f"campaign{FORGED_LINES}")


def test_every_command_is_called():
    assert CALLS.keys() == {name for section in SECTIONS.values() for name in section}


@pytest.mark.parametrize(
    "command", [*TELLS, *long(*(name for name, calls in CALLS.items() if calls and name not in TELLS))]
)
def test_no_command_passes_control_sequences_to_a_terminal(command, server, campaign, tmp_path):
    (tmp_path / "configs.jsonl").write_text('{"x": 1}\n')
    told = ""
    with forged_campaign(server, campaign):
        for call in CALLS[command]:
            words = [campaign if word == "CAMPAIGN" else word for word in call]
            for more in (["--debug"], *([] if command in WITHOUT_JSON else [["--json"]])):
                _, seen = run_on_terminal(*COMMAND, *words, *more, home=server, cwd=tmp_path, typed="y\n")
                assert seen.strip()
                assert "unexpected" not in seen, seen
                assert controls(seen) == [], (words, seen)
                told += seen
    assert (SHOWN in told) == (command in TELLS), told


LOOKS = (
    ("campaigns",), ("status", "CAMPAIGN"), ("jobs", "CAMPAIGN"), ("job", "CAMPAIGN", 3), ("workers",),
    ("explain", "CAMPAIGN"), ("explain", "CAMPAIGN", 3), ("explain", "CAMPAIGN", 5), ("doctor",),
    ("logs", "CAMPAIGN", 3), ("export", "CAMPAIGN", "--out", "out.csv"),
    ("retry", "CAMPAIGN", "--source-changed"),
)  # fmt: skip


def test_each_key_forged_whole(server, campaign, tmp_path, monkeypatch):
    """Where nothing can be read, it is the errors that tell."""
    monkeypatch.chdir(tmp_path)
    with filled_campaign(server, campaign) as filled:
        client = filled.link.client
        registries = [keys.CAMPAIGNS, keys.WORKERS, keys.NOTICES, keys.DRAIN, keys.worker_key("box-1")]
        own = client.keys(f"qe:{{{campaign}}}:*")
        assert len(own) > 10
        for key in [*own, *(name.encode() for name in registries)]:
            before = client.dump(key)
            forge_whole_key(client, key)
            try:
                for call in LOOKS:
                    words = [campaign if word == "CAMPAIGN" else word for word in call]
                    done = cli_here(*words, home=server)
                    assert controls(done.stdout + done.stderr, colours=False) == [], (key, words, done)
            finally:
                client.delete(key)
                if before is not None:
                    client.restore(key, 0, before)


DRIVER = """
import logging, sys, warnings
from queue_eval import Evaluator, LoggerCallback, TqdmCallback
if sys.argv[2] == "logged":
    logging.basicConfig(level="DEBUG")
warnings.simplefilter("always")
evaluator = Evaluator.attach(sys.argv[1])
callbacks = [LoggerCallback(), TqdmCallback()]
for job in evaluator.history():
    for callback in callbacks:
        callback.on_done(job)
evaluator.gather("ALL", timeout=4)
print("gathered")
"""


@pytest.mark.parametrize("logs", ["logged", *long("plain")])
def test_a_driver_on_a_terminal(server, campaign, tmp_path, logs):
    """What its callbacks print, its warnings and its log."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with forged_campaign(server, campaign):
        status, seen = run_on_terminal(
            sys.executable, str(script), campaign, logs, home=server, TQDM_DISABLE="1", PYTHON_COLORS="0"
        )
        assert controls(seen, colours=False) == [], seen
        assert (status, "gathered" in seen) == (0, True), seen
        assert "UserWarning: worker refuses" in seen
        assert f"failed (error{SHOWN}" in seen


@pytest.mark.long
def test_the_log_of_a_worker_that_buries_another(server, campaign):
    """The dead one has the name that the log tells."""
    dead, machine = f"box-1{FORGED}", machine_id()
    gone = subprocess.Popen(["true"])
    gone.wait()
    card = WorkerCard(name=dead, machine=machine, pid=gone.pid, born=1.0, lease_s=60.0, campaigns=(campaign,))
    with filled_campaign(server, campaign) as filled:
        client = filled.link.client
        forge_holders(client, Keys(campaign))
        client.set(keys.worker_key(dead), card.encode(), ex=60)
        client.hset(keys.machine_key(machine), dead, f"{gone.pid} 1.0")
        try:
            words = ("worker", "--name", "w", "--campaign", campaign, "--idle-timeout", "2s")
            status, seen = run_on_terminal(*COMMAND, *words, home=server)
        finally:
            client.delete(keys.worker_key(dead))
            client.hdel(keys.machine_key(machine), dead)
    assert controls(seen, colours=False) == [], seen
    assert (status, f"took back jobs [4] of {campaign} from box-1{SHOWN}" in seen) == (0, True), seen


def test_errors_and_warnings_are_printable():
    for error in (QueueEvalError(FORGED), UsageError(FORGED_LINES), DamagedError(FORGED)):
        assert SHOWN in str(error)
        assert controls(str(error), colours=False) == []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_user(FORGED_LINES)
    assert controls(str(caught[0].message), colours=False) == []
    assert "\n" not in str(caught[0].message)


class Rude(socketserver.StreamRequestHandler):
    """Answers each line of each command with an error."""

    def handle(self) -> None:
        for line in self.rfile:
            if not line.startswith((b"*", b"$")):
                self.wfile.write(f"-ERR rude {FORGED}\r\n".encode())


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
def test_a_drivers_traceback_shows_no_server_as_it_is(scheme, tmp_path):
    """Also what the error has for its cause."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rude) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
            code = f"from queue_eval import Evaluator\nEvaluator.attach('x', url={url!r})"
            status, seen = run_on_terminal(sys.executable, "-c", code, home=tmp_path, PYTHON_COLORS="0")
        finally:
            server.shutdown()
            thread.join()
    assert controls(seen, colours=False) == [], seen
    assert status == 1
    assert "sentinel" in scheme or f"rude {SHOWN}" in seen, seen


def test_whoever_handles_our_log_records_gets_them_printable():
    kept = io.StringIO()
    handler = logging.StreamHandler(kept)
    handler.setFormatter(logging.Formatter("LOG %(message)s"))
    log = plain(logging.getLogger("queue_eval.a_test_of_logs"))
    log.addHandler(handler)
    log.propagate = False
    try:
        log.warning("from %s: %r", FORGED_LINES, b"x")
        try:
            raise ValueError(FORGED_LINES)
        except ValueError:
            log.exception("of %d", 3)
    finally:
        log.removeHandler(handler)
    lines = kept.getvalue().splitlines()
    assert controls(kept.getvalue(), colours=False) == []
    assert [line for line in lines if not line.startswith("    ")] == [lines[0], "LOG of 3"]
    assert "ValueError" in kept.getvalue()


def test_the_bar_of_run(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    bar = open_progress(2)
    bar.show(1, 1, shown_causes({f"[/red]{FORGED_LINES}": 1}))
    bar.close()
    assert TITLE not in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()
    assert "[/red]" in shown.getvalue()


def test_the_command_line_writes_in_one_module():
    """And every logger of ours is made plain."""
    writers = {"echo", "secho", "confirm", "prompt", "print", "print_exc", "basicConfig", "StreamHandler"}
    for file in (ROOT / "queue_eval" / "cli").glob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        calls = {name_of(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert file.name == "terminal.py" or not calls & writers, file
    for package in ("queue_eval", "workers"):
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text().splitlines():
                assert "getLogger(" not in line or "plain(" in line or "addHandler" in line, (file, line)


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
