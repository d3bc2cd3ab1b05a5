"""Signatures of code by value: only who holds the key of the access file may make a worker run it."""

from __future__ import annotations

import hashlib
import hmac

from queue_eval.errors import FunctionError


def sign(key: bytes, campaign: str, name: str, payload: bytes) -> str:
    """Hex HMAC-SHA256 over the campaign, the function's name and its pickle."""
    message = b"\0".join((b"queue_eval 1", campaign.encode(), name.encode(), payload))
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def verify(key: bytes | None, campaign: str, name: str, payload: bytes, signature: str) -> None:
    """Raise FunctionError unless `signature` is of this key and covers all of this."""
    if key is None:
        raise FunctionError(
            f"{name} travels by value, and this worker has no key to check it; "
            "set QUEUE_EVAL_KEY or give it the access file"
        )
    # As bytes: of text, only ASCII can be compared, and this may be anything.
    if not hmac.compare_digest(sign(key, campaign, name, payload).encode(), signature.encode()):
        raise FunctionError(
            f"the signature of {name} is not valid: it was altered, or signed with another key; refused"
        )
