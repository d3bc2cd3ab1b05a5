"""A process is killed at every failpoint, one after the other; nothing is lost, and nothing happens twice.

A new point is tried here without being named: as one of workers, spools and results by its first word, else
as one of drivers. One that its scenario never reaches fails.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_eval import failpoints
from queue_eval.campaign import keys
from queue_eval.campaign import scripts as lua
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.failpoints import POINTS, VARIABLE
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.states import State
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import find_access
from tests.support.executor_harness import is_running
from tests.support.failpoint_driver import CANCELLED, COUNT
from tests.support.fault_fleet import ROOT, Fleet, check_all_recorded, end, stop_now, wait_state
from tests.support.marks import long, soak
from tests.support.waiting import wait_until

JOBS = 4


class Attack:
    """A fleet for one campaign, one process of which is to die at a point."""

    def __init__(self, fleet: Fleet, campaign: str, point: str) -> None:
        self.fleet = fleet
        self.campaign = campaign
        self.healer = f"{campaign}-healer"
        self.armed = {VARIABLE: point}

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return self.fleet.worker("--campaign", self.campaign, *arguments, lease="1s", **environment)

    def heal(self) -> subprocess.Popen[str]:
        """A worker that lives on."""
        return self.worker("--name", self.healer)

    def queue(self) -> CampaignCommands:
        return self.fleet.queue(self.campaign)

    def check(self, *, jobs: int, twice: int) -> None:
        """All is recorded, nothing ran more often than deaths explain, and nothing is left."""
        queue = self.queue()
        check_all_recorded(queue, jobs)
        begun = self.fleet.begun()
        assert set(begun) == set(range(1, jobs + 1))
        assert sum(begun.values()) <= jobs + twice
        wait_until(lambda: not list((self.fleet.home / "spool").glob("*")))
        wait_until(lambda: [one.worker for one in queue.snapshot().workers] == [self.healer])
        for worker in self.fleet.started:
            if worker.poll() is None:
                assert end(worker) == 0
        wait_until(lambda: not any(is_running(int(line[2])) for line in self.fleet.lines()))
        assert not queue.snapshot().workers


@pytest.fixture
def attack(server: Path, tmp_path: Path, campaign: str, request: pytest.FixtureRequest) -> Iterator[Attack]:
    fleet = Fleet(server, tmp_path)
    yield Attack(fleet, campaign, request.param)
    fleet.close()


def died(process: subprocess.Popen[str]) -> None:
    """It came to its point."""
    assert process.wait(30) == -signal.SIGKILL


# Scenarios ----------------------------------------------------------------------------------------------


def a_worker_dies(attack: Attack) -> None:
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.config(x, sleep_s=0.05) for x in range(JOBS)])
        died(attack.worker("--idle-timeout", "0.2s", **attack.armed))
        attack.heal()
        jobs = driver.gather("ALL", timeout=30)
        assert sorted(job.result for job in jobs) == list(range(JOBS))
        assert sum(job.attempts for job in jobs) <= JOBS + 1
        attack.check(jobs=JOBS, twice=1)


def a_reporting_worker_dies(attack: Attack) -> None:
    """What the last attempt of each job has told is there, once."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.config(x, report=3) for x in range(JOBS)])
        died(attack.worker("--idle-timeout", "0.2s", **attack.armed))
        attack.heal()
        assert len(driver.gather("ALL", timeout=30)) == JOBS
        for job in range(1, JOBS + 1):
            told = [(report.attempt, report.step) for _, report in attack.queue().reports_of(job)]
            assert len(set(told)) == len(told)
            assert [step for attempt, step in told if attempt == told[-1][0]] == [0, 1, 2]
        attack.check(jobs=JOBS, twice=1)


def a_printing_worker_dies(attack: Attack) -> None:
    """What the next attempt prints is there, and nothing of the one that died."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.gated(say="begun")])
        died(attack.worker(**attack.armed))
        attack.heal()
        wait_until(lambda: attack.queue().live_heads().get(1) == (2, 6))
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=30)) == 1
        assert attack.queue().live_heads() == {}
        attack.check(jobs=1, twice=1)


def a_worker_dies_while_it_gives_back(attack: Attack) -> None:
    """The second SIGTERM releases what runs."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(2)])
        worker = attack.worker(**attack.armed)
        fleet.wait_begun(1)
        stop_now(worker, fleet)
        died(worker)
        fleet.open_gate()
        attack.heal()
        assert len(driver.gather("ALL", timeout=30)) == 2
        attack.check(jobs=2, twice=1)


def a_listening_worker_dies(attack: Attack) -> None:
    """It has taken the marker with it: the others ask all the same."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        armed = attack.worker(**attack.armed)
        if "after" in attack.armed[VARIABLE]:
            wait_until(lambda: attack.queue().snapshot().workers)
            driver.submit([fleet.config(0)])
        died(armed)
        driver.submit([fleet.config(x) for x in range(2)])
        attack.heal()
        assert len(driver.gather("ALL", timeout=30)) == 2 + ("after" in attack.armed[VARIABLE])
    attack.check(jobs=2 + ("after" in attack.armed[VARIABLE]), twice=1)


def a_worker_dies_with_its_spool(attack: Attack) -> None:
    """Its server is away; or it delivers what another one has left."""
    point = attack.armed[VARIABLE]
    fleet = attack.fleet
    folder = fleet.home / "spool"
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(2)])
        delivers, removes = "deliver" in point, "remove" in point
        worker = attack.worker("-n", "2", **({} if delivers else attack.armed))
        fleet.wait_begun(1, 2)
        stop_hard(fleet)
        fleet.open_gate()
        if delivers or removes:
            wait_until(lambda: sum(len(file.read_text().splitlines()) for file in folder.glob("*")) == 2)
        if delivers:
            end(worker, signal.SIGKILL)
        if delivers or removes:
            start_server(fleet.home, keep=True)
        died(attack.worker(**attack.armed) if delivers else worker)
        start_server(fleet.home, keep=True)
        attack.heal()
        assert len(driver.gather("ALL", timeout=30)) == 2
        # What was on disk has not run again.
        attack.check(jobs=2, twice=0 if delivers or removes else 1 if "after" in point else 2)


def stop_hard(fleet: Fleet) -> None:
    from tests.faults.test_workers import kill_server

    kill_server(fleet)


def a_driver_dies(attack: Attack) -> None:
    attack.heal()
    died(run_driver(attack, attack.armed))
    again = run_driver(attack, {})
    output, errors = again.communicate(timeout=40)
    assert again.returncode == 0, errors
    check_driver(json.loads(output), attack.fleet.folder)
    snapshot = attack.queue().snapshot()
    assert snapshot.conserved
    assert (snapshot.last_id, snapshot.outstanding) == (COUNT, 0)


def run_driver(attack: Attack, environment: dict[str, str]) -> subprocess.Popen[str]:
    fleet = attack.fleet
    command = [sys.executable, "-m", "tests.support.failpoint_driver", str(fleet.home), attack.campaign]
    return fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, environment, fleet.folder)


def check_driver(said: dict, folder: Path) -> None:
    """As if it had never been killed."""
    rest = [[x + 1, "succeeded", x, 1] for x in range(COUNT) if x + 1 != CANCELLED]
    assert said == {"jobs": sorted([*rest, [CANCELLED, "cancelled", FAIL_RETURN_VALUE, 0]]), "left": 0}
    with (folder / "results.csv").open() as file:
        assert sorted(int(row["id"]) for row in csv.DictReader(file)) == list(range(1, COUNT + 1))
    assert not list(folder.glob(".results*"))


def a_call_of_the_program_dies(attack: Attack) -> None:
    """It is simply made again."""
    what = attack.armed[VARIABLE].partition("-")[2]
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.config(1, **{"raise": "no"})])
        worker = attack.heal()
        wait_state(attack.queue(), State.FAILED, 1)
        end(worker)
    purge = ["purge", "--yes"]
    words = {"snapshot": ["status"], "purge": purge, "unlist": purge}.get(what, [what])
    command = [sys.executable, "-P", "-m", "queue_eval", *words, attack.campaign, "--home", str(fleet.home)]
    died(fleet._popen(command, subprocess.DEVNULL, subprocess.DEVNULL, attack.armed, fleet.folder))
    again = fleet.cli(*words, attack.campaign)
    if words is purge:
        assert fleet.cli("status", attack.campaign).returncode == 1
        assert not attack_keys(attack)
        # A name may be left behind, which this takes off.
        assert fleet.cli("campaigns", "--prune", "--older-than", "0").returncode == 0
        assert attack.campaign.encode() not in registered(attack)
        return
    assert again.returncode == 0, again.stderr
    if what == "retry":
        attack.heal()
        wait_state(attack.queue(), State.FAILED, 1)
        assert fleet.begun() == {1: 2}
    assert attack.queue().snapshot().paused == (what == "pause")
    assert attack.queue().snapshot().conserved


def a_stopping_call_dies(attack: Attack) -> None:
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.gated(1)])
        attack.heal()
        fleet.wait_begun(1)
        command = [
            sys.executable, "-P", "-m", "queue_eval", "stop", attack.campaign, "--home", str(fleet.home),
        ]  # fmt: skip
        died(fleet._popen(command, subprocess.DEVNULL, subprocess.DEVNULL, attack.armed, fleet.folder))
        assert attack.queue().stops_of([1]) == ["after" in attack.armed[VARIABLE]]
        again = fleet.cli("stop", attack.campaign)
        assert again.returncode == 0, again.stderr
        assert attack.queue().stops_of([1]) == [True]
        fleet.open_gate()
        assert [job.state for job in driver.gather("ALL", timeout=30)] == ["succeeded"]
        assert attack.queue().stops_of([1]) == [False]
        attack.check(jobs=1, twice=0)


def a_viewer_dies(attack: Attack) -> None:
    """What it has read is read again by the next one, or it was kept."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.config(1)])
        attack.heal()
        wait_state(attack.queue(), State.SUCCEEDED, 1)
        code = (
            "import sys; from queue_eval.campaign.commands import CampaignCommands as C;"
            "from queue_eval.transport.access import find_access; from queue_eval.transport.link import Link;"
            "from queue_eval.views.summary import Summary;"
            "link = Link(find_access(None, sys.argv[1]), name='viewer');"
            "queue = C.attach(link, sys.argv[2])[0]; summary = Summary();"
            "[summary.fold(entry) for entry in queue.read_after('0-0')];"
            "queue.keep_summary(summary.cursor, summary.to_bytes())"
        )
        command = [sys.executable, "-P", "-c", code, str(fleet.home), attack.campaign]
        died(fleet._popen(command, subprocess.DEVNULL, subprocess.DEVNULL, attack.armed, fleet.folder))
        kept = attack.queue().kept_summary()
        assert (kept is not None) == ("after" in attack.armed[VARIABLE])
        for _ in range(2):
            assert attack.queue().keep_summary("1-1", b"of less") == (kept is None)
        assert attack.queue().kept_summary() == (kept or b"of less")
        assert json.loads(fleet.cli("status", attack.campaign, "--json").stdout)["counts"]["succeeded"] == 1


def a_planning_driver_dies(attack: Attack) -> None:
    """The total is said, or not; saying it again is harmless."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        code = (
            "import sys; from queue_eval import Evaluator;"
            "Evaluator.attach(sys.argv[2], home=sys.argv[1]).total = 9"
        )
        command = [sys.executable, "-P", "-c", code, str(fleet.home), attack.campaign]
        died(fleet._popen(command, subprocess.DEVNULL, subprocess.DEVNULL, attack.armed, fleet.folder))
        assert driver.total == (9 if "after" in attack.armed[VARIABLE] else None)
        driver.total = 9
        assert attack.queue().snapshot().planned == 9


def attack_keys(attack: Attack) -> list[bytes]:
    with attack.fleet.driver(f"{attack.campaign}-other") as other:
        client = other._session.queue.link.client
        return client.keys(f"qe:{{{attack.campaign}}}*")


def registered(attack: Attack) -> list[bytes]:
    with attack.fleet.driver(f"{attack.campaign}-other") as other:
        return other._session.queue.link.client.zrange(keys.CAMPAIGNS, 0, -1)


def a_closing_driver_dies(attack: Attack) -> None:
    """Its unnamed campaign expires, if it came to note that; never a part of it."""
    fleet = attack.fleet
    program = (
        "from queue_eval import Evaluator\n"
        f"options = {{'home': {str(fleet.home)!r}, 'local_workers': False}}\n"
        "one = Evaluator.create('tests.support.functions:run', 'thread', options)\n"
        "print(one.campaign, flush=True)\n"
        "one.close()\n"
    )
    command = [sys.executable, "-c", program]
    driver = fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, attack.armed, fleet.folder)
    died(driver)
    name = driver.stdout.read().split()[-1]
    assert name.encode() in registered(attack)
    pruned = json.loads(fleet.cli("campaigns", "--prune", "--older-than", "0", "--json").stdout)["pruned"]
    has_noted = "after" in attack.armed[VARIABLE]
    assert (name in [one["campaign"] for one in pruned]) == has_noted
    assert (name.encode() in registered(attack)) != has_noted


def an_attaching_driver_dies(attack: Attack) -> None:
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.gated(1)])
    # It adopts what is outstanding: so the job must not end before.
    program = (
        f"from queue_eval import Evaluator\nwith Evaluator.attach({attack.campaign!r}) as one:\n"
        f"    open({str(fleet.folder / 'gate')!r}, 'w').close()\n"
        "    print(one.gather('ALL')[0].result)\n"
    )
    command = [sys.executable, "-c", program]
    # By its URL, so that it starts no workers.
    access = find_access(None, fleet.home)
    url = {"QUEUE_EVAL_URL": access.url}
    died(fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, attack.armed | url, fleet.folder))
    attack.heal()
    again = fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, url, fleet.folder)
    assert again.communicate(timeout=30)[0].split()[-1] == "1"
    attack.check(jobs=1, twice=0)


def a_hiring_driver_dies(attack: Attack) -> None:
    """The guard that it has taken expires, and its next life starts the worker."""
    fleet = attack.fleet
    with fleet.driver(attack.campaign) as driver:
        driver.submit([fleet.config(1)])
    program = (
        f"from queue_eval import Evaluator\nwith Evaluator.attach({attack.campaign!r}) as one:\n"
        "    print(one.gather('ALL')[0].worker)\n"
    )
    command = [sys.executable, "-c", program]
    home = {"QUEUE_EVAL_HOME": str(fleet.home)}
    died(fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, attack.armed | home, fleet.folder))
    again = fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, home, fleet.folder)
    worker = again.communicate(timeout=40)[0].split()[-1]
    assert fleet.cli("workers", "stop", worker).returncode == 0
    wait_until(lambda: not attack.queue().snapshot().workers)
    assert fleet.begun() == {1: 1}


BY_FIRST_WORD = {"worker": a_worker_dies, "spool": a_worker_dies_with_its_spool}
BY_STEP = {
    "settle": a_worker_dies,
    "extend": a_worker_dies,
    "reclaim": a_worker_dies,
    "loaded": a_worker_dies,
    "report": a_reporting_worker_dies,
    "tell": a_printing_worker_dies,
    "rest": a_worker_dies,
    "release": a_worker_dies_while_it_gives_back,
    "wake": a_listening_worker_dies,
    "attach": an_attaching_driver_dies,
    "hire": a_hiring_driver_dies,
    "enlist": a_hiring_driver_dies,
    "close": a_closing_driver_dies,
    "pause": a_call_of_the_program_dies,
    "purge": a_call_of_the_program_dies,
    "unlist": a_call_of_the_program_dies,
    "retry": a_call_of_the_program_dies,
    "snapshot": a_call_of_the_program_dies,
    "keep_summary": a_viewer_dies,
    "total": a_planning_driver_dies,
    "stop": a_stopping_call_dies,
}


def scenario_of(point: str) -> Callable[[Attack], None]:
    first, _, step = point.partition(".")
    return BY_FIRST_WORD.get(first) or BY_STEP.get(step.partition("-")[2]) or a_driver_dies


QUICK = ("worker.after-run", "server.after-enqueue", "results.before-rename")

# Settlements travel with the second call and those that follow; the first only leases.
_AGAIN = ("server.before-settle@2", "server.after-settle@2", "server.after-settle@3", "worker.after-run@2")
# Before a script nothing has happened yet, whichever it is.
_VARIANTS = ("server.after-settle@3", *(f"server.before-{name}" for name in failpoints.SCRIPTS))
_CALLS = [f"server.after-call@{number}" for number in (2, 7, 16)]


def cases() -> Iterator[object]:
    for point in (*POINTS, *_AGAIN):
        marks = [] if point in QUICK else [pytest.mark.soak if point in _VARIANTS else pytest.mark.long]
        yield pytest.param(point, scenario_of(point.partition("@")[0]), marks=marks, id=point)
    for point in _CALLS:
        marks = [pytest.mark.long if point == _CALLS[0] else pytest.mark.soak]
        yield pytest.param(point, a_worker_dies, marks=marks, id=f"{point}-worker")


@pytest.mark.parametrize(("attack", "scenario"), [*cases()], indirect=["attack"])
def test_killed_at(attack, scenario, own_home):
    if scenario is a_worker_dies_with_its_spool:  # it kills the server, too
        attack.fleet.home = own_home
        start_server(own_home, keep=True)
    scenario(attack)


@pytest.mark.parametrize("point", [*long("server.after-call"), *soak("server.after-read")])
def test_a_driver_killed_at_any_call(server, tmp_path, campaign, point):
    """After the first, after the second, and so on, until there is none left."""
    fleet = Fleet(server, tmp_path)
    try:
        most = 60
        names = [word for number in range(1, most) for word in ("--campaign", f"{campaign}-{number}")]
        fleet.worker(*names)
        command = [sys.executable, "-m", "tests.support.failpoint_driver", str(server), campaign, point]
        process = fleet._popen(command, subprocess.PIPE, subprocess.STDOUT, {}, tmp_path)
        output, _ = process.communicate(timeout=110)
        assert process.returncode == 0, output
        folders = sorted(tmp_path.glob(f"{campaign}-*"))
        assert most > len(folders) > (10 if "call" in point else 2)
        for folder in folders:
            check_driver(json.loads((folder / "out.json").read_text()), folder)
            check_ended(fleet.queue(folder.name))
    finally:
        fleet.close()


def check_ended(queue: CampaignCommands) -> None:
    snapshot = queue.snapshot()
    assert snapshot.conserved
    assert (snapshot.last_id, snapshot.counts[State.SUCCEEDED]) == (COUNT, COUNT - 1)


# The points themselves ----------------------------------------------------------------------------------


def test_every_script_has_its_points():
    files = Path(lua.__file__).parent.glob("*.lua")
    assert sorted(file.stem for file in files if not file.stem.startswith("_")) == sorted(failpoints.SCRIPTS)
    assert len(set(POINTS)) == len(POINTS)


def test_every_point_stands_in_the_code_and_no_other():
    import re

    named = set()
    for folder in ("queue_eval", "workers"):
        for file in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r'failpoints\.reach\(f?"([^"]+)"\)', file.read_text()))
    expanded = {name.replace("{script.name}", script) for name in named for script in failpoints.SCRIPTS}
    assert expanded == set(POINTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "names 'nowhere', which is no failpoint; give one of: server.before-call"),
        ("worker.after-run@0", "give POINT, POINT@TIMES"),
        ("worker.after-run:sing", "give POINT, POINT@TIMES, and :kill or :stop"),
    ],
)
def test_a_point_that_is_none_is_one_clear_error(server, tmp_path, text, words):
    fleet = Fleet(server, tmp_path)
    process = fleet._popen(
        [sys.executable, "-P", "-m", "queue_eval", "campaigns", "--home", str(server)],
        subprocess.DEVNULL, subprocess.PIPE, {VARIABLE: text}, tmp_path,
    )  # fmt: skip
    errors = process.communicate(timeout=30)[1]
    fleet.close()
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert words in errors


def test_stopped_instead_of_killed(server, tmp_path):
    import psutil

    fleet = Fleet(server, tmp_path)
    command = [sys.executable, "-P", "-m", "queue_eval", "campaigns", "--home", str(server)]
    armed = {VARIABLE: "server.after-call:stop"}
    process = fleet._popen(command, subprocess.DEVNULL, subprocess.DEVNULL, armed, tmp_path)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == 0
    fleet.close()
