"""Which Ray cluster would be joined, and what is said of one that is not there."""

from __future__ import annotations

import socket

import pytest

from tests.support.networks import free_ports
from workers.executors import ray_address
from workers.executors.ray_address import why_unreachable


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the address file lies."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


@pytest.fixture
def dead() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def alive():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_file_that_names_a_dead_cluster(folder, dead):
    (folder / "ray_current_cluster").write_text(f"{dead}\n")
    for arguments in ({}, {"address": None}):
        assert why_unreachable(arguments) == (
            f"no Ray cluster answers at {dead}, which {folder}/ray_current_cluster names "
            "(Connection refused); start it or remove that file"
        )


@pytest.mark.parametrize("runs_here", [False, True])
def test_auto_takes_another_cluster_that_runs_here(folder, dead, monkeypatch, runs_here):
    (folder / "ray_current_cluster").write_text(dead)
    monkeypatch.setattr(ray_address, "_is_any_here", lambda: runs_here)
    assert (why_unreachable({"address": "auto"}) is None) is runs_here


def test_addresses_that_are_given(folder, dead, alive, monkeypatch):
    assert why_unreachable({"address": dead}) == (
        f"no Ray cluster answers at {dead} (Connection refused); start it, or give its address"
    )
    monkeypatch.setenv("RAY_ADDRESS", dead)
    assert dead in str(why_unreachable({"address": "auto"}))
    assert dead in str(why_unreachable({}))
    (folder / "ray_current_cluster").write_text(dead)
    monkeypatch.setenv("RAY_ADDRESS", alive)
    assert why_unreachable({}) is None


def test_a_folder_that_is_given(folder, tmp_path, dead):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "ray_current_cluster").write_text(dead)
    assert dead in str(why_unreachable({"_temp_dir": str(tmp_path / "own")}))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"address": "local"}, {"address": "auto"}, {"address": "ray://nobody:10001"}, {"address": "x:y"},
     {"address": "nobody"}],
)  # fmt: skip
def test_what_ray_is_left_to_say(arguments):
    assert why_unreachable(arguments) is None


def test_names_and_ports_that_cannot_be(dead):
    assert "no Ray cluster answers" in str(why_unreachable({"address": "127.0.0.1:99999"}))
    assert "no Ray cluster answers" in str(why_unreachable({"address": "no-such-host.invalid:6379"}))
