"""An attempt in a process that belongs to others."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from queue_eval.marks import INSIDE_JOB
from queue_eval.runtime.pipe import FrameBuffer, Report, Setup, parse_report
from queue_eval.runtime.ray_host import RayHost


def run(process: RayHost, job: int) -> Report:
    ((header, body),) = FrameBuffer().feed(process.run(job, 1, 1, b"{}"))
    return parse_report(header, body)


@pytest.mark.parametrize(
    ("raised", "then"), [("KeyboardInterrupt", "ok"), ("SystemExit", "error"), ("ValueError", "error")]
)
def test_an_interrupted_load_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str, then: str
) -> None:
    """Ray stops an attempt by interrupting it, perhaps while it imports; those after it did no wrong."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = f"interrupted_{raised.lower()}"
    (tmp_path / "first").touch()
    (tmp_path / f"{module}.py").write_text(
        "import pathlib\n"
        "first = pathlib.Path(__file__).with_name('first')\n"
        "if first.exists():\n"
        "    first.unlink()\n"
        f"    raise {raised}\n"
        "def run(config):\n"
        "    return config['id']\n"
    )
    process = RayHost(Setup(f"{module}:run", None, (str(tmp_path),), {}, threads=1))
    assert run(process, 1).outcome == "error"
    second = run(process, 2)
    assert process._state is not None
    process._state._file.close()  # as the end of the process would
    assert second.outcome == then
    assert second.body == b"2" if then == "ok" else b"cannot be loaded" in second.body


def test_user_code_is_told_whose_job_it_runs_and_others_after_it_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "looks_around.py").write_text(
        "import os\ndef run(config):\n    return os.environ.get('QUEUE_EVAL_INSIDE_JOB')\n"
    )
    setup = Setup("looks_around:run", None, (str(tmp_path),), {}, threads=1, forward={"campaign": "mine"})
    process = RayHost(setup)
    report = run(process, 1)
    assert process._state is not None
    process._state._file.close()
    assert report.body == b'"mine"'
    assert INSIDE_JOB not in os.environ


def test_an_attempt_that_has_begun_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recall that comes too late must not make half a result of it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "interrupts_itself.py").write_text(
        "import _thread, time\n"
        "def run(config):\n"
        "    try:\n"
        "        _thread.interrupt_main()  # as Ray does\n"
        "        time.sleep(0.01)\n"
        "    except KeyboardInterrupt:\n"
        "        return 'half'\n"
        "    return 'whole'\n"
    )
    before = signal.getsignal(signal.SIGINT)
    process = RayHost(Setup("interrupts_itself:run", None, (str(tmp_path),), {}, threads=1))
    run(process, 1)
    report = run(process, 2)
    assert process._state is not None
    process._state._file.close()
    assert (report.outcome, report.body) == ("ok", b'"whole"')
    assert signal.getsignal(signal.SIGINT) is before
