"""Frames come out as they went in, however the bytes are cut."""

from __future__ import annotations

import json

import pytest

from queue_eval.runtime.pipe import FrameBuffer, Report, Setup, encode_run, frame, parse_report, parse_setup

REPORT = Report(7, 2, "ok", 1.25, "0123abcd", b'{"a":1}\n', b"printed\n")
SETUP = Setup("m:f", b"pickle", ("/a", "/b"), {"k": [1]}, threads=3, forward={"x": 1}, allowed=("m",),
              values="text")  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 4, 5, 64, 10_000])
def test_any_pieces(size):
    other = frame(("x", "\N{SNOWMAN}"), b"b" * 9000)
    sent = [SETUP.encode(), REPORT.encode(), encode_run(1, 2, b"{}"), other]
    stream = b"".join(sent) * 2
    frames = FrameBuffer()
    got = [one for at in range(0, len(stream), size) for one in frames.feed(stream[at : at + size])]
    assert [header[0] for header, _ in got] == ["setup", "report", "run", "x"] * 2
    assert parse_setup(*got[0]) == SETUP
    report = parse_report(*got[5])
    assert all(getattr(report, name) == getattr(REPORT, name) for name in Report.__slots__)
    assert got[6] == (["run", 1, 2], b"{}")
    assert got[7] == (["x", "\N{SNOWMAN}"], b"b" * 9000)


def test_a_report_is_written_as_any_other_frame():
    line = json.dumps(["report", 7, 2, "ok", 1.25, "0123abcd", 8], separators=(",", ":"))
    ((header, _),) = FrameBuffer().feed(REPORT.encode())
    assert header == json.loads(line)


@pytest.mark.parametrize("garbage", [b"\xff\xff garbage", b"\0\0\0\2{}", b"\0\0\0\3{}\n", b"\0\0\0\3xy\n"])
def test_nothing_after_garbage_is_taken(garbage):
    frames = FrameBuffer()
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        frames.feed(REPORT.encode() + garbage)
    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011
            frames.feed(REPORT.encode())


def test_setups_differ_in_any_part():
    assert SETUP.replace() == SETUP
    for change in ({"name": "m:g"}, {"payload": None}, {"kwargs": {}}, {"threads": 1}, {"allowed": None},
                   {"values": "json"}):  # fmt: skip
        assert SETUP.replace(**change) != SETUP
