"""Who may look and who may change: each row of docs/security.md, by real requests."""

from __future__ import annotations

import pytest

from queue_eval import __version__
from queue_eval.errors import UsageError
from queue_eval.web.access import TOKEN_VARIABLE, Secrets
from tests.support.web import web_server

PAGES = (
    "/",
    "/static/app.js",
    "/metrics",
    "/api/session",
    "/api/campaigns",
    "/api/events",
    "/api/c/x/events",
)
CROSS_SITE = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}


@pytest.fixture(scope="module")
def browser(_shared_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    with web_server(_shared_home, static=folder) as browser:
        yield browser


@pytest.fixture(scope="module")
def writing(_shared_home):
    with web_server(_shared_home, read_write=True) as browser:
        browser.log_in()
        yield browser


@pytest.fixture(autouse=True)
def _fresh_browser(browser):
    browser.headers.clear()


@pytest.mark.parametrize("path", PAGES)
def test_without_the_token_nothing_is_shown(browser, path):
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"cookie": f"{browser.settings.secrets.cookie}=x"},
    ):
        reply = browser.ask(path, **headers)
        assert reply.status == 401
        assert b"open the address" in reply.body


def test_the_token_is_exchanged_for_a_cookie(browser):
    own = browser.settings.secrets
    reply = browser.log_in()
    assert (reply.status, reply.headers["location"]) == (303, "./")
    assert own.token not in str(reply)
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path" not in cookie
    assert browser.ask("/").body.startswith(b"<!doctype html>")
    assert browser.get("/api/session") == {"read_write": False, "csrf": None, "version": __version__}


@pytest.mark.parametrize("token", ["", "wrong", "%00", "%c3%a9"])
def test_a_wrong_token_gives_no_cookie(browser, token):
    reply = browser.ask(f"/login?token={token}")
    assert reply.status == 401
    assert "set-cookie" not in reply.headers


def test_the_token_in_a_header_needs_no_login(browser):
    assert (
        browser.ask("/api/campaigns", authorization=f"Bearer {browser.settings.secrets.token}").status == 200
    )
    token = browser.settings.secrets.token
    assert browser.ask(f"/metrics?token={token}").status == 200
    assert browser.ask(f"/api/campaigns?token={token}").status == 401


@pytest.mark.parametrize(
    "headers",
    [
        CROSS_SITE, CROSS_SITE | {"sec_fetch_site": "same-site"}, {"origin": "http://evil.example"},
        {"origin": "null"}, {"origin": "http://localhost:1"},
    ],
)  # fmt: skip
def test_another_page_reads_nothing(browser, headers):
    browser.log_in()
    reply = browser.ask("/api/campaigns", **headers)
    assert reply.status == 403
    assert "another page" in reply.error
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_our_own_page_and_links_to_it(browser):
    browser.log_in()
    here = f"http://127.0.0.1:{browser.port}"
    for headers in (
        {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, {"origin": here},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "same-origin", "host": "hub.example.org", "origin": "https://hub.example.org"},
    ):  # fmt: skip
        assert browser.ask("/", **headers).status == 200


def test_a_name_that_was_made_to_point_here_gets_nothing(browser):
    """DNS rebinding: the browser sends no cookie of ours to another name."""
    reply = browser.ask("/api/campaigns", host="evil.example", sec_fetch_site="same-origin")
    assert reply.status == 401


def test_nothing_is_changed_unless_asked(browser, filled, campaign):
    browser.log_in()
    for bearer in ({}, {"authorization": f"Bearer {browser.settings.secrets.token}"}):
        reply = browser.ask(f"/api/c/{campaign}/actions", "POST", {"action": "pause"}, **bearer)
        assert reply.status == 403
        assert "--read-write" in reply.error
    assert not filled.queue.snapshot().paused


@pytest.mark.parametrize("csrf", [{}, {"x_csrf_token": "wrong"}])
def test_a_change_shows_that_our_page_has_asked_for_it(writing, filled, campaign, csrf):
    reply = writing.ask(f"/api/c/{campaign}/actions", "POST", {"action": "pause"}, **csrf)
    assert reply.status == 403
    assert "X-CSRF-Token" in reply.error
    assert not filled.queue.snapshot().paused


def test_another_page_changes_nothing_even_with_a_link(writing, filled, campaign):
    csrf = writing.get("/api/session")["csrf"]
    for headers in (
        CROSS_SITE,
        CROSS_SITE | {"sec_fetch_mode": "navigate"},
        {"origin": "http://evil.example"},
    ):
        sent = {"x_csrf_token": csrf} | headers
        assert writing.ask(f"/api/c/{campaign}/actions", "POST", {"action": "pause"}, **sent).status == 403
    assert not filled.queue.snapshot().paused


def test_a_change_that_may_be_made(writing, filled, campaign):
    assert writing.act(campaign, action="pause").status == 200
    assert filled.queue.snapshot().paused
    token = f"Bearer {writing.settings.secrets.token}"
    body = {"action": "resume"}
    reply = writing.ask(f"/api/c/{campaign}/actions", "POST", body, authorization=token, cookie="")
    assert reply.status == 200
    assert not filled.queue.snapshot().paused


def test_a_form_of_another_page_is_no_action(writing, filled, campaign):
    csrf = writing.get("/api/session")["csrf"]
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        sent = {"x_csrf_token": csrf, "content_type": kind}
        reply = writing.ask(f"/api/c/{campaign}/actions", "POST", {"action": "pause"}, **sent)
        assert (reply.status, reply.error) == (400, "an action is sent as application/json")


def test_headers_that_bind_the_browser(browser):
    browser.log_in()
    for path in ("/", "/api/campaigns", "/static/index.html", "/api/c/none/overview", "/nowhere"):
        headers = browser.ask(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' data:; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert headers["cache-control"].startswith("no-cache" if "static" in path else "no-store")


@pytest.mark.parametrize("path", ["/static/../serve.py", "/static/..%2fserve.py", "/static//etc/passwd"])
def test_no_file_outside_the_folder(browser, path):
    browser.log_in()
    assert browser.ask(path).status == 404


def test_below_a_prefix(server, campaign, filled, tmp_path):
    (tmp_path / "index.html").write_text("page")
    with web_server(server, prefix="/user/me/proxy", static=tmp_path) as browser:
        assert browser.ask("").status == 401
        assert browser.log_in().headers["location"] == "./"
        assert browser.ask("").headers["location"] == "proxy/"
        assert browser.ask("/").body == b"page"
        assert browser.get(f"/api/c/{campaign}/overview")["campaign"] == campaign
        browser.settings = browser.settings._replace(prefix="")
        assert browser.ask("/api/campaigns").status == 404


def test_a_token_that_is_kept(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef0123456789abcdef")
    one, other = Secrets.of_environment(), Secrets.of_environment()
    assert (one.session, one.csrf, one.cookie) == (other.session, other.csrf, other.cookie)
    monkeypatch.delenv(TOKEN_VARIABLE)
    new = Secrets.of_environment()
    assert len({new.token, one.token, new.session, new.csrf}) == 4
    assert len(new.token) == 32
    assert Secrets.of_environment().token != new.token


@pytest.mark.parametrize("token", ["", "short", "a" * 21, "with blanks in the token here", "ü" * 30])
def test_a_token_that_is_not_safe(monkeypatch, token):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(UsageError, match="is no safe token"):
        Secrets.of_environment()
