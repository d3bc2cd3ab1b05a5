"""What a local worker is started with, and its digest."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from queue_eval.driver.launch import LAUNCH_KEY, NOISE, NOISE_PREFIXES, Launch, is_noise, launch_key
from queue_eval.errors import WorkerError
from queue_eval.transport.access import Access

PYTHON = "/usr/bin/python3"


def digest(key: bytes = b"key", **environment: str) -> str:
    return Launch("python 3.11", PYTHON, "/here", environment).digest(key)


def test_each_part_counts():
    digests = {
        digest(), digest(A="1"), digest(A="2"), digest(A="1", B="2"), digest(A="1B=2"), digest(b"k2", A="1"),
        Launch("python 3.13", PYTHON, "/here", {}).digest(b"key"),
        Launch("python 3.11", "/opt/python3", "/here", {}).digest(b"key"),
        Launch("python 3.11", PYTHON, "/there", {}).digest(b"key"),
        Launch("python 3.11", PYTHON, None, {}).digest(b"key"),
    }  # fmt: skip
    assert len(digests) == 10
    assert digest(A="1", B="2") == digest(B="2", A="1"), "the order of variables is nobody's doing"
    assert digest(A="\udcff") != digest(A="x"), "what is no text counts, too"


COUNTS = (
    "PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LANG", "TMPDIR", "SSH_AUTH_SOCK", "DISPLAY", "SLURM_JOB_ID",
    "XDG_RUNTIME_DIR", "TERMINAL", "HOME",
)  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_what_may_change_a_job_counts(name):
    assert not is_noise(name)
    assert digest(**{name: "1"}) != digest(**{name: "2"})


def test_the_terminal_and_the_session_do_not_count():
    noise = dict.fromkeys([*NOISE, *(f"{prefix}X" for prefix in NOISE_PREFIXES)], "1")
    assert digest(**noise) == digest()


def test_every_variable_that_does_not_count_is_in_the_docs():
    said = (Path(__file__).parents[3] / "docs" / "evaluator.md").read_text()
    assert not [name for name in (*NOISE, *NOISE_PREFIXES) if f"`{name}`" not in said]


def test_nothing_of_it_is_shown():
    assert "secret" not in repr(Launch("p", PYTHON, "/here", {"PASSWORD": "secret"}))


def test_the_key_is_that_of_the_access_file_or_the_homes_own(tmp_path):
    home = tmp_path / "home"
    assert launch_key(Access("redis://h", b"theirs", home), home) == b"theirs"
    assert not home.exists()
    with ThreadPoolExecutor(8) as pool:
        keys = {*pool.map(lambda _: launch_key(Access("redis://h", None, None), home), range(8))}
    (key,) = keys
    assert len(key) == 64
    assert stat.S_IMODE((home / LAUNCH_KEY).stat().st_mode) == 0o600
    assert {path.name for path in home.iterdir()} == {".gitignore", "home.id", LAUNCH_KEY}


def test_a_folder_that_is_gone_is_told_in_a_sentence(tmp_path):
    launch = Launch("python", PYTHON, str(tmp_path / "gone"), {})
    with (tmp_path / "log").open("wb") as log, pytest.raises(WorkerError, match=r"no worker can be .*gone"):
        launch.start(["true"], log, Access("redis://h", None, None))
