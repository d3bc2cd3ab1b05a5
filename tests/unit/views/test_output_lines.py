"""What jobs print, as lines for a terminal."""

from __future__ import annotations

import pytest

from queue_eval.views.output_lines import LineReader, lines_of


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"one\ntwo", ["one", "two"]),
        (b"one\n\ntwo\n", ["one", "", "two"]),
        (b"\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain\n", ["red and plain"]),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n\x1b(Bx\x1bM\n", ["link", "x"]),
        (b"1%\r50%\r100%\ndone\r\n", ["100%", "done"]),
        (b"1%\r50%", ["50%"]),
        (b"a\tb\x00\x1b\n", ["a\tb\x00\x1b"]),
        ("ü".encode()[:1] + b"\n" + "ü".encode(), ["�", "ü"]),
    ],
)
def test_lines(text, lines):
    assert lines_of(text) == lines


def test_lines_come_when_they_are_whole():
    reader = LineReader()
    assert list(reader.feed(b"one\ntw")) == ["one"]
    assert list(reader.feed(b"o\nthree \xc3")) == ["two"]
    assert list(reader.feed(b"\xbc")) == []
    assert list(reader.end()) == ["three ü"]
    assert list(reader.end()) == []


def test_a_bar_shows_its_newest_state():
    reader = LineReader(shows_bars=True)
    assert list(reader.feed(b"start\n1%\r2%\r3")) == ["start", "2%"]
    assert list(reader.feed(b"%")) == []
    assert list(reader.feed(b"\r4%\r5%\n")) == ["5%"]


def test_a_line_without_an_end_is_shown_at_last():
    reader = LineReader()
    assert list(reader.feed(b"x" * 4000)) == []
    assert list(reader.feed(b"x" * 100)) == ["x" * 4100]
