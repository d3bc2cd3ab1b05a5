"""Signs openings and verifies them, so that a worker runs only what a driver with the key has decided.

::

    driver: key of access.json ──▶ sign(opening) ──▶ meta ──▶ verify(opening) ◀── worker: key of its file

`queue_eval.model.signing_key` has the kinds of keys.

Guarantees: a process that has only a public key cannot make a signature that `verify` accepts. A signature
covers all that decides what runs, with the campaign, its uid and the revision of the opening. It does not
cover the configs of jobs. Assumes: the package cryptography is installed where a key is of Ed25519. It is
imported at its first use, because that takes 20 ms.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import re
from dataclasses import dataclass

from queue_eval.errors import FunctionError, UsageError
from queue_eval.model.signing_key import PRIVATE, PUBLIC, is_pair, verifying_half

_BY_PAIR = "ed25519:"
_SHARED = "hmac:"
_OF_EARLIER_BUILD = re.compile(r"[0-9a-f]{64}")

_INSTALL = "install it with: pip install 'queue-eval[group]'"


@dataclass(frozen=True)
class Opening:
    """All that decides what a campaign runs from this opening on.

    `options` are the bytes on the server: path, kwargs, values, time limit, forwarding, and how code is
    found. `payload` is b"" for a function by reference. `queue` is the label by which workers choose.
    """

    campaign: str
    uid: str
    revision: int
    function: str
    method: str
    queue: str
    options: bytes
    payload: bytes

    @property
    def message(self) -> bytes:
        """What is signed. Each part follows its length, so that no two openings have the same message."""
        parts = (
            b"queue_eval opening 2", self.campaign.encode(), self.uid.encode(), b"%d" % self.revision,
            self.function.encode(), self.method.encode(), self.queue.encode(), self.options, self.payload,
        )  # fmt: skip
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def new_key() -> str:
    """A new private key of Ed25519, as text. Raises UsageError without the package cryptography."""
    check_installed("a server for a group signs code with a pair of keys")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return f"{PRIVATE}{private.private_bytes_raw().hex()}{public.hex()}"


def must_sign(key: bytes | None, payload: bytes | None) -> bool:
    """Whether an opening needs a signature: every one in a group; else one with a function by value."""
    return bool(payload) or (key is not None and is_pair(key))


def check_installed(why: str) -> None:
    """Raise UsageError unless the package cryptography is there. `why`: what needs it, for the message."""
    if importlib.util.find_spec("cryptography") is None:
        raise UsageError(f"{why}, which needs the package cryptography; {_INSTALL}")


def sign(key: bytes, opening: Opening) -> str:
    """The signature of an opening. Raises FunctionError when this key only verifies."""
    if not is_pair(key):
        return _SHARED + _mac(key, opening)
    if key.startswith(PUBLIC.encode()):
        raise FunctionError(
            f"{opening.function} cannot be signed: the key of this driver is that of workers; give the "
            "driver access.json of the same home"
        )
    check_installed(f"{opening.function} is signed with the key of a group")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = bytes.fromhex(key.decode().removeprefix(PRIVATE)[:64])
    return _BY_PAIR + Ed25519PrivateKey.from_private_bytes(seed).sign(opening.message).hex()


def verify(key: bytes | None, opening: Opening, signature: str) -> None:
    """Raise FunctionError unless a driver with the key has signed this, or no signature is needed.

    None is needed for a function by reference where the key is a shared one or there is none: drivers without
    a key may call functions that a worker has. So whoever may write to such a server can have them called,
    too.
    """
    name = opening.function
    if key is None:
        if opening.payload:
            raise FunctionError(
                f"{name} travels by value, and this worker has no key to check it; "
                "set QUEUE_EVAL_KEY or give it the access file"
            )
        return
    if not must_sign(key, opening.payload) and not signature.startswith(_BY_PAIR):
        return
    if _OF_EARLIER_BUILD.fullmatch(signature):
        raise FunctionError(
            f"{name} was signed by an earlier build, which did not sign its arguments; run its driver again "
            "with this build"
        )
    if is_pair(key):
        _verify_pair(verifying_half(key), opening, signature)
        return
    if signature.startswith(_BY_PAIR):
        raise FunctionError(
            f"{name} is signed with the key of a group, and this worker has another; give it "
            "worker-access.json of the server's home as it is now"
        )
    # Compared as bytes: compare_digest takes only ASCII text, and the signature may be anything.
    if not hmac.compare_digest((_SHARED + _mac(key, opening)).encode(), signature.encode()):
        raise _invalid(name)


def _verify_pair(key: bytes, opening: Opening, signature: str) -> None:
    name = opening.function
    if not signature:
        raise FunctionError(
            f"{name} is not signed, and this worker runs only what a driver of its group has signed; open "
            "the campaign again with access.json of the server's home"
        )
    if signature.startswith(_SHARED):
        raise FunctionError(
            f"{name} is signed with a shared key, and this worker runs only what a driver of its group has "
            "signed; open the campaign again with access.json of the server's home as it is now"
        )
    check_installed(f"this worker checks the signature of {name}")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.decode().removeprefix(PUBLIC)))
        public.verify(bytes.fromhex(signature.removeprefix(_BY_PAIR)), opening.message)
    except (InvalidSignature, ValueError) as error:
        raise _invalid(name) from error


def _mac(key: bytes, opening: Opening) -> str:
    return hmac.new(key, opening.message, hashlib.sha256).hexdigest()


def _invalid(name: str) -> FunctionError:
    return FunctionError(
        f"the signature of {name} is not valid: it was altered, or signed with another key; run its driver "
        "again with the access file as it is now"
    )
