"""Reads the text of a key that signs what runs, or verifies it. `queue_eval.function.signing` uses it.

A key is text, so that it can be copied into an environment variable:

====================================  =================================================================
``ed25519-private:`` + 128 hex        signs and verifies: seed, then the public half. In ``access.json``
``ed25519-public:`` + 64 hex          verifies. In ``worker-access.json``
any other text                        signs and verifies (HMAC-SHA256): one user's server, or a key by hand
====================================  =================================================================
"""

from __future__ import annotations

import re

from queue_eval.errors import UsageError

PRIVATE = "ed25519-private:"
PUBLIC = "ed25519-public:"
_KEY = re.compile(r"ed25519-private:[0-9a-f]{128}|ed25519-public:[0-9a-f]{64}")


def checked_key(text: str, source: str) -> bytes:
    """A key as `sign` and `verify` take it. Raises UsageError for one that is empty or malformed."""
    text = text.strip()
    if not text:
        raise UsageError(
            f"the key of {source} is empty, and protects nothing; set a key there, or leave it out"
        )
    if text.startswith("ed25519-") and not _KEY.fullmatch(text):
        raise UsageError(f"the key of {source} is cut off or altered; copy it again, as it is in the home")
    return text.encode()


def is_pair(key: bytes) -> bool:
    """Whether this is a key of Ed25519, or its public half."""
    return key.startswith(b"ed25519-")


def verifying_half(key: bytes) -> bytes:
    """The part of a key that a worker needs: the public half of a pair, or a shared key whole."""
    if not key.startswith(PRIVATE.encode()):
        return key
    return PUBLIC.encode() + key[-64:]
