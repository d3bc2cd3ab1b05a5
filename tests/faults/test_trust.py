"""Damaged keys, refused code, secrets: what must not be run, not be shown, and not stop anybody else."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from queue_eval import Evaluator
from queue_eval.campaign import keys
from queue_eval.campaign.keys import COLUMNS, EXTRA_COLUMNS, Keys
from queue_eval.errors import QueueEvalError, UsageError
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.conftest import end_processes_of
from tests.support.cli import cli, cli_here
from tests.support.damage import DAMAGES, REGISTRIES, Damage
from tests.support.fault_fleet import ROOT, WORK, Fleet, end, wait_registered
from tests.support.marks import long
from tests.support.waiting import wait_until

# Damage -------------------------------------------------------------------------------------------------

SAMPLE = (
    "type of roster", "config garbage", "held by this worker", "a card of other types", "a newer schema",
)  # fmt: skip
"""What is tried without being asked for the rest."""
MANY_ALIKE = ("meta ", "an entry with ")
SOME_OF_THEM = ("meta payload", "meta paused", "meta max_attempts", "an entry with state None")


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    if name in SAMPLE:
        return []
    is_variant = name.startswith(MANY_ALIKE) and name not in SOME_OF_THEM
    return [pytest.mark.soak if is_variant else pytest.mark.long]


@pytest.fixture(scope="module")
def town() -> Iterator[Fleet]:
    """A server, and one worker for all campaigns."""
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        start_server(home, keep=True)
        fleet = Fleet(home, Path(folder))
        try:
            fleet.worker("--name", "w0", lease="2s")
            wait_registered(fleet, "w0")
            with fleet.driver("healthy"):
                yield fleet
        finally:
            fleet.close()
            stop_server(home)
            end_processes_of(home)


def test_every_key_is_damaged_by_some_test():
    for column in (*COLUMNS, *EXTRA_COLUMNS):
        assert f"type of {column}" in DAMAGES


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "damage",
    [pytest.param(damage, id=name, marks=marks_of(name)) for name, damage in DAMAGES.items()],
)
def test_damage_costs_its_own_campaign_at_most(town: Fleet, campaign: str, damage: Damage):
    worker = town.started[0]
    logged = len(town.output_of(worker))
    with town.driver(campaign) as driver, town.driver("healthy") as healthy:
        queue = town.queue(campaign)
        client = queue.link.client
        queue.pause(True)
        driver.submit([town.config(1), town.config(2)])
        before = {key: client.dump(key) for key in REGISTRIES}
        damage.act(client, Keys(campaign))
        try:
            found = outcome(lambda: (queue.pause(False), queue.notify("resume")))
            # The healthy campaign goes on, and the damaged one as far as it can.
            healthy.submit([town.config(campaign)])
            assert [job.state for job in healthy.gather("ALL", timeout=10)] == ["succeeded"]
            if damage.ends is not None:
                assert found is None
                jobs = driver.gather("ALL", timeout=10)
                assert tuple(job.state for job in sorted(jobs, key=lambda job: job.id)) == damage.ends
                for job in jobs:
                    assert job.state == "succeeded" or "damaged" in job.error or "deeply" in job.error
            else:
                outcome(lambda: driver.gather("ALL", timeout=0.1))
            outcome(lambda: again(town, campaign))
            for words in (
                ("status", campaign, "--json"), ("jobs", campaign), ("job", campaign, 1), ("campaigns",),
                ("export", campaign, "--out", town.folder / "out.csv"), ("workers",), ("doctor",),
            ):  # fmt: skip
                done = cli_here(*words, home=town.home)
                assert "unexpected" not in done.stderr, (words, done.stderr)
                assert "Traceback" not in done.stderr, (words, done.stderr)
        finally:
            for key, value in before.items():
                client.delete(key)
                if value is not None:
                    # The worker may have written there since.
                    client.restore(key, 0, value, replace=True)
            client.zrem(keys.CAMPAIGNS, campaign)
            client.delete(*client.keys(f"qe:{{{campaign}}}:*"))
        assert worker.poll() is None
        assert "Traceback" not in town.output_of(worker)[logged:]


def outcome(step) -> QueueEvalError | None:
    """What a step raises on purpose; anything else fails the test."""
    caught = None
    try:
        step()
    except QueueEvalError as error:
        caught = error
    assert len(str(caught).splitlines()) == 1
    return caught


def again(town: Fleet, campaign: str) -> None:
    with town.driver(campaign) as driver:
        driver.history()


@pytest.mark.long
def test_leases_hold_beside_a_damaged_campaign(town: Fleet, campaign: str):
    """The heartbeat of one campaign fails each time; the job of the other outlives three leases."""
    with town.driver(campaign), town.driver("healthy") as healthy:
        queue = town.queue(campaign)
        (job,) = healthy.submit([town.config(campaign, sleep_s=6.0)])
        town.wait_begun(job.id)
        client = queue.link.client
        client.set(queue.keys.column("workers"), "garbage")
        (job,) = healthy.gather("ALL", timeout=30)
        assert (job.state, job.attempts) == ("succeeded", 1)
        client.delete(queue.keys.column("workers"))
        queue.purge()


# What may run -------------------------------------------------------------------------------------------


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


@pytest.mark.long
def test_an_allow_list(fleet: Fleet, campaign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By where a function is defined: an allowed module does not lead to all that it imports."""
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    theirs.mkdir()
    elsewhere.mkdir()
    text = "import os\nfrom os import system\ndef run(config): return config.get('x')\n"
    module(theirs, "allowed_one", text)
    module(theirs, "other_one", text)
    module(elsewhere, "allowed_one", "def run(config): return 'theirs'\n")
    fleet.folder, folder = theirs, fleet.folder
    worker = fleet.worker("--name", "strict", "--allow", "allowed_one")
    wait_registered(fleet, "strict")

    def result(function, name):
        with fleet.driver(f"{campaign}-{name}", function) as driver:
            driver.submit([{"x": 7}])
            (job,) = driver.gather("ALL", timeout=20)
            return job

    # The driver's folder holds a module of the same name; the worker's counts.
    monkeypatch.chdir(elsewhere)
    with pytest.warns(UserWarning, match="are of other code than this driver's"):
        assert result("allowed_one:run", "good").result == 7
    for function in ("allowed_one:system", "allowed_one:os.system"):
        job = result(function, function.replace(":", "-"))
        assert job.state == "failed"
        assert "is defined in module posix, which this worker does not allow" in job.error
    for function, words in (
        ("other_one:run", "module other_one of other_one:run is not allowed on this worker"),
        ("allowed_one_more:run", "module allowed_one_more of allowed_one_more:run is not allowed"),
        (lambda config: 1, "travels by value, which this worker does not allow"),
    ):
        with fleet.driver(f"{campaign}-{abs(hash(words))}", function) as driver:
            driver.submit([{"x": 1}])
            wait_until(lambda words=words: words in (theirs / "worker-0.log").read_text())
            if not isinstance(function, str):
                assert words in refusal_of(driver, "worker strict does not serve campaign")
    refused = json.loads(fleet.cli("workers", "--json").stdout)[0]["refused"]
    assert len(refused) == 3
    assert worker.poll() is None
    fleet.folder = folder


def refusal_of(driver: Evaluator, pattern: str) -> str:
    """What a driver that waits is told of a worker that refuses."""

    def look() -> str | None:
        assert driver.gather("ALL", timeout=1) == []
        return next((str(one.message) for one in told if re.search(pattern, str(one.message))), None)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return str(wait_until(look))


def test_an_allow_list_of_the_environment_permits_code_by_value(fleet: Fleet, campaign: str):
    fleet.worker(QUEUE_EVAL_ALLOW="by-value")
    with fleet.driver(campaign, lambda config: config["x"]) as driver:
        driver.submit([{"x": 3}])
        assert driver.gather("ALL", timeout=20)[0].result == 3


@pytest.mark.parametrize("word", ["", "a b", "os:system", "../x", "a..b"])
def test_what_cannot_be_allowed(word: str, tmp_path: Path):
    done = cli("worker", "--allow", word, home=tmp_path)
    assert done.returncode == 2
    assert "is not a module; give a module, a package" in done.stderr


@pytest.mark.long
def test_altered_code_and_other_campaigns_signatures(fleet: Fleet, campaign: str, tmp_path: Path):
    """Neither a changed payload nor one that was signed for another campaign or name is run."""
    marker = tmp_path / "was run"
    fleet.worker("--name", "w")
    wait_registered(fleet, "w")

    def evil(config, marker=str(marker)):
        import pathlib

        pathlib.Path(marker).touch()

    with fleet.driver(f"{campaign}-source", evil):
        meta = fleet.queue(f"{campaign}-source").meta()
    signed = {name: meta[name] for name in ("payload", "signature", "function")}
    flipped = signed["payload"][:-1] + bytes([signed["payload"][-1] ^ 1])
    attacks = {
        "copied": signed,
        "altered": signed | {"payload": flipped},
        "unsigned": signed | {"signature": b""},
        "long": signed | {"signature": signed["signature"] * 1000},
        "cyrillic": signed | {"signature": "ж".encode() * 64},
    }
    log = fleet.folder / "worker-0.log"
    for name, fields in attacks.items():
        with fleet.driver(f"{campaign}-{name}") as driver:
            queue = fleet.queue(f"{campaign}-{name}")
            queue.pause(True)
            driver.submit([fleet.config(1)])
            revision = int(queue.meta()["revision"]) + 1
            # At once: it is never served as it was before.
            queue.link.client.hset(queue.keys.meta, mapping={**fields, "revision": revision, "paused": 0})
            queue.notify("open")
            wait_until(lambda q=queue: f"campaign {q.campaign} is not served" in log.read_text())
            # A call that was under way may have leased it; then it is given back.
            wait_until(lambda q=queue: q.snapshot().counts["pending"] == 1)
            if name == "cyrillic":
                assert refusal_of(driver, "does not serve .* the signature of .* is not valid")
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(5)])
        assert driver.gather("ALL", timeout=20)[0].result == 5
    assert "Traceback" not in log.read_text()
    assert not marker.exists()


# Who may read what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, *long(0o604, 0o666)])
def test_an_access_file_that_others_can_read(server: Path, tmp_path: Path, mode: int):
    """Driver, worker and command line refuse it, with the command that mends it."""
    home = tmp_path / "home"
    home.mkdir()
    file = home / "access.json"
    file.write_bytes((server / "access.json").read_bytes())
    file.chmod(mode)
    mend = f"close it with: chmod 600 {file}"
    with pytest.raises(UsageError, match=mend):
        Evaluator.create(WORK, "process", {"home": home})
    for words in (("worker",), ("campaigns",), ("run", WORK, "--configs", str(configs(tmp_path)))):
        done = cli(*words, home=home, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) in ((2, 1), (2, 2))
        assert mend in done.stderr
    for words in (("worker",), ("campaigns",)):
        done = cli(*words, "--access", file, home=tmp_path / "other", cwd=tmp_path)
        assert (done.returncode, mend in done.stderr) == (2, True)
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert cli("campaigns", home=home).returncode == 0


def configs(folder: Path) -> Path:
    file = folder / "configs.jsonl"
    file.write_text('{"x": 1}\n{"x": 2}\n')
    return file


PASSWORD, KEY = "pass-Wor4-wh1ch-is-told-nowhere", "k3y-wh1ch-is-told-nowhere"


@pytest.mark.long
def test_no_secret_is_told_anywhere(tmp_path: Path, campaign: str):
    """A whole campaign on a server of others: files, outputs, process lists, and what user code sees."""
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        start_server(home, keep=True)
        access = find_access(None, home)
        link = Link(access, name="test")
        socket = access.url.partition("@")[2].partition("?")[0]
        link.client.acl_setuser(
            "told", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+@all"], keys=["*"], channels=["*"]
        )
        try:
            watch(folder, f"unix://told:{PASSWORD}@{socket}", campaign, tmp_path)
        finally:
            link.close()
            stop_server(home)
            end_processes_of(home)


def watch(folder: str, url: str, campaign: str, tmp_path: Path) -> None:
    client_home = tmp_path / "client"
    secrets = {"QUEUE_EVAL_URL": url, "QUEUE_EVAL_KEY": KEY, "PYTHONPATH": str(ROOT)}
    bare = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_EVAL_")}
    program = [sys.executable, "-P", "-m", "queue_eval"]
    text = "import os\ndef run(config):\n    print(dict(os.environ))\n    1 / config['x']\n"
    module(tmp_path, "shows", text)
    (tmp_path / "configs.jsonl").write_text('{"x": 1}\n{"x": 0}\n')

    def call(*words: str, **more: str) -> str:
        environment = bare | secrets | {"QUEUE_EVAL_HOME": str(client_home)} | more
        done = subprocess.run(
            [*program, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    texts = {}
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [*program, "worker", "--name", "w", "--debug"], cwd=tmp_path, stdout=log, stderr=log,
            env=bare | secrets | {"QUEUE_EVAL_HOME": str(client_home)},
        )  # fmt: skip
    try:
        run = ("run", "shows:run", "--configs", "configs.jsonl", "--campaign", campaign)
        texts["run"] = call(*run, "--out", "results.csv", "--local-workers", "-n", "2", "--debug")
        assert "1 of 2 jobs failed" in texts["run"]
        lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
        assert any(campaign in line for line in lines)  # the local workers
        texts["processes"] = "\n".join(lines)
        for words in (
            ("status", campaign), ("job", campaign, "1", "--json"), ("job", campaign, "2"), ("doctor",),
            ("jobs", campaign, "--json"), ("workers", "--json"), ("campaigns",), ("doctor", "--json"),
            ("export", campaign, "--out", "all.jsonl"),
        ):  # fmt: skip
            texts[" ".join(words)] = call(*words, "--debug")
        # What user code has seen of its environment.
        assert "QUEUE_EVAL_HOME" in texts[f"job {campaign} 1 --json"]
        for wrong in (
            url.replace("told:", "nobody:"), url.replace(".sock", ".none"),
            f"redis://u:{PASSWORD}@127.0.0.1:1", f"http://u:{PASSWORD}@h", f"redis://u:{PASSWORD}@h:x", f"redis://h?password={PASSWORD}",
            f"redis+sentinel://u:{PASSWORD}@127.0.0.1:1/m?sentinel_password={PASSWORD}",
        ):  # fmt: skip
            waits = wrong.startswith("unix:") and wrong.endswith(".none")
            worker_words = [("worker", "--time-limit", "1s")] if waits or "nobody" in wrong else []
            for words in (("campaigns", "--debug"), ("doctor", "--json"), *worker_words):
                texts[f"{words} {wrong}"] = call(*words, QUEUE_EVAL_URL=wrong)
        driver = (
            "import queue_eval, traceback\ntry:\n    queue_eval.Evaluator.create(lambda c: 1)\n"
            "except Exception:\n    traceback.print_exc()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", driver], capture_output=True, text=True, timeout=60, check=False,
            cwd=tmp_path, env=bare | secrets | {"QUEUE_EVAL_URL": url.replace("told:", "nobody:")},
        )  # fmt: skip
        assert "ServerUnreachableError" in done.stderr
        texts["driver"] = done.stdout + done.stderr
    finally:
        assert end(worker, signal.SIGTERM) == 0
        end_processes_of(client_home)
    for place in (tmp_path, Path(folder)):
        for file in place.rglob("*"):
            # The server's own files and its access file are its secrets.
            allowed = ("access.json", "server.json", "server.conf")
            if file.is_file() and file.name not in allowed and "data" not in file.parts:
                texts[str(file)] = file.read_bytes().decode(errors="replace")
    assert any(name.endswith("results.csv") for name in texts)
    assert any("logs/worker-" in name for name in texts)
    for name, text in texts.items():
        for secret in (PASSWORD, KEY):
            assert secret not in text, name.replace(PASSWORD, "***")
