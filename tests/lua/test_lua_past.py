"""What has finished, read a page at a time."""

from __future__ import annotations

import gc

import pytest

from queue_eval.campaign.history import past_pages, without_collections
from queue_eval.campaign.paging import Portion
from tests.support.lua_campaign import settlement


def finish(campaign, count, **told):
    campaign.add(count)
    while tokens := campaign.lease(room=count):
        campaign.settle("w1", *(settlement(token, **told) for token in tokens))


def test_pages_hold_every_outcome_once_in_order_with_its_config(campaign):
    finish(campaign, 230)
    pages = list(past_pages(campaign.queue, "+"))
    entries = [entry for page in pages for entry, *_ in page]
    assert len(pages) > 1
    assert entries == campaign.results()
    origins = [(stamp, config) for page in pages for _, stamp, config, _ in page]
    assert origins == campaign.queue.configs_of([entry.id for entry in entries])


def test_pages_end_at_the_tail(campaign):
    finish(campaign, 3)
    second = campaign.results()[1]
    assert [entry.id for page in past_pages(campaign.queue, second.entry) for entry, *_ in page] == [1, 2]
    assert list(past_pages(campaign.queue, "0-0")) == []


def test_outcomes_of_before_a_retry_and_of_no_job_are_left_out(campaign):
    finish(campaign, 3)
    tail = campaign.results()[-1].entry
    campaign.client.hdel(campaign.queue.keys.configs, 3)
    campaign.client.hdel(campaign.queue.keys.index, 2)
    campaign.client.hset(campaign.queue.keys.meta, "retried", 1)
    assert [entry.id for page in past_pages(campaign.queue, tail) for entry, *_ in page] == [1]


def test_pages_of_large_values_are_short(campaign):
    finish(campaign, 120, body=b'"' + b"x" * 400_000 + b'"')
    sizes = [len(page) for page in past_pages(campaign.queue, "+")]
    assert sum(sizes) == 120
    assert sizes[0] == 100
    assert max(sizes[1:]) <= 20


def test_a_portion_follows_what_was_seen():
    portion = Portion()
    first = portion.count
    portion.adapt(first, 100 * first)
    assert portion.count == 4 * first
    for _ in range(10):
        portion.adapt(portion.count, 100 * portion.count)
    most = portion.count
    portion.adapt(most, 0)
    assert portion.count == most
    portion.adapt(most, most * 2**20)
    assert 1 <= portion.count < 100
    portion.adapt(1, 2**30)
    assert portion.count == 1


@pytest.mark.parametrize("before", [True, False])
def test_collections_are_as_they_were_afterwards(before):
    try:
        (gc.enable if before else gc.disable)()
        with without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() is before
    finally:
        gc.enable()
