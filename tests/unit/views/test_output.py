"""Which parts of what a job prints are new, and what is missing between them."""

from __future__ import annotations

from queue_eval.model.live_output import LiveOutput
from queue_eval.runtime.pipe import HeadTail, split_gap, with_gap
from queue_eval.views.output import Piece, Seen, newest_lines


def live(seen: Seen, attempt: int, total: int, text: bytes) -> list[Piece]:
    return list(seen.live(7, LiveOutput(attempt, total, text)))


def recorded(seen: Seen, attempt: int, output: bytes) -> list[Piece]:
    return list(seen.recorded(7, attempt, output))


def test_each_byte_is_new_once():
    seen = Seen()
    assert live(seen, 1, 3, b"abc") == [Piece(7, 1, 0, b"abc")]
    assert live(seen, 1, 3, b"abc") == []
    assert live(seen, 1, 5, b"abcde") == [Piece(7, 1, 0, b"de")]
    assert live(seen, 1, 100, b"xyz") == [Piece(7, 1, 92, b"xyz")]
    assert live(seen, 2, 1, b"n") == [Piece(7, 2, 0, b"n")]
    assert live(seen, 1, 200, b"late") == [], "an older attempt"


def test_a_record_goes_on_where_the_live_text_was():
    seen = Seen()
    live(seen, 1, 3, b"abc")
    assert recorded(seen, 1, b"abcdef") == [Piece(7, 1, 0, b"def")]
    assert recorded(seen, 1, b"abcdef") == []
    assert recorded(seen, 2, b"new") == [Piece(7, 2, 0, b"new")]


def test_a_record_with_a_gap():
    output = with_gap(b"first", 90, b"last!")
    assert recorded(Seen(), 1, output) == [Piece(7, 1, 0, b"first"), Piece(7, 1, 90, b"last!")]
    for total, text, pieces in (
        (3, b"fir", [Piece(7, 1, 0, b"st"), Piece(7, 1, 90, b"last!")]),
        (50, b"x", [Piece(7, 1, 45, b"last!")]),
        (97, b"la", [Piece(7, 1, 0, b"st!")]),
        (100, b"last!", []),
    ):
        seen = Seen()
        live(seen, 1, total, text)
        assert recorded(seen, 1, output) == pieces


def test_the_gap_of_what_is_kept_is_found():
    kept = HeadTail(10)
    kept.add(b"abcdefghijklmnop")
    assert split_gap(kept.take()) == (b"abcde", 6, b"lmnop", "")
    kept.add(b"abcdefghijklmnop")
    assert split_gap(kept.take("it is here")) == (b"abcde", 6, b"lmnop", "it is here")
    for text in (b"", b"whole", b"\n[... x bytes left out ...]\n", b"\n[... 5 bytes", b"\n[... " + b"9" * 16):
        assert split_gap(text) == (text, 0, b"", "")


def test_the_newest_bytes_of_what_is_kept():
    kept = HeadTail(20)
    printed = b""
    for letter in b"abcdefghijklmnopqrstuvwxyz" * 3:
        kept.add(bytes([letter]))
        printed += bytes([letter])
        assert kept.count == len(printed)
        for most in range(1, 11):
            assert kept.newest(most) == printed[-most:]
        assert kept.newest(0) == b""


def test_the_last_lines_of_each_job():
    pieces = [Piece(1, 1, 0, b"a\nb\n"), Piece(2, 1, 5, b"c\n"), Piece(1, 2, 9, b"d\ne")]
    assert newest_lines(pieces, 1) == [Piece(2, 1, 5, b"c\n"), Piece(1, 2, 0, b"e")]
    assert newest_lines(pieces, 3) == [Piece(1, 1, 0, b"b\n"), *pieces[1:]]
    assert newest_lines(pieces, 9) == pieces
