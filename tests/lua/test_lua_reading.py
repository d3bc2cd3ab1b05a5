"""The result stream as a driver follows it, and scripts that the server has forgotten."""

from __future__ import annotations

import threading

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.result_stream import ResultReader, entry_order
from queue_eval.model.states import State
from tests.support.lua_campaign import settlement


@pytest.fixture
def reader(campaign):
    reader = ResultReader(campaign.link, campaign.queue.keys.results, "0-0")
    yield reader
    reader.close()


def finish(campaign, count, body=b"1"):
    campaign.add(count)
    campaign.settle("w1", *(settlement(token, body=body) for token in campaign.lease(room=count)))


def test_a_reader_gets_every_entry_once_and_in_order(campaign, reader):
    assert reader.read(0) == []
    finish(campaign, 5)
    found = reader.read(0, count=2) + reader.read(0, count=2) + reader.read(0, count=2)
    assert found == campaign.results()
    assert sorted(found, key=lambda entry: entry_order(entry.entry)) == found
    assert reader.read(0) == []


def test_a_reader_knows_whether_it_left_something_behind(campaign, reader):
    finish(campaign, 120)
    found = reader.read(0)
    assert reader.may_have_more
    assert len(found) < 120
    found += reader.read(0)
    assert not reader.may_have_more
    assert found == campaign.results()
    assert (reader.read(0), reader.may_have_more) == ([], False)


def test_a_reader_takes_few_large_results_at_a_time(campaign, reader):
    finish(campaign, 120, body=b'"' + b"x" * 400_000 + b'"')
    sizes = []
    while found := reader.read(0):
        sizes.append(len(found))
    assert sum(sizes) == 120
    assert max(sizes[1:]) <= 20


def test_a_reader_wakes_when_something_finishes(campaign, reader):
    found = []
    waiting = threading.Thread(target=lambda: found.extend(reader.read(20)))
    waiting.start()
    finish(campaign, 1)
    waiting.join(10)
    assert [entry.id for entry in found] == [1]


def test_entries_sort_by_time_then_number():
    assert sorted(["10-2", "9-10", "10-10"], key=entry_order) == ["9-10", "10-2", "10-10"]


def test_scripts_the_server_has_forgotten_are_sent_again(campaign):
    campaign.client.script_flush()
    campaign.add(1)
    campaign.client.script_flush()
    assert campaign.lease() == [(1, 1)]


def test_failures_of_one_job_are_found_among_those_of_others(make_campaign):
    campaign = make_campaign(max_attempts=3, retry_first_ms=0)
    campaign.add(3)
    for attempt in (1, 2, 3):
        for token in campaign.lease(room=3):
            campaign.fail("w1", token)
        campaign.make_due()
        assert len(campaign.queue.failures(2)) == attempt
    assert [failure["attempt"] for failure in campaign.queue.failures(2)] == ["1", "2", "3"]
    assert campaign.count(State.FAILED) == 3


def test_two_workers_race_for_the_same_jobs(campaign):
    """Real threads: every job is leased once and recorded once."""
    campaign.queue.repeating = False
    campaign.add(400)
    leased: list[int] = []

    def work(worker: str) -> None:
        queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
        request = 0
        done = []
        while True:
            request += 1
            settled = queue.settle(
                worker, done, lease_ms=60_000, request=str(request), room=5, prefetch=2, now=1000.0
            )
            if not settled.leases:
                return
            done = [settlement((lease.id, lease.attempt)) for lease in settled.leases]
            leased.extend(lease.id for lease in settled.leases)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(leased) == list(range(1, 401))
    assert campaign.count(State.SUCCEEDED) == 400
    campaign.columns().check()
