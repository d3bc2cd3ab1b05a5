"""The access file: order of sources, refusals, and that no secret is ever shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from queue_eval.errors import UsageError
from queue_eval.transport.access import (
    ACCESS_FILE,
    Access,
    find_access,
    home_folder,
    read_access,
    safe_url,
    write_access,
)

URL = "redis://:file-secret@host:6379/0"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUEUE_EVAL_HOME", "QUEUE_EVAL_URL", "QUEUE_EVAL_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_access(tmp_path, URL, b"k1", embedded=True)
    assert read_access(tmp_path) == Access(URL, b"k1", tmp_path)
    content = json.loads((tmp_path / ACCESS_FILE).read_text())
    assert content == {"url": URL, "key": "k1", "embedded": True}


def test_written_file_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_access(tmp_path, URL, None)
    write_access(tmp_path, URL, b"k2")
    assert stat.S_IMODE((tmp_path / ACCESS_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [ACCESS_FILE]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_access(tmp_path, URL, b"k1")
    with pytest.raises(TypeError):
        write_access(tmp_path, URL, b"k1", unserialisable=object())
    with pytest.raises(UsageError):
        write_access(tmp_path, "http://host", b"k1")
    assert read_access(tmp_path) == Access(URL, b"k1", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.json", "home.id"]


def test_home_is_the_argument_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_folder() == tmp_path / ".queue_eval"
    monkeypatch.setenv("QUEUE_EVAL_HOME", str(tmp_path / "env"))
    assert home_folder() == tmp_path / "env"
    assert home_folder("sub") == tmp_path / "sub"
    assert home_folder(tmp_path / "sub") == tmp_path / "sub"


def test_url_is_the_argument_then_the_environment_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_access(home=tmp_path) is None
    write_access(tmp_path, URL, b"file-key")
    assert find_access(home=tmp_path) == Access(URL, b"file-key", tmp_path)
    monkeypatch.setenv("QUEUE_EVAL_URL", "redis://environment")
    assert find_access(home=tmp_path) == Access("redis://environment", b"file-key", None)
    assert find_access("unix:///argument", tmp_path) == Access("unix:///argument", b"file-key", None)


def test_key_is_the_environment_then_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_access("redis://host", tmp_path) == Access("redis://host", None, None)
    write_access(tmp_path, URL, b"file-key")
    monkeypatch.setenv("QUEUE_EVAL_KEY", "environment-key")
    assert find_access(home=tmp_path) == Access(URL, b"environment-key", tmp_path)
    (tmp_path / ACCESS_FILE).chmod(0o644)  # with url and key given, the file is not even looked at
    assert find_access("redis://host", tmp_path) == Access("redis://host", b"environment-key", None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    write_access(tmp_path, URL, b"k1")
    path = tmp_path / ACCESS_FILE
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        read_access(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"key": "k"}', b'{"url": 3}', b'{"url": "redis://h", "key": 3}', b"\xff\xfe"],
)
def test_malformed_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ACCESS_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"access file .*access\.json") as caught:
        read_access(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://host", "host:6379", "redis:host", "redis://", "://x", "http://u:secret@h"]
)
def test_other_urls_are_refused_without_showing_a_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="redis://, rediss://, unix://") as caught:
        find_access(url, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://driver:secret@host/1?ssl_ca_certs=f", "rediss://driver:***@host/1?ssl_ca_certs=f"),
        ("redis://:se@cr:et@host", "redis://:***@host"),
        ("redis://us@er:secret@host", "redis://***@host"),
        ("redis://secret@host", "redis://***@host"),
        ("redis://secret:user@host", "redis://***@host"),
        ("redis://user:secret", "redis://***"),
        ("redis://:sec/r#e?t@host", "redis://***"),
        ("rediss://host/1?secret=1", "rediss://***"),
        ("redsi://host/1", "***"),
        ("unix:///run/q.sock?password=secret&db=1", "unix:///run/q.sock?password=***"),
        ("unix://:secret@/run/q.sock?db=0", "unix://:***@/run/q.sock?db=0"),
        ("unix:///run/a:b%40c.sock", "unix:///run/a:b%40c.sock"),
        ("unix:///user:secret@/q.sock", "unix://***"),
        ("redis://host?db=1&password=secret", "redis://host?db=1&password=***"),
    ],
)
def test_safe_url(url: str, safe: str) -> None:
    assert safe_url(url) == safe


def test_repr_shows_neither_password_nor_key() -> None:
    shown = repr(Access(URL, b"key-secret", None)) + str(Access(URL, b"key-secret", None))
    assert "secret" not in shown
    assert "redis://:***@host:6379/0" in shown
