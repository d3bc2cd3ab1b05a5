"""Commands in messages name the server that they are for, and never its password."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_attach, spell_command, spell_worker

URL = "redis://:secret@box:6379"


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch, tmp_path):
    for name in ("HOME", "URL", "ACCESS", "KEY"):
        monkeypatch.delenv(f"QUEUE_EVAL_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("access", "option", "argument"),
    [
        (Access(URL, None, Path("/a b"), file=Path("/a b/access.json")), " --home '/a b'", ", home='/a b'"),
        (Access(URL, None, None, file=Path("/f.json")), " --access /f.json", ", access='/f.json'"),
        (Access(URL, None, None), " --url URL", ", url=URL"),
    ],
)
def test_a_command_names_its_server(access, option, argument):
    assert spell_command(access, "cancel", "c") == f"queue-eval cancel c{option}"
    assert spell_worker(access, "c", "-n", "2") == f"queue-eval worker -n 2{option} --campaign c"
    assert spell_attach(access, "c") == f"Evaluator.attach('c'{argument})"


def test_what_is_found_without_is_not_named(monkeypatch, tmp_path):
    in_default_home = Access(URL, None, tmp_path / ".queue_eval")
    assert spell_command(in_default_home, "worker") == "queue-eval worker"
    assert spell_attach(in_default_home, "c") == "Evaluator.attach('c')"
    monkeypatch.setenv("QUEUE_EVAL_HOME", "/elsewhere")
    assert spell_command(Access(URL, None, Path("/elsewhere")), "worker") == "queue-eval worker"
    assert "--home" in spell_command(in_default_home, "worker")
    monkeypatch.setenv("QUEUE_EVAL_URL", URL)
    assert spell_command(Access(URL, None, None), "worker") == "queue-eval worker"
    assert spell_command(None, "worker") == "queue-eval worker"
