"""Who may look, and who may change: a token, its cookie, and what else a request must show.

::

    address with the token ──▶ login ──▶ cookie (HttpOnly, SameSite=Strict), and the address without the token
    every other request: the cookie, or `Authorization: Bearer TOKEN`; /metrics also takes ?token=
    a request that another page has made: refused, by Sec-Fetch-Site, else by Origin
    an action: all of that, and the header X-CSRF-Token, which only a page of ours can read

The name of the host that a request is for (Host) is not looked at. A page whose name was made to point here
(DNS rebinding) has neither the token nor a cookie of ours: cookies belong to the name that set them. Behind
`ssh -L` and proxies that name is theirs, so that a list of names would refuse what is meant to work.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from queue_eval.errors import UsageError

TOKEN_VARIABLE = "QUEUE_EVAL_WEB_TOKEN"  # noqa: S105 - the name of a variable

_TOKEN_BYTES = 24
_LEAST_CHARACTERS = 22
"""A token of so many random characters of base64 has 128 bits."""

_OWN_SITE = ("same-origin", "none")


class Refusal(NamedTuple):
    status: int
    sentence: str


class Secrets:
    """The token of one web server, and what is derived from it. The token itself is in no cookie."""

    def __init__(self, token: str | None = None) -> None:
        self.token = secrets.token_urlsafe(_TOKEN_BYTES) if token is None else token
        self.session = self._derived("session")
        self.csrf = self._derived("csrf")
        # Cookies do not know ports: two servers on one machine must not take each other's.
        self.cookie = f"queue_eval_{self._derived('cookie')[:12]}"

    @classmethod
    def of_environment(cls) -> Secrets:
        """With the token in $QUEUE_EVAL_WEB_TOKEN, else with a new one. Raises UsageError for a short one."""
        token = os.environ.get(TOKEN_VARIABLE)
        if token is not None and (len(token) < _LEAST_CHARACTERS or not _is_plain(token)):
            raise UsageError(
                f"${TOKEN_VARIABLE} is no safe token; give at least {_LEAST_CHARACTERS} random letters, "
                "digits, '-' or '_', such as of: openssl rand -hex 16"
            )
        return cls(token)

    def is_token(self, given: str | None) -> bool:
        return given is not None and _equal(given, self.token)

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


class Asked(NamedTuple):
    """What a request shows of who has made it."""

    method: str
    path: str
    """Below the prefix, without a slash in front."""
    headers: Mapping[str, str]
    """By lower case name."""
    query: str

    def token(self) -> str | None:
        """The token in the query."""
        return next(iter(parse_qs(self.query).get("token", [])), None)


def refusal(asked: Asked, own: Secrets, *, read_write: bool) -> Refusal | None:
    """Why a request is refused; None if it is not. A login is judged by its token alone, elsewhere."""
    bearer = asked.headers.get("authorization", "").partition("Bearer ")[2]
    by_token = own.is_token(bearer) or (asked.path == "metrics" and own.is_token(asked.token()))
    if not by_token and not _equal(_cookie(asked, own.cookie), own.session):
        return Refusal(401, "open the address that queue-eval web has printed: it has the token in it")
    is_change = asked.method not in ("GET", "HEAD")
    if not by_token and _is_from_elsewhere(asked, is_change=is_change):
        return Refusal(403, "another page has made this request; open the address of queue-eval web itself")
    if not is_change:
        return None
    if not read_write:
        return Refusal(403, "this view changes nothing; start it with: queue-eval web --read-write")
    if not by_token and not _equal(asked.headers.get("x-csrf-token", ""), own.csrf):
        return Refusal(403, "the header X-CSRF-Token is missing or wrong; load the page again")
    return None


def _is_from_elsewhere(asked: Asked, *, is_change: bool) -> bool:
    """Whether the browser says that the page of another server has made the request."""
    site = asked.headers.get("sec-fetch-site")
    if site is not None:
        # A link on another page may lead here, once there is a cookie: that only shows our own page.
        is_link = not is_change and asked.headers.get("sec-fetch-mode") == "navigate"
        return site not in _OWN_SITE and not is_link
    # Browsers leave Sec-Fetch-Site out on plain http to another machine.
    origin = asked.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != asked.headers.get("host", "")


def _cookie(asked: Asked, name: str) -> str:
    try:
        morsel = SimpleCookie(asked.headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def _is_plain(token: str) -> bool:
    return token.isascii() and all(character.isalnum() or character in "-_" for character in token)
