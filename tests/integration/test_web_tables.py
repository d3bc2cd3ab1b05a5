"""The table of jobs in the browser: the server filters, sorts and cuts it into pages."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

import pytest

from queue_eval.model.states import Outcome
from queue_eval.web import tables
from tests.support.cli import Filled
from tests.support.web import web_server

RATES = [0.3, 0.1, 0.5, 0.2, 0.4, 0.1, 0.9, 0.8, 0.7, 0.6]


@pytest.fixture(scope="module")
def browser(_shared_home):
    with web_server(_shared_home) as browser:
        browser.log_in()
        yield browser


@pytest.fixture
def filled(server, campaign):
    """Ids 1 to 7 have succeeded, but for 3 and 6, which have failed; 8 runs, 9 and 10 wait."""
    filled = Filled(server, campaign)
    filled.submit(
        *({"lr": rate, "net": {"depth": n % 3}, "opt": "ab"[n % 2]} for n, rate in enumerate(RATES, 1))
    )
    for job in range(1, 8):
        if job in (3, 6):
            for _ in range(2):
                filled.run(1, Outcome.ERROR, f"Traceback\nValueError: {job} is odd")
        else:
            filled.run(1, Outcome.OK, json.dumps({"objective": -job, "loss": job / 2}))
    request = f"life-{round(time.time() * 1000)}"  # as workers number them: it tells when a lease began
    filled.queue.settle(
        "box-2", [], lease_ms=60_000, request=request, room=1, prefetch=0, now=time.monotonic()
    )
    yield filled
    filled.queue.purge()
    filled.link.close()


@pytest.fixture
def ask(browser, campaign):
    def ask(*where: str, **query: object) -> dict:
        words = [*query.items(), *(("where", one) for one in where)]
        return browser.get(f"/api/c/{campaign}/jobs?{urlencode(words)}")

    return ask


def ids(page: dict) -> list[int]:
    return [row["id"] for row in page["rows"]]


def all_ids(ask, *where: str, **query: object) -> list[int]:
    """Page after page."""
    found, after = [], ""
    while True:
        page = ask(*where, **query, after=after)
        assert len(page["rows"]) <= int(query["limit"])
        found += ids(page)
        if page["next"] is None:
            return found
        after = page["next"]


def test_the_newest_come_first(ask, filled):
    page = ask()
    assert ids(page) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert (page["total"], page["next"]) == (10, None)


def test_rows_say_what_a_table_needs(ask, filled):
    rows = {row["id"]: row for row in ask()["rows"]}
    done, failed, running, waiting = rows[2], rows[3], rows[8], rows[10]
    assert (done["state"], done["objective"], done["run_s"]) == ("succeeded", -2, 0.02)
    assert done["config"] == {"lr": 0.1, "net.depth": 2, "opt": "a"}
    assert done["finished_ms"] - done["started_ms"] == pytest.approx(20, abs=1)
    assert (failed["cause"], failed["error_line"]) == ("error", "ValueError: 3 is odd")
    assert "objective" not in failed
    assert (running["state"], running["worker"], running["finished_ms"]) == ("running", "box-2", None)
    assert abs(running["started_ms"] - running["submitted_ms"]) < 60_000
    assert (waiting["state"], waiting["worker"], waiting["started_ms"]) == ("pending", None, None)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("succeeded", [7, 5, 4, 2, 1]),
        ("failed", [6, 3]),
        ("running", [8]),
        ("pending", [10, 9]),
        ("cancelled", []),
    ],
)
@pytest.mark.parametrize("few", [0, 20_000])
def test_by_state(ask, filled, monkeypatch, state, found, few):
    monkeypatch.setattr(tables, "_FEW", few)
    assert ids(ask(state=state)) == found
    assert all_ids(ask, state=state, limit=1) == found
    assert ask(state=state)["total"] == len(found)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["lr<0.3"], [6, 4, 2]), (["p:lr<=0.3"], [6, 4, 2, 1]), (["lr<0.3", "state=succeeded"], [4, 2]),
        (["net.depth=2"], [8, 5, 2]), (["opt=a", "lr>0.5"], [10, 8]), (["loss>2"], [7, 5]),
        (["r:objective>=-4"], [4, 2, 1]), (["error~VALUEERROR: 3"], [3]), (["worker=box-2"], [8]),
        (["attempts!=1"], [10, 9, 6, 3]), (["nothing=1"], []), (["lr>x"], []),
    ],
)  # fmt: skip
def test_where(ask, filled, where, found):
    assert ids(ask(*where)) == found
    assert all_ids(ask, *where, limit=1) == found


@pytest.mark.parametrize("limit", [1, 3, 4, 10, 500])
@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("id", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), ("-id", [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("lr", [2, 6, 4, 1, 5, 3, 10, 9, 8, 7]), ("-lr", [7, 8, 9, 10, 3, 5, 1, 4, 2, 6]),
        ("objective", [7, 5, 4, 2, 1, 3, 6, 8, 9, 10]), ("-objective", [1, 2, 4, 5, 7, 3, 6, 8, 9, 10]),
        ("opt", [2, 4, 6, 8, 10, 1, 3, 5, 7, 9]), ("net.depth", [3, 6, 9, 1, 4, 7, 10, 2, 5, 8]),
    ],
)  # fmt: skip
def test_sorted(ask, filled, sort, found, limit):
    assert all_ids(ask, sort=sort, limit=limit) == found


def test_sorted_and_filtered(ask, filled):
    assert all_ids(ask, "opt=b", sort="-lr", limit=2, state="succeeded") == [7, 5, 1]


def test_a_sorted_table_is_of_the_newest(ask, filled, monkeypatch):
    monkeypatch.setattr(tables, "MOST_SORTED", 4)
    page = ask(sort="lr")
    assert ids(page) == [10, 9, 8, 7]
    assert page["note"] == "sorted among the newest 4 of 10 jobs"


@pytest.mark.parametrize(("sort", "found"), [("-objective", [1, 2, 4, 5, 7]), ("objective", [7, 5, 4, 2, 1])])
def test_the_best_are_known_of_all(ask, filled, monkeypatch, sort, found):
    monkeypatch.setattr(tables, "MOST_SORTED", 4)
    for state in ("", "succeeded"):
        assert all_ids(ask, sort=sort, state=state, limit=2) == found
    page = ask(sort=sort, limit=2)
    assert (page["note"], page["total"]) == ("the 5 best of 10 jobs", 10)


def test_a_look_that_takes_too_long_goes_on_with_the_next_page(ask, filled, monkeypatch):
    monkeypatch.setattr(tables, "_LOOK_S", 0)
    monkeypatch.setattr(tables, "_FIRST_PAGE", 2)
    page = ask("lr<0.15", limit=2)
    assert (ids(page), page["next"]) == ([], "9")
    assert all_ids(ask, "lr<0.15", limit=2) == [6, 2]


def test_jobs_of_a_group_of_failures(ask, filled):
    page = ask(group="ValueError: # is odd", state="failed")
    assert (ids(page), page["total"]) == ([6, 3], 2)
    assert ids(ask(group="none")) == []


def test_pages_go_on_while_jobs_come(ask, filled):
    first = ask(limit=4)
    filled.submit({"lr": 1})
    assert ids(first) + ids(ask(limit=10, after=first["next"])) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("state=done", "there is no state 'done'"), ("limit=0", "limit '0' is not valid; give 1 to 500"),
        ("limit=501", "limit '501' is not valid"), ("limit=x", "limit 'x'"),
        ("where=lr", "'lr' is no condition"),
        ("where=%3C3", "is no condition"), ("after=x", "`after` is no cursor"),
        ("after=%5B1%2C2%2C3%5D&sort=lr", "`after` is no cursor"), ("after=%22%22", "`after` is no cursor"),
        ("&".join(["where=a%3D1"] * 21), "21 conditions are too many"),
    ],
)  # fmt: skip
def test_what_no_table_can_answer(browser, filled, campaign, query, words):
    reply = browser.ask(f"/api/c/{campaign}/jobs?{query}")
    assert reply.status == 400
    assert words in reply.error
