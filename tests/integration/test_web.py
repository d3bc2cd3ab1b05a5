"""The documents of `queue-eval web`: pushed when something changes, read once for all who look."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time

import pytest

from queue_eval.model.moves import Printed
from queue_eval.model.states import Outcome, State
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.web import follower as follower_module
from queue_eval.web.serve import listen
from tests.support.cli import ROOT, Filled, cli, complaint, start_cli
from tests.support.hand_worker import HandWorker
from tests.support.waiting import wait_until
from tests.support.web import web_server


@pytest.fixture(scope="module")
def browser(_shared_home):
    with web_server(_shared_home, read_write=True) as browser:
        browser.log_in()
        yield browser


def finish(filled: Filled, *outcomes: tuple[Outcome, str]) -> None:
    """Submit as many jobs, and let them end like this."""
    filled.submit(*({"x": n, "deep": {"lr": n / 10}} for n, _ in enumerate(outcomes, start=1)))
    for outcome, body in outcomes:
        for _ in range(2 if outcome is Outcome.ERROR else 1):
            filled.run(1, outcome, body, "printed\n")


MIXED = (
    (Outcome.OK, "3"), (Outcome.OK, "9"), (Outcome.OK, "5"), (Outcome.ERROR, "odd 1"),
    (Outcome.ERROR, "odd 2"), (Outcome.ERROR, "even"),
)  # fmt: skip


@pytest.fixture
def mixed(filled):
    """Ids 1 to 3 have succeeded, with 3, 9 and 5; 4 and 5 have failed of one kind, 6 of another."""
    finish(filled, *MIXED)
    return filled


# What is shown ------------------------------------------------------------------------------------------


def test_the_panels(browser, mixed, campaign):
    overview = browser.get(f"/api/c/{campaign}/overview")
    assert overview["counts"]["succeeded"] == 3
    assert overview["best"] == {"id": 2, "key": None, "value": 9.0, "config": {"x": 2, "deep": {"lr": 0.2}}}
    assert [group["line"] for group in overview["failures"]] == ["odd #", "even"]
    assert browser.get(f"/api/c/{campaign}/overview?direction=min")["best"]["id"] == 1
    course = browser.get(f"/api/c/{campaign}/course")
    assert course["best"] == [3, 9, 9, 9, 9, 9]
    assert browser.get(f"/api/c/{campaign}/course?direction=min")["best"][-1] == 3
    sample = browser.get(f"/api/c/{campaign}/sample")
    assert {row["id"] for row in sample["rows"]} == {1, 2, 3}
    assert browser.get(f"/api/c/{campaign}/curves")["curves"] == []
    assert len(browser.get(f"/api/c/{campaign}/slots")["lanes"]) >= 1


def test_the_page_of_a_job(browser, mixed, campaign):
    failed = browser.get(f"/api/c/{campaign}/jobs/4")
    assert (failed["state"], failed["error"], failed["cause"]) == ("failed", "odd 1", "error")
    assert [(one["attempt"], one["outcome"], one["error"]) for one in failed["attempts"]] == [
        (1, "error", "odd 1"), (2, "error", "odd 1"),
    ]  # fmt: skip
    assert failed["attempts"][1]["ended_ms"] >= failed["attempts"][0]["ended_ms"]
    done = browser.get(f"/api/c/{campaign}/jobs/2")
    assert (done["result"], done["output"], done["attempts"][0]["outcome"]) == (9, "printed", "ok")
    assert done["attempts_charged"] == 1
    assert done["reports"]["curves"] == []
    assert done["stop_asked"] is False


def test_what_json_has_no_word_for(browser, filled, campaign):
    finish(filled, (Outcome.OK, '{"score": 1, "nan": NaN}'))
    assert browser.get(f"/api/c/{campaign}/jobs/1")["result"] == {"score": 1, "nan": None}
    assert browser.get(f"/api/c/{campaign}/overview")["keys"] == ["score"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/c/nothing/overview", 404, "there is no campaign 'nothing'"),
        ("/api/c/nothing/events", 404, "there is no campaign 'nothing'"),
        ("/api/c/nothing/jobs", 404, "there is no campaign 'nothing'"),
        ("/api/c/a%20b/overview", 400, "campaign name 'a b' is not valid"),
        ("/api/c/CAMPAIGN/jobs/7", 404, "has no job '7'"),
        ("/api/c/CAMPAIGN/jobs/x", 400, "'x' is no list of job ids"),
        ("/api/c/CAMPAIGN/course?direction=up", 400, "direction 'up' is not valid; give one of max, min"),
        ("/api/c/CAMPAIGN/curves?ids=1,b", 400, "is no list of job ids"),
        ("/api/c/CAMPAIGN/events?panels=all", 400, "there is no panel 'all'; name some of overview"),
        ("/api/nothing", 404, "there is nothing at this address"),
    ],
)
def test_what_is_not_there(browser, mixed, campaign, path, status, words):
    reply = browser.ask(path.replace("CAMPAIGN", campaign))
    assert reply.status == status
    assert words in reply.error


def test_the_list_of_campaigns(browser, mixed, campaign):
    with browser.events("/api/events") as events:
        rows = events.wait_for(
            "campaigns", lambda doc: any(r["campaign"] == campaign for r in doc["campaigns"])
        )
        (row,) = [row for row in rows["campaigns"] if row["campaign"] == campaign]
        assert (row["counts"]["failed"], row["planned"], row["function"]) == (3, 6, "pack.mod:run")
        mixed.submit({"x": 7})
        events.wait_for(
            "campaigns", lambda doc: {r["campaign"]: r for r in doc["campaigns"]}[campaign]["planned"] == 7
        )
    assert browser.get("/api/campaigns")["campaigns"][-1]["campaign"] == campaign


# What is pushed -----------------------------------------------------------------------------------------


def test_a_change_is_shown_within_a_second(browser, mixed, campaign):
    with browser.events(f"/api/c/{campaign}/events") as events:
        assert events.wait_for("overview")["counts"]["succeeded"] == 3
        for kind in ("course", "curves", "slots"):
            events.wait_for(kind)
        took_s = []
        for count in (4, 5, 6):
            finish(mixed, (Outcome.OK, "99"))
            started = time.monotonic()
            events.wait_for("overview", lambda doc, count=count: doc["counts"]["succeeded"] == count)
            took_s.append(time.monotonic() - started)
        assert min(took_s) < 1.2, took_s  # the others share a machine with other tests
        events.wait_for("course", lambda doc: doc["best"][-1] == 99)
        numbers = [number for number, _, _ in events.all]
        assert numbers == sorted(set(numbers))


def test_what_has_not_changed_is_not_sent_again(browser, mixed, campaign):
    with browser.events(f"/api/c/{campaign}/events?panels=overview,course") as events:
        events.wait_for("course")
        mixed.queue.pause(True)
        events.wait_for("overview", lambda doc: doc["paused"])
        mixed.queue.pause(False)
        events.wait_for("overview", lambda doc: not doc["paused"])
        assert [kind for _, kind, _ in events.all] == ["overview", "course", "overview", "overview"]


def test_a_job_is_followed(browser, filled, campaign):
    filled.submit({"x": 1})
    with browser.events(f"/api/c/{campaign}/events?panels=&job=1") as events:
        assert events.wait_for("job")["state"] == "pending"
        (lease,) = filled.settle(room=1)
        running = events.wait_for("job", lambda doc: doc["state"] == "running")
        assert (running["worker"], running["reasons"][0]["kind"]) == ("box-1", "running")
        filled.queue.stop([1])
        events.wait_for("job", lambda doc: doc["stop_asked"] or doc["state"] != "running")
        filled.queue.cancel([1])
        ended = events.wait_for("job", lambda doc: doc["state"] == "cancelled")
        assert ended["reasons"][0]["kind"] == "cancelled"
        assert lease.id == 1
        assert {kind for _, kind, _ in events.all} == {"job"}


@pytest.fixture
def worker(server, filled, campaign):
    worker = HandWorker(server, campaign)
    yield worker
    worker.close()


def test_what_a_running_job_tells_is_shown(browser, filled, worker, campaign):
    filled.submit({"x": 1})
    (lease,) = worker.lease(1)
    with browser.events(f"/api/c/{campaign}/events?panels=curves&job=1") as events:
        events.wait_for("job", lambda doc: doc["state"] == "running")
        printed = Printed(lease.id, lease.attempt, lease.request, 99, b"\x1b[31mepoch 1\n")
        worker.queue.tell(worker.name, [printed])
        worker.report(lease, (1, {"loss": 0.5, "accuracy": 0.1}))
        events.wait_for("job", lambda doc: doc["output"] == "[… 86 bytes before]\nepoch 1")
        events.wait_for("job", lambda doc: doc["reports"]["curves"][0]["points"] == [[1, 0.5]])
        worker.report(lease, (2, {"loss": 0.25, "accuracy": 0.2}))
        curves = events.wait_for("curves", lambda doc: doc["curves"] and len(doc["curves"][0]["points"]) == 2)
        assert (curves["names"], curves["curves"][0]["id"]) == (["loss", "accuracy"], 1)
        browser.act(campaign, action="stop", ids=[1])
        events.wait_for("job", lambda doc: doc["stop_asked"])
        worker.finish(lease, 7, Outcome.STOPPED)
        done = events.wait_for("job", lambda doc: doc["state"] == "succeeded")
        assert (done["result"], done["stopped_early"], done["stop_asked"]) == (7, True, False)
        events.wait_for("curves", lambda doc: doc["curves"] and doc["curves"][0]["state"] == "finished")
    accuracy = browser.get(f"/api/c/{campaign}/curves?ids=1&name=accuracy")
    assert accuracy["curves"][0]["points"] == [[1, 0.1], [2, 0.2]]


def test_viewers_share_one_look(browser, mixed, campaign):
    path = f"/api/c/{campaign}/events"
    with browser.events(path) as one, browser.events(path) as two:
        one.wait_for("slots")
        two.wait_for("slots")
        threads = [thread.name for thread in threading.enumerate()]
        assert threads.count(f"queue_eval-web-{campaign}") == 1
        assert one.newest("overview") == two.newest("overview")


def test_a_follower_ends_after_its_last_viewer(server, mixed, campaign, monkeypatch):
    monkeypatch.setattr(follower_module, "LINGER_S", 0.1)
    name = f"queue_eval-web-{campaign}"

    def is_followed() -> bool:
        return name in {thread.name for thread in threading.enumerate()}

    with web_server(server) as browser:
        browser.log_in()
        with browser.events(f"/api/c/{campaign}/events") as events:
            events.wait_for("overview")
            mixed.submit({"x": 7})
            events.wait_for("overview", lambda doc: doc["planned"] == 7)
            assert is_followed()
        wait_until(lambda: not is_followed())
        assert browser.get(f"/api/c/{campaign}/overview")["planned"] == 7
        wait_until(lambda: not is_followed())


def test_a_purged_campaign(browser, filled, campaign):
    with browser.events(f"/api/c/{campaign}/events") as events:
        events.wait_for("overview")
        filled.queue.purge()
        assert events.wait_for("gone") == {"sentence": f"campaign {campaign!r} was purged"}
        wait_until(lambda: events.is_over)
    assert browser.ask(f"/api/c/{campaign}/events").status == 404
    Filled.__init__(filled, filled.link.access.home, campaign)  # the same name again
    assert browser.get(f"/api/c/{campaign}/overview")["planned"] == 0


def test_a_server_that_goes_away_and_comes_back(own_home, campaign):
    start_server(own_home, keep=True)
    filled = Filled(own_home, campaign)
    finish(filled, *MIXED)
    with web_server(own_home) as browser:
        browser.log_in()
        with browser.events(f"/api/c/{campaign}/events?panels=overview") as events:
            before = events.wait_for("overview")
            stop_server(own_home)
            assert "away" in events.wait_for("away")["sentence"]
            reply = browser.ask(f"/api/c/{campaign}/overview")
            assert (reply.status, "away" in reply.error) == (503, True)
            sent = len(events.all)
            start_server(own_home, keep=True)
            wait_until(lambda: len(events.all) > sent)
            assert events.newest("overview")["counts"] == before["counts"]
            filled.submit({"x": 7})
            events.wait_for("overview", lambda doc: doc["planned"] == 7)
    filled.link.close()


def test_a_browser_that_does_not_read_costs_no_memory(browser, mixed, campaign):
    """Documents of megabytes come, and it takes none of them: the newest ones are kept once, for all."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", browser.port))
        path = f"/api/c/{campaign}/events?panels=overview"
        slow.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {browser.headers['cookie']}\r\n\r\n".encode()
        )
        with browser.events(path) as quick:
            for size in range(1, 6):
                finish(mixed, (Outcome.ERROR, "e" * 100 + str(size)), (Outcome.OK, str(100 + size)))
                quick.wait_for("overview", lambda doc, size=size: doc["best"]["value"] == 100 + size)
            newest = max(number for number, _, _ in quick.all)
        slow.settimeout(20)
        read = b""
        while f"id: {newest}\n".encode() not in read:
            read += slow.recv(65536)


# What is changed ----------------------------------------------------------------------------------------


def test_retry(browser, mixed, campaign):
    reply = browser.act(campaign, action="retry", group="odd #")
    assert reply.document["count"] == 2
    assert reply.document["sentence"].startswith(f"2 jobs of {campaign} retried")
    assert mixed.queue.failed_ids() == [6]
    assert browser.act(campaign, action="retry", ids=[4]).document["count"] == 0
    assert browser.act(campaign, action="retry").document["count"] == 1
    assert mixed.queue.snapshot().counts[State.PENDING] == 3


def test_an_action_is_shown_at_once(browser, mixed, campaign):
    with browser.events(f"/api/c/{campaign}/events?job=4") as events:
        events.wait_for("job", lambda doc: doc["state"] == "failed")
        browser.act(campaign, action="retry", ids=[4])
        events.wait_for("job", lambda doc: doc["state"] == "pending")
        mixed.run(1, Outcome.OK, "42")
        events.wait_for("job", lambda doc: doc["result"] == 42)
        events.wait_for("overview", lambda doc: doc["best"]["value"] == 42)


def test_cancel_stop_pause_and_resume(browser, filled, campaign):
    filled.submit(*({"x": n} for n in range(5)))
    filled.settle(room=1)
    assert browser.act(campaign, action="cancel", ids=[5, 4]).document["count"] == 2
    assert browser.act(campaign, action="stop").status == 200
    assert browser.act(campaign, action="pause").document["sentence"] == f"campaign {campaign} is paused"
    assert "already paused" in browser.act(campaign, action="pause").document["sentence"]
    assert browser.act(campaign, action="resume").status == 200
    assert not filled.queue.snapshot().paused
    assert browser.act(campaign, action="cancel").document["count"] == 3
    assert filled.queue.snapshot().counts[State.CANCELLED] == 5


def test_drain(browser, filled, campaign):
    filled.register("box-1")
    told = browser.act(campaign, action="drain", worker="box-1").document["sentence"]
    assert told == "asked to drain: box-1"
    filled.deregister("box-1")
    reply = browser.act(campaign, action="drain", worker="nobody")
    assert (reply.status, "there is no live worker 'nobody'" in reply.error) == (400, True)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({}, "there is no action"), ({"action": "purge"}, "there is no action 'purge'"),
        ({"action": ["retry"]}, "there is no action"),
        ({"action": "retry", "ids": []}, "ids is a list of 1 to"),
        ({"action": "retry", "ids": ["1"]}, "ids is a list"),
        ({"action": "retry", "ids": [True]}, "ids is a list"),
        ({"action": "cancel", "ids": 1}, "ids is a list"),
        ({"action": "retry", "id": 1}, "has no field 'id'"),
        ({"action": "retry", "ids": [1], "group": "x"}, "not both"),
        ({"action": "cancel", "group": "odd #"}, "only retry takes a group"),
        ({"action": "retry", "group": "none"}, "no job that has failed counts in this group"),
        ({"action": "drain"}, "drain names its worker"), ({"action": "pause", "worker": "w"}, "drain names"),
        ({"action": "pause", "ids": [1]}, "pause takes no ids"),
        ({"action": "retry", "ids": [7]}, "has no job 7"),
        ({"action": "retry", "group": 1}, "are text"),
    ],
)  # fmt: skip
def test_an_action_that_is_none_changes_nothing(browser, mixed, campaign, order, words):
    before = mixed.queue.snapshot()
    reply = browser.act(campaign, **order)
    assert reply.status == 400
    assert words in reply.error
    assert mixed.queue.snapshot().counts == before.counts


def test_what_is_no_json(browser, mixed, campaign):
    csrf = browser.get("/api/session")["csrf"]
    assert browser.ask(f"/api/c/{campaign}/actions", "POST", [1], x_csrf_token=csrf).status == 400
    reply = browser.ask(f"/api/c/{campaign}/actions", "POST", "x" * 2**22, x_csrf_token=csrf)
    assert (reply.status, "larger than" in reply.error) == (400, True)


# Prometheus ---------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_]+)(\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?)')


def test_metrics(browser, mixed, campaign):
    mixed.register("box-1", busy=3)
    reply = browser.ask("/metrics")
    mixed.deregister("box-1")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = reply.body.decode().splitlines()
    values = {}
    for line in lines:
        if line.startswith("# "):
            assert re.fullmatch(
                r"# (HELP queue_eval_[a-z_]+ .+|TYPE queue_eval_[a-z_]+ (gauge|counter))", line
            )
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            values[match[1] + (match[2] or "")] = float(match[3])
    named = f'{{campaign="{campaign}"'
    assert values[f'queue_eval_jobs{named},state="failed"}}'] == 3
    assert values[f"queue_eval_outcomes_total{named}}}"] == 6
    assert values['queue_eval_workers{state="running"}'] >= 1
    assert values["queue_eval_slots_busy"] >= 3
    mixed.queue.retry([4])
    again = browser.ask("/metrics").body.decode()
    assert f"queue_eval_outcomes_total{named}}} 6" in again
    assert f'queue_eval_jobs{named},state="failed"}} 2' in again


# The command --------------------------------------------------------------------------------------------


def test_the_command(server, mixed, campaign, tmp_path):
    with start_cli("web", "--port", "0", home=server, cwd=tmp_path) as process:
        address = process.stdout.readline().removeprefix("open ").strip()
        assert re.fullmatch(r"http://localhost:\d+/login\?token=[\w-]{32}", address)
        assert process.stdout.readline() == "it shows; nothing can be changed there\n"
        assert process.stdout.readline() == "end it with Ctrl-C\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken(server):
    with listen("localhost", 0).socket as taken:
        port = taken.getsockname()[1]
        line = complaint(cli("web", "--port", port, home=server), 2)
    assert f"port {port} is taken on localhost; give another one by --port" in line


def test_the_usual_port_is_taken(monkeypatch):
    first = listen("localhost", None)
    second = listen("localhost", None)
    first.socket.close()
    second.socket.close()
    assert second.port != first.port
    assert second.is_other_port


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "no.such.host.invalid"), "is no address of this machine"),
        (("--host", "192.0.2.1"), "cannot listen at 192.0.2.1"),
        (("--prefix", "a b"), "--prefix 'a b' is no path"),
    ],
)
def test_what_cannot_be_served(server, words, told):
    assert told in complaint(cli("web", *words, home=server), 2)


def test_without_the_extra(server, tmp_path):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')")
    done = cli("web", home=server, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "install it with: pip install 'queue-eval[web]'" in complaint(done, 1)


def test_it_warns_of_a_network(server, tmp_path):
    with start_cli("web", "--port", "0", "--host", "0.0.0.0", home=server, cwd=tmp_path) as process:
        assert process.stdout.readline().startswith("open http://")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert "is not encrypted" in err
