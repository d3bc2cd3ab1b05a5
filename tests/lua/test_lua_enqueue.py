"""open and enqueue: a campaign and its jobs come into being, once each."""

from __future__ import annotations

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import batches
from queue_eval.campaign.scripts import script
from queue_eval.errors import CampaignConflictError, CampaignNotFoundError, ServerRefusedError, UsageError
from queue_eval.model.moves import Submission
from queue_eval.model.states import State
from tests.support.lua_campaign import FIELDS, ids, submission

# open


def reopen(campaign, accept=False, **fields):
    return CampaignCommands.open(campaign.link, campaign.name, FIELDS | fields, accept_change=accept)[1]


def test_open_creates_then_continues(campaign):
    campaign.add(3)
    campaign.ok("w1", campaign.lease()[0])
    opened = reopen(campaign, source="s2", options='{"a":1}')
    assert not opened.created
    assert opened.uid == campaign.queue.uid
    assert (opened.last_id, opened.finished, opened.outstanding) == (3, 1, 2)
    assert (opened.function, opened.method, opened.source) == ("module:run", "thread", "s1")
    assert opened.tail == campaign.results()[-1].entry
    assert opened.opened_ms >= opened.created_ms
    assert reopen(campaign).source == "s2"


def test_a_new_campaign_is_empty_and_registered(campaign):
    opened = campaign.queue.standing()
    assert (opened.last_id, opened.finished, opened.tail, opened.retried) == (0, 0, "0-0", 0)
    assert campaign.client.zscore("qe:campaigns", campaign.name) == opened.created_ms


def test_open_repeated_is_the_same_campaign(link):
    arguments = ("qe-uid", "1", 0, "function", "f", "method", "m")
    keys = CampaignCommands(link, "repeated", "").keys.columns
    first = link.run_script(script("open"), keys, *arguments)
    again = link.run_script(script("open"), keys, *arguments)
    assert (first[0], again[0]) == (b"created", b"opened")
    assert first[1:4] == again[1:4]


@pytest.mark.parametrize("change", [{"function": "module:other"}, {"method": "process"}])
def test_another_function_or_method_is_a_conflict(campaign, change):
    before = campaign.columns().meta
    with pytest.raises(CampaignConflictError, match=r"module:run.*thread"):
        reopen(campaign, **change)
    assert campaign.columns().meta == before
    reopen(campaign, accept=True, **change)
    field, value = next(iter(change.items()))
    assert campaign.queue.meta()[field] == value.encode()


def test_another_schema_is_refused_even_when_changes_are_accepted(campaign):
    campaign.client.hset(campaign.queue.keys.meta, "schema", "0")
    before = campaign.columns().meta
    with pytest.raises(ServerRefusedError, match="version 0"):
        reopen(campaign, accept=True)
    with pytest.raises(ServerRefusedError, match="'0'"):
        CampaignCommands.attach(campaign.link, campaign.name)
    assert campaign.columns().meta == before


def test_attach_needs_an_existing_campaign(campaign):
    assert CampaignCommands.attach(campaign.link, campaign.name)[0].uid == campaign.queue.uid
    with pytest.raises(CampaignNotFoundError, match="no campaign 'missing'"):
        CampaignCommands.attach(campaign.link, "missing")
    with pytest.raises(UsageError):
        CampaignCommands.attach(campaign.link, "no such name")


# enqueue


def test_ids_count_from_one_and_configs_are_stored(campaign, anything):
    odd = Submission(anything, b"\x00\xff fingerprint:1")
    reply = campaign.send([odd, submission({"x": 1})])
    assert [(job.id, job.entry) for job in reply.jobs] == [(1, None), (2, None)]
    assert reply.fence is None
    assert campaign.queue.configs_of([1, 2, 3]) == [
        (reply.now_ms, anything),
        (reply.now_ms, b'{"x": 1}'),
        None,
    ]
    assert campaign.settle("w1", room=1).leases[0].config == anything


def test_an_empty_batch_changes_nothing(campaign):
    assert campaign.enqueue().jobs == []
    assert campaign.enqueue(reuse=True).jobs == []
    assert campaign.queue.snapshot().last_id == 0
    assert not campaign.take_marker()


def test_first_in_first_out_within_a_priority(campaign):
    low = campaign.add(2, priority=-5)
    normal = campaign.add(2)
    high = campaign.add(2, priority=7)
    assert ids(campaign.lease(room=6)) == high + normal + low


@pytest.mark.parametrize("priority", [2**15 - 1, 1 - 2**15])
def test_extreme_priorities_keep_the_order(campaign, priority):
    jobs = campaign.add(3, priority=priority)
    other = campaign.add(1, priority=priority - (1 if priority > 0 else -1))
    assert ids(campaign.lease(room=4)) == (jobs + other if priority > 0 else other + jobs)


def test_delayed_jobs_are_scheduled_then_promoted_by_priority(campaign):
    late, later = campaign.add(1, delay_ms=60_000) + campaign.add(1, delay_ms=60_000, priority=3)
    now = campaign.add(1)[0]
    assert campaign.state(late) == campaign.state(later) == State.SCHEDULED
    assert 59_000 < campaign.delay_of(late) <= 60_000
    settled = campaign.settle("w1", room=3)
    assert [lease.id for lease in settled.leases] == [now]
    assert settled.next_due_ms is not None
    assert 59_000 < settled.next_due_ms - settled.now_ms <= 60_000
    campaign.make_due()
    assert ids(campaign.lease(room=3)) == [later, late]


def test_more_than_a_page_falls_due_at_once(campaign):
    jobs = campaign.add(1500, delay_ms=60_000)
    campaign.make_due()
    campaign.queue.repeating = False
    settled = campaign.settle("w1")
    assert settled.next_due_ms is not None
    assert settled.next_due_ms <= settled.now_ms, "the worker is told to come again at once"
    assert campaign.count(State.PENDING) == 1000
    assert sorted(ids(campaign.lease(room=2000))) == jobs


def test_a_lost_reply_adds_nothing_twice(campaign):
    first = campaign.queue.enqueue("d", 100, [submission({"x": 1})] * 3, reuse=False)
    again = campaign.queue.enqueue("d", 100, [submission({"x": 1})] * 3, reuse=False)
    assert [job.id for job in first.jobs] == [job.id for job in again.jobs] == [1, 2, 3]
    assert campaign.queue.enqueue("d", 101, [submission({"x": 1})], reuse=False).jobs[0].id == 4
    assert campaign.queue.enqueue("other", 101, [submission({"x": 1})], reuse=False).jobs[0].id == 5


def test_a_call_that_was_held_up_on_the_way_adds_nothing(campaign):
    """Its connection was given up, it was sent again, and later ones followed before it arrived."""
    for sequence in (9, 10):
        campaign.queue.enqueue("d", sequence, [submission({"x": 1})], reuse=False)
    campaign.queue.enqueue("d", 9, [submission({"x": 1})], reuse=False)
    assert campaign.queue.snapshot().last_id == 2


def test_a_big_batch_exceeds_what_unpack_holds(campaign):
    campaign.queue.repeating = False
    many = [submission({"x": i}) for i in range(10_000)]
    assert [job.id for job in campaign.send(many, priority=1).jobs] == list(range(1, 10_001))
    joined = campaign.send(many, reuse=True)
    assert [job.id for job in joined.jobs] == list(range(1, 10_001))
    assert campaign.queue.snapshot().counts[State.PENDING] == 10_000


def test_batches_bound_number_and_size():
    small = [submission({"x": i}) for i in range(2500)]
    assert [len(batch) for batch in batches(small)] == [1000, 1000, 500]
    big = [Submission("x" * 2**20, b"f")] * 9
    assert [len(batch) for batch in batches(big)] == [4, 4, 1]
    big_tags = [Submission("{}", b"f", tag="x" * 2**20)] * 9
    assert [len(batch) for batch in batches(big_tags)] == [3, 3, 3]


# tags


def tags_of(campaign):
    return campaign.client.hgetall(campaign.queue.keys.column("tags"))


def test_tags_are_kept_by_id(campaign, anything):
    campaign.send([submission(1)._replace(tag=anything), submission(2), submission(3)._replace(tag="3")])
    campaign.enqueue(4)
    assert tags_of(campaign) == {b"1": anything, b"3": b"3"}
    assert campaign.columns().meta[b"extras"] == b"1"


def test_a_campaign_without_tags_has_none(campaign):
    campaign.enqueue(1, 2)
    campaign.enqueue(1, 2, reuse=True)
    assert tags_of(campaign) == {}
    assert b"extras" not in campaign.columns().meta


def test_a_joined_job_tells_its_tag_and_takes_another_one(campaign):
    campaign.send([submission(1)._replace(tag='"a"'), submission(2)], reuse=True)
    joined = campaign.send([submission(1), submission(2), submission(3)], reuse=True)
    assert [(job.id, job.tag) for job in joined.jobs] == [(1, b'"a"'), (2, b""), (3, b"")]
    again = campaign.send([submission(c)._replace(tag=f'"{c}"') for c in (2, 1, 4)], reuse=True)
    assert [(job.id, job.tag) for job in again.jobs] == [(2, b'"2"'), (1, b'"1"'), (4, b"")]
    assert tags_of(campaign) == {b"1": b'"1"', b"2": b'"2"', b"4": b'"4"'}


def test_a_repeat_that_is_late_changes_no_tag(campaign):
    one = [submission(1)._replace(tag="1")]
    for sequence in (9, 10):
        campaign.queue.enqueue("d", sequence, one, reuse=False)
    campaign.queue.enqueue("d", 9, [submission(1)._replace(tag="2")], reuse=False)
    assert tags_of(campaign) == {b"1": b"1", b"2": b"1"}


def test_10_000_tags_in_one_call(campaign):
    campaign.queue.repeating = False
    many = [submission({"x": i})._replace(tag=str(i)) for i in range(10_000)]
    campaign.send(many, reuse=True)
    assert len(tags_of(campaign)) == 10_000
    assert [job.tag for job in campaign.send(many, reuse=True).jobs] == [b"%d" % i for i in range(10_000)]


def test_purge_takes_the_tags_along(campaign):
    campaign.send([submission(1)._replace(tag="1")])
    campaign.queue.purge()
    assert tags_of(campaign) == {}


# reuse


def occurrences(*configs):
    """Submissions that count their occurrences as one life of a driver does."""
    seen: dict[str, int] = {}
    counted = []
    for config in configs:
        seen[str(config)] = seen.get(str(config), 0) + 1
        counted.append(submission(config, seen[str(config)]))
    return counted


def joined_ids(campaign, *configs):
    return [job.id for job in campaign.send(occurrences(*configs), reuse=True).jobs]


def test_reuse_joins_the_kth_job_of_an_equal_config(campaign):
    assert joined_ids(campaign, 1, 2, 1, 1) == [1, 2, 3, 4]
    assert joined_ids(campaign, 1, 1) == [1, 3]
    assert joined_ids(campaign, 2, 2, 1, 1, 1, 1) == [2, 5, 1, 3, 4, 6]
    assert joined_ids(campaign, 2, 2) == [2, 5]


def test_reuse_counts_jobs_submitted_without_it(campaign):
    assert [job.id for job in campaign.enqueue(1, 1, 2).jobs] == [1, 2, 3]
    assert joined_ids(campaign, 1, 1, 1, 2) == [1, 2, 4, 3]
    assert [job.id for job in campaign.enqueue(1, 2).jobs] == [5, 6]
    assert joined_ids(campaign, 1, 1, 1, 1, 2, 2) == [1, 2, 4, 5, 3, 6]


def test_joining_a_finished_job_gives_its_entry(campaign):
    joined_ids(campaign, 1, 2, 3)
    campaign.ok("w1", campaign.lease()[0])
    campaign.fail("w1", campaign.lease()[0])
    reply = campaign.send(occurrences(1, 2, 3), reuse=True)
    entries = [entry.entry for entry in campaign.results()]
    assert [job.entry for job in reply.jobs] == [*entries, None]
    found = campaign.queue.entries([entries[1], entries[0]])
    assert [(entry.id, entry.state) for entry in found] == [(2, State.FAILED), (1, State.SUCCEEDED)]
    assert campaign.queue.index_of([3, 2, 1]) == [None, entries[1], entries[0]]


def test_joining_a_retried_job_fences_off_its_former_outcome(campaign):
    joined_ids(campaign, 1, 2)
    campaign.fail("w1", campaign.lease()[0])
    assert campaign.send(occurrences(1, 2), reuse=True).fence is None, "nothing was ever retried"
    campaign.queue.retry([1])
    reply = campaign.send(occurrences(1), reuse=True)
    assert reply.jobs[0].entry is None
    assert reply.fence == campaign.results()[0].entry
    campaign.ok("w1", campaign.lease()[0])
    assert campaign.send(occurrences(1), reuse=True).fence is None, "only finished ones were joined"


# the marker


def test_every_enqueue_leaves_a_marker(campaign):
    assert campaign.wakes(lambda: campaign.add())
    assert campaign.wakes(lambda: campaign.add(delay_ms=60_000)), "someone must learn when it is due"
    assert campaign.wakes(lambda: campaign.enqueue("new", reuse=True))
    assert not campaign.wakes(lambda: campaign.enqueue("new", reuse=True))
