"""What --gpus and --cores mean, and how slots share it out."""

from __future__ import annotations

import os
import re

import pytest

from queue_eval.campaign.registry import WorkerCard, is_served
from queue_eval.errors import UsageError
from workers import resources
from workers.resources import Means, joined, parse_cores, parse_gpus, ranges, share_out
from workers.slot_board import SlotBoard


@pytest.mark.parametrize(
    ("text", "visible", "gpus"),
    [
        ("0,1", None, ("0", "1")), (" 1 , 0", None, ("1", "0")), ("2", "3,2", ("2",)),
        ("all", "3,2", ("3", "2")), ("auto", "GPU-5f-a,MIG-7", ("GPU-5f-a", "MIG-7")),
        ("GPU-5f-a", None, ("GPU-5f-a",)), ("all", "1,-1,2", ("1",)),
    ],
)  # fmt: skip
def test_gpus(text, visible, gpus):
    assert parse_gpus(text, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == gpus


@pytest.mark.parametrize(
    ("text", "visible", "said"),
    [
        ("0,4", "2,3", "GPU 0, 4 is not among"), ("0", "", "lets this worker use (none)"),
        ("all", "", "names none"), ("all", "-1", "names none"), ("0,x", None, "'0,x' is not valid"),
        ("", None, "is not valid"), ("0,0", None, "twice"), ("0", "GPU-aa", "not among"),
    ],
)  # fmt: skip
def test_gpus_that_cannot_be(text, visible, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_gpus(text, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


def test_all_gpus_of_a_machine(monkeypatch):
    monkeypatch.setattr(resources, "_present", lambda: ("0", "1"))
    assert parse_gpus("all", {}) == ("0", "1")
    monkeypatch.setattr(resources, "_present", lambda: ())
    with pytest.raises(UsageError, match="this machine shows none"):
        parse_gpus("all", {})


def test_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6}, raising=False)
    assert parse_cores(None) == (0, 1, 2, 3, 6)
    assert parse_cores("0-2, 6") == (0, 1, 2, 6)
    assert parse_cores("2,1,2") == (1, 2)
    for text in ("", "3-1", "x", "1-", "0-99999999", "1,,2"):
        with pytest.raises(UsageError, match="is not valid"):
            parse_cores(text)
    with pytest.raises(UsageError, match=re.escape("core 4, 5 is not among those that") + ".*0-3,6"):
        parse_cores("3-6")


def test_ranges():
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert ranges(()) == ""


@pytest.mark.parametrize(
    ("slots", "gpus", "owned"),
    [
        (2, "01", ["0", "1"]), (2, "0123", ["01", "23"]), (2, "01234", ["012", "34"]),
        (4, "01", ["0", "1", "0", "1"]), (3, "0", ["0", "0", "0"]), (2, "", ["", ""]),
    ],
)  # fmt: skip
def test_gpus_are_shared_out(slots, gpus, owned):
    assert ["".join(means.gpus) for means in share_out(slots, gpus=tuple(gpus))] == owned


def test_cores_are_shared_out():
    def owned(slots, cores, each=None):
        return [means.cores for means in share_out(slots, cores=tuple(range(cores)), cores_per_slot=each)]

    assert owned(2, 4) == [(0, 1), (2, 3)]
    assert owned(2, 5) == [(0, 1, 2), (3, 4)]
    assert owned(2, 8, 3) == [(0, 1, 2), (3, 4, 5)]
    with pytest.raises(UsageError, match="3 slots with 1 core each need 3 cores, and there are 2"):
        owned(3, 2)
    with pytest.raises(UsageError, match="2 slots with 3 cores each need 6 cores, and there are 4"):
        owned(2, 4, 3)


def test_what_several_slots_own():
    both = joined([Means(("0",), (2, 3)), Means(("0",), (0,)), Means(("1",))])
    assert both == Means(("0", "1"), (0, 2, 3))
    assert str(both) == "GPU 0, 1; cores 0,2-3"


def test_environment():
    means = Means(("2", "3"), (0, 1, 2, 3))
    told = means.environment({"MKL_NUM_THREADS": "9", "HOME": "/h"})
    assert told["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert (told["OMP_NUM_THREADS"], told["MKL_NUM_THREADS"], told["HOME"]) == ("4", "9", "/h")
    assert means.environment({}, threads=2)["OPENBLAS_NUM_THREADS"] == "2"
    assert means.environment({}, threads=9)["OPENBLAS_NUM_THREADS"] == "1"
    assert Means().environment({"A": "b"}) == {"A": "b"}


def test_a_wide_job_gets_different_gpus_where_it_can():
    board = SlotBoard(share_out(4, gpus=("0", "1")))
    assert board.take(1) == (0,)
    assert board.take(2) == (1, 2), "GPU 1 and, once more, GPU 0"
    assert board.take(2) is None
    board.give_back((0, 2))
    board.give_back((1,))
    assert sorted(board.owned(board.take(2)).gpus) == ["0", "1"]


@pytest.mark.parametrize(
    ("label", "campaigns", "queues", "is_for"),
    [
        ("default", None, None, True), ("gpu", None, None, False), ("gpu", ("c",), None, True),
        ("default", ("d",), None, False), ("gpu", None, ("gpu", "tpu"), True),
        ("default", None, ("gpu",), False), ("default", None, ("default",), True),
        ("gpu", ("c",), ("tpu",), False), ("gpu", ("c",), ("gpu",), True),
    ],
)  # fmt: skip
def test_which_campaigns_a_worker_serves(label, campaigns, queues, is_for):
    assert is_served("c", label, campaigns, queues) is is_for


def test_a_card_is_read_as_it_was_written():
    card = WorkerCard(name="w", host="h", pid=3, created=1.5, slots=2, queues=("gpu",), state="running")
    assert WorkerCard.parse("w", card.encode().encode()) == card
    assert WorkerCard.parse("w", b"[]") == WorkerCard.parse("w", b"{") == WorkerCard(name="w")
