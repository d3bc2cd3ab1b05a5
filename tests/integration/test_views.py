"""The reader of all views, on a real server: what it says is what stands there, whatever has run again."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from queue_eval.errors import ServerRefusedError
from queue_eval.model.states import Outcome, State
from queue_eval.views import reader as module
from queue_eval.views.pace import expected_s, pace_of
from queue_eval.views.reader import CampaignReader
from queue_eval.views.standing import StandingReader
from tests.support.cli import Filled, cli_here, complaint, document
from tests.support.hand_worker import HandWorker


def finish(filled: Filled, *outcomes: tuple[Outcome, str]) -> None:
    """Submit as many jobs, and let them end like this."""
    filled.submit(*({"x": n} for n, _ in enumerate(outcomes)))
    for outcome, body in outcomes:
        for _ in range(2 if outcome is Outcome.ERROR else 1):
            filled.run(1, outcome, body)


@pytest.fixture
def mixed(filled):
    """Ids 1 to 3 have succeeded, with 3, 9 and 5; 4 and 5 have failed of one kind, 6 of another."""
    ok, error = Outcome.OK, Outcome.ERROR
    finish(filled, (ok, "3"), (ok, "9"), (ok, "5"), (error, "odd 1"), (error, "odd 2"), (error, "even"))
    return filled


def run_again(filled: Filled, *jobs: int) -> None:
    """As `retry --source-changed`, which runs again what has succeeded with other code."""
    entries = dict(zip(jobs, filled.queue.index_of(jobs), strict=True))
    assert filled.queue.retry_results(entries) == list(jobs)


def groups(reader: CampaignReader) -> dict[str, int]:
    return {group.title: group.count for group in reader.look().summary.groups.ranked()}


def test_a_look_knows_what_stands_there(mixed):
    reader = CampaignReader(mixed.queue)
    overview = reader.look()
    assert overview.snapshot.finished == 6
    assert overview.unread == 0
    assert overview.summary.best("", 2) == [(2, 9.0), (3, 5.0)]
    assert groups(reader) == {"odd #": 2, "even": 1}


def test_a_failed_job_that_runs_again_counts_no_more(mixed):
    reader = CampaignReader(mixed.queue)
    assert groups(reader) == {"odd #": 2, "even": 1}
    mixed.queue.retry([4, 6])
    assert groups(reader) == {"odd #": 1}
    mixed.run(1, Outcome.OK, "99")
    assert reader.look().summary.best("", 1) == [(4, 99.0)]
    mixed.run(1, Outcome.ERROR, "odd 7")
    mixed.run(1, Outcome.ERROR, "odd 7")
    assert groups(reader) == {"odd #": 2}
    assert reader.look().unread == 0


def test_a_success_that_runs_again_is_not_the_best_any_more(mixed):
    reader = CampaignReader(mixed.queue)
    assert reader.look().summary.best("", 1) == [(2, 9.0)]
    run_again(mixed, 2)
    assert reader.look().summary.best("", 1) == [(3, 5.0)]
    mixed.run(1, Outcome.OK, "4")
    overview = reader.look()
    assert overview.summary.best("", 9) == [(3, 5.0), (2, 4.0), (1, 3.0)]
    assert overview.summary.counts == {State.SUCCEEDED: 3, State.FAILED: 3, State.CANCELLED: 0}


def test_what_ran_again_before_anybody_looked(mixed):
    run_again(mixed, 2, 4)
    mixed.run(2, Outcome.OK, "1")
    overview = CampaignReader(mixed.queue).look()
    assert overview.summary.best("", 1) == [(3, 5.0)]
    assert overview.summary.counts == {State.SUCCEEDED: 4, State.FAILED: 2, State.CANCELLED: 0}
    assert not overview.summary.has_unranked


def test_cancelled_jobs_that_run_again(mixed):
    mixed.submit({"x": 1})
    mixed.queue.cancel([7])
    reader = CampaignReader(mixed.queue)
    assert reader.look().summary.counts[State.CANCELLED] == 1
    mixed.queue.retry([7])
    assert reader.look().summary.counts[State.CANCELLED] == 0
    mixed.run(1, Outcome.OK, "10")
    assert reader.look().summary.best("", 1) == [(7, 10.0)]


# For the next viewer ------------------------------------------------------------------------------------


@pytest.fixture
def kept(mixed, monkeypatch):
    """A viewer has kept what it has read."""
    monkeypatch.setattr(module, "_KEEP_AFTER", 1)
    with closing(CampaignReader(mixed.queue)) as reader:
        reader.look()
    assert mixed.queue.kept_summary() is not None
    return mixed


def reads(filled: Filled, monkeypatch) -> list[str]:
    """The cursors from which a new viewer reads on."""
    cursors = []
    read_until = filled.queue.read_until

    def noted(cursor: str, *arguments):
        cursors.append(cursor)
        return read_until(cursor, *arguments)

    monkeypatch.setattr(filled.queue, "read_until", noted)
    overview = CampaignReader(filled.queue).look()
    assert overview.unread == 0
    assert overview.summary.best("", 1) == [(2, 9.0)]
    return cursors


def test_the_next_viewer_reads_only_what_is_new(kept, monkeypatch):
    assert reads(kept, monkeypatch) == []
    finish(kept, (Outcome.OK, "1"))
    assert len(reads(kept, monkeypatch)) == 1


def test_a_small_campaign_keeps_nothing(mixed):
    with closing(CampaignReader(mixed.queue)) as reader:
        reader.look()
    assert mixed.queue.kept_summary() is None


def test_what_goes_further_is_not_replaced(kept):
    assert not kept.queue.keep_summary("1-1", b"less")
    assert kept.queue.kept_summary() != b"less"


@pytest.mark.parametrize("damage", ["bytes", "type", "uid"])
def test_what_is_damaged_is_read_anew(kept, monkeypatch, damage):
    key = kept.queue.keys.column("summary")
    client = kept.link.client
    if damage == "type":
        client.delete(key)
        client.sadd(key, "x")
    else:
        client.hset(key, "kept" if damage == "bytes" else "uid", b"\x00x")
    assert reads(kept, monkeypatch) == ["0-0"]
    assert kept.queue.keep_summary("9999999999999-0", b"mended")
    assert kept.queue.kept_summary() == b"mended"


def test_a_server_that_has_lost_its_last_second(kept, monkeypatch):
    """The entries that were read last are gone, and so are their jobs' outcomes."""
    client, keys = kept.link.client, kept.queue.keys
    last = client.xrevrange(keys.results, count=1)[0][0]
    client.xdel(keys.results, last)
    client.hdel(keys.index, 6)
    client.srem(keys.column("failed"), 6)
    assert groups(CampaignReader(kept.queue)) == {"odd #": 2}
    assert reads(kept, monkeypatch) == [], "what goes less far has replaced it all the same"


def test_one_who_may_not_write_keeps_nothing(mixed, monkeypatch):
    monkeypatch.setattr(module, "_KEEP_AFTER", 1)
    tries = []

    def refused(*_: object) -> bool:
        tries.append(1)
        raise ServerRefusedError("this user has no permission to run the 'hset' command")

    monkeypatch.setattr(mixed.queue, "keep_summary", refused)
    reader = CampaignReader(mixed.queue)
    for _ in range(3):
        assert reader.look().unread == 0
        finish(mixed, (Outcome.OK, "1"))
    reader.close()
    assert len(tries) == 1


# The pace -----------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_what_is_planned(mixed):
    mixed.queue.set_total(60)
    mixed.submit({"x": 1})
    snapshot = mixed.queue.snapshot()
    assert (snapshot.planned, snapshot.finished) == (60, 6)
    pace = pace_of(mixed.queue, snapshot, [snapshot.now_ms - 60_000, snapshot.now_ms - 30_000], 0)
    assert pace.time_left_s == pytest.approx(54 * 60, rel=0.01)
    mixed.queue.set_total(None)
    assert mixed.queue.snapshot().planned == 7


def test_before_the_first_result_the_running_jobs_are_asked(filled, server, campaign):
    filled.submit(*({"epochs": 10, "n": n} for n in range(4)))
    now_ms = filled.queue.snapshot().now_ms
    began_ms = now_ms - 3_600_000
    with closing(HandWorker(server, campaign)) as worker:
        leases = worker.lease(2)
        held = filled.queue.keys.held(worker.name)
        for lease in leases:
            filled.link.client.hset(held, lease.id, f"{lease.attempt} abc-{began_ms} 1")
        by_age = pace_of(filled.queue, filled.queue.snapshot(), [], 0)
        assert by_age.is_guess
        assert by_age.time_left_s == pytest.approx(3600 + 7200, rel=0.01), "as long again, and two hours more"
        for lease in leases:
            held_as = lease._replace(request=f"abc-{began_ms}")
            assert worker.report(held_as, (8, {"loss": 1.0}), base_ms=began_ms)
        by_steps = pace_of(filled.queue, filled.queue.snapshot(), [], 0)
        assert by_steps.time_left_s == pytest.approx(900 + 4500, rel=0.01)
        filled.queue.pause(True)
        assert pace_of(filled.queue, filled.queue.snapshot(), [], 0).time_left_s is None


def test_how_long_a_job_will_run():
    assert expected_s(60, {"epochs": 10}, 5) == 120
    assert expected_s(60, {"epochs": 10}, None) == 120
    assert expected_s(60, {"max_steps": 100}, 10) == 600
    assert expected_s(60, {"steps": 100, "epochs": 3}, 10) == 120, "it does not tell which"
    assert expected_s(60, {"epochs": 10}, 11) == 120, "no number of steps"
    assert expected_s(60, [], 5) == 120


# What status shows --------------------------------------------------------------------------------------


def test_status_tells_the_best_and_what_failed(mixed, server, campaign):
    shown = cli_here("status", campaign, home=server).stdout
    assert 'best       9, job 2: {"x": 1}' in shown
    assert "2 failed  odd #  (jobs 5, 4)" in shown
    assert "1 failed  even  (job 6)" in shown
    told = document(cli_here("status", campaign, "--json", "--minimize", home=server))
    assert told["best"] == {"id": 1, "key": None, "value": 3.0, "config": {"x": 0}}
    assert [(group["line"], group["count"], group["newest"]) for group in told["failures"]] == [
        ("odd #", 2, [5, 4]), ("even", 1, [6]),
    ]  # fmt: skip
    assert told["read_share"] == 1


def test_the_key_of_the_best(filled, server, campaign):
    finish(filled, (Outcome.OK, '{"loss": 2, "objective": 1}'), (Outcome.OK, '{"loss": 1, "objective": 3}'))
    assert "best       objective=3, job 2" in cli_here("status", campaign, home=server).stdout
    shown = cli_here("status", campaign, "--key", "loss", "--minimize", home=server).stdout
    assert "best       loss=1, job 2" in shown
    why = complaint(cli_here("status", campaign, "--key", "los", home=server), 2)
    assert "no result" in why
    assert "they have: loss, objective" in why


def test_a_total_that_is_not_reached(filled, server, campaign):
    finish(filled, (Outcome.OK, "1"))
    filled.queue.set_total(9)
    assert "total              1 of 9 planned" in cli_here("status", campaign, home=server).stdout
    assert document(cli_here("status", campaign, "--json", home=server))["total"] == 9


def test_what_was_read_in_part_is_told(mixed, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0)
    reader = StandingReader(mixed.queue)
    reader.reader._portion.count = 2
    standing = reader.read(0)
    assert 0 < standing.overview.read_share < 1
    assert standing.pace.rate_per_s is not None
    assert reader.read(5, to_the_end=True).overview.read_share == 1
    assert json.dumps(standing.as_json())
