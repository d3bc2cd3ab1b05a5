"""How commands are written to the server."""

from __future__ import annotations

import pytest
from redis.connection import HiredisRespSerializer

from queue_eval.transport.clients import Packer

SMALL, LARGE = b"s" * 100, b"l" * 2**20


@pytest.mark.parametrize(
    "arguments",
    [
        ("PING",),
        ("CONFIG GET", "save"),
        (b"CONFIG GET", "save"),
        ("SET", "key", SMALL),
        ("SET", "key", LARGE),
        ("SET", "ключ", "é" * 2**20),
        ("EVALSHA", "0" * 40, 1, "key", LARGE, b"", LARGE, SMALL, -3, 0.25),
        (LARGE,),
        ("SET", "key", LARGE, SMALL),
    ],
)
def test_large_arguments_are_written_as_small_ones(arguments):
    rendered = [str(a).encode() if isinstance(a, (int, float)) else a for a in arguments]
    assert b"".join(Packer().pack(*arguments)) == b"".join(HiredisRespSerializer().pack(*rendered))


def test_large_arguments_are_not_copied():
    assert any(piece is LARGE for piece in Packer().pack("SET", "key", LARGE, SMALL))
