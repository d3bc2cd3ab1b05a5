"""What user code prints, and what it does to the process it runs in: nothing breaks for those who follow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from queue_eval.model.states import Method
from queue_eval.runtime.pipe import OUTPUT_BYTES, FrameBuffer, Setup, encode_run, parse_report
from tests.support.executor_harness import (
    ROOT,
    Harness,
    is_running,
    members_of_session,
    result_of,
)
from tests.support.marks import long, soak
from tests.support.waiting import wait_until


@pytest.fixture
def shares_descriptors(method):
    """Descriptors belong to the process, so threads cannot have their own."""
    return method is Method.THREAD


def test_output_is_kept_per_attempt(make):
    executor = make()
    ended = executor.run(*({"do": "print", "text": f"text {i} ü"} for i in range(6)), {})
    for i, one in enumerate(ended[:6]):
        assert one.output.decode() == f"text {i} ü\nTEXT {i} Ü\n"
    assert ended[6].output == b""


def test_output_of_commands_is_kept(make, shares_descriptors):
    executor = make()
    (one,) = executor.run({"do": "shell"})
    assert result_of(one) == 0
    assert one.output == (b"" if shares_descriptors else b"from a shell\n")


def test_garbage_is_collected(make):
    """The child starts without, which is faster."""
    (told,) = make().run({"do": "tell_collector"})
    assert result_of(told) == [True, True]


def test_much_output_is_cut_in_the_middle(make):
    executor = make(slots=1)
    much, after = executor.run({"do": "print_much"}, {"do": "print", "text": "next"})
    assert len(much.output) < OUTPUT_BYTES + 100
    assert much.output.startswith(b"first line\nxxx")
    assert much.output.endswith(b"x\nlast line\n")
    # 1,000 lines of 5,000 and two short ones, less what is shown.
    assert b"[... %d bytes left out ...]" % (5_000_021 - OUTPUT_BYTES) in much.output
    assert after.output == b"next\nNEXT\n"


def test_output_that_is_no_text(make):
    executor = make(slots=1)
    raw, surrogates = executor.run({"do": "print_bytes"}, {"do": "print_surrogates"})
    assert raw.output == b"\xff\xfe not text\n"
    assert surrogates.output == "\\ud800 \N{SNOWMAN}\n".encode()


@pytest.mark.parametrize("act", ["close_streams", "close_descriptors", "redirect", "replace_stdout"])
def test_lost_streams_come_back(make, act):
    executor = make(slots=1)
    bad, *others = executor.run({"do": act}, {"do": "print", "text": "heard"}, {"do": "print", "text": "too"})
    assert bad.outcome == "ok"
    assert [one.output for one in others] == [b"heard\nHEARD\n", b"too\nTOO\n"]
    expected = {"redirect": b"before\n", "replace_stdout": b"said before, "}
    assert bad.output == expected.get(act, b"")


def test_closed_streams_among_threads(make):
    executor = make()
    ended = executor.run({"do": "close_streams"}, {}, {"do": "print", "text": "heard"})
    assert ended[2].output == b"heard\nHEARD\n"


def test_the_working_directory_comes_back(make, method, tmp_path):
    started_in = ROOT if method is Method.RQ else Path.cwd()
    executor = make(slots=1)
    _, after = executor.run({"do": "chdir", "folder": str(tmp_path / "removed")}, {"do": "cwd"})
    assert result_of(after) == str(started_in)


def test_signals(make):
    executor = make(slots=1)
    ended = executor.run({"do": "signals"}, {}, {"do": "alarm"}, {})
    assert [result_of(one) for one in ended] == ["handled", 2, None, 4]
    # A forgotten alarm must not go off in somebody else's attempt.
    pause = executor.submit({"do": "hang"})
    executor.until(executor.executor.begun)
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:
        executor.turn()
    assert pause[0] not in executor.ended


@pytest.mark.parametrize("act", ["fork_returning_twice", "fork_raising"])
def test_forks_that_come_back(make, act):
    executor = make()
    ended = executor.run(*[{"do": act}] * 3, {})
    assert [result_of(one) for one in ended] == ["parent"] * 3 + [4]


@pytest.mark.parametrize(
    "execution", ["process", *long("thread", "subprocess", "ray", "rq"), *soak("rq-simple")], indirect=True
)
def test_processes_and_threads_left_behind(make, method):
    executor = make()
    orphan, threads, after = executor.run({"do": "orphan"}, {"do": "threads_behind"}, {})
    assert (result_of(threads), result_of(after)) == (None, 3)
    if method in (Method.SUBPROCESS, Method.RQ):
        executor.until(lambda: not is_running(result_of(orphan)))
    executor.close()
    wait_until(lambda: not is_running(result_of(orphan)))  # it is killed; the kernel takes a moment


def test_which_process_runs_what(make, method):
    executor = make(slots=1)
    pids = {result_of(one) for one in executor.run(*[{"do": "pid"}] * 3)}
    if method is not Method.RAY:  # which takes whichever is idle
        assert len(pids) == (3 if method in (Method.SUBPROCESS, Method.RQ) else 1)
    assert os.getpid() not in pids


def test_an_interpreter_that_waits_for_its_attempt_has_run_nothing_of_the_users(tmp_path):
    (tmp_path / "tells_of_its_import.py").write_text(
        "import os, pathlib, time\n"
        "HERE = pathlib.Path(__file__).parent\n"
        "(HERE / f'imported-{os.getpid()}').touch()\n"
        "def run(config):\n"
        "    while config['id'] == 1 and not (HERE / 'gate').exists():\n"
        "        time.sleep(0.005)\n"
        "    return os.getpid()\n"
    )
    harness = Harness(Method.SUBPROCESS, "tells_of_its_import:run", slots=1, path=(tmp_path,))
    try:
        tokens = harness.submit({}, {}, {})
        harness.until(lambda: list(tmp_path.glob("imported-*")))
        first, spare = harness.children()
        process = psutil.Process(spare)
        # It has made its copies of stdout and stderr, and waits.
        harness.until(lambda: process.num_fds() >= 7 and process.status() == psutil.STATUS_SLEEPING)
        assert harness.executor.begun() == tokens[:1]
        assert [path.name for path in tmp_path.glob("imported-*")] == [f"imported-{first}"]
        (tmp_path / "gate").touch()
        pids = [result_of(one) for one in harness.wait(tokens)]
        assert pids[:2] == [first, spare]
        assert len({path.name for path in tmp_path.glob("imported-*")}) == len(set(pids)) == 3
        harness.until(lambda: not harness.children())
    finally:
        harness.close()


def test_user_code_is_told_whose_job_it_runs(make):
    """Wherever it runs: a driver that it makes must not wait for the slot that it takes."""
    harness = make("tests.support.nested_functions:inside")
    (ended,) = harness.run({})
    assert result_of(ended) == "test"


def test_a_worker_of_an_earlier_version_starts_the_child_in_its_own_way():
    """The package may be replaced under a running worker."""
    ours, theirs = socket.socketpair()
    lifeline_read, lifeline = os.pipe()
    fds = (theirs.fileno(), lifeline_read)
    command = [sys.executable, "-P", "-m", "queue_eval.runtime.child", *map(str, fds)]
    with ours, subprocess.Popen(command, pass_fds=fds, start_new_session=True) as child:
        theirs.close()
        os.close(lifeline_read)
        try:
            setup = Setup("tests.support.executor_functions:do", None, (str(ROOT),), {}, threads=1)
            ours.sendall(setup.encode() + encode_run(3, 1, b" {} "))
            frames, got = FrameBuffer(), []
            while len(got) < 2:
                got += frames.feed(ours.recv(1 << 16))
            assert parse_report(*got[1]).body == b"3"
        finally:
            os.close(lifeline)
        assert child.wait() == -signal.SIGKILL, "it dies with its parent"


PARENT = """
    import json
    import sys
    from queue_eval.model.states import Method
    from tests.support.executor_harness import Harness

    method, started, forward = Method(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    harness = Harness(method, "do", slots=1, forward=forward)
    harness.run({"do": "orphan"})
    harness.submit({"do": "hog", "started": started})
    print(0 if forward else harness.children()[0], flush=True)
    harness.until(lambda: False, timeout_s=60)
"""


def test_children_die_with_their_parent(method, others, tmp_path):
    """Even while user code holds the GIL, and with what they have left behind."""
    if method is Method.RQ:
        pytest.skip("what was forwarded to RQ outlives the worker: the next one joins it")
    started = tmp_path / "pid"
    forward = json.dumps(others.get("forward"))
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(method), str(started), forward]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            wait_until(started.exists)
            assert members_of_session(child) or method is Method.RAY
        finally:
            parent.kill()
        if method is Method.RAY:
            pid = int(started.read_text())
            wait_until(lambda: not is_running(pid))
        else:
            wait_until(lambda: not members_of_session(child))
