"""`current_job` outside a job, and with texts that are no token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import queue_eval
from queue_eval.errors import ReportError, UsageError


def test_outside_a_job_it_does_nothing() -> None:
    job = queue_eval.current_job()
    assert (job.id, job.campaign, job.attempt, job.config, job.worker, job.slots) == (0, "", 0, {}, "", 1)
    assert (job.remaining_s, job.checkpoint, job.stop_requested) == (None, None, None)
    job.report(1, loss=0.5)
    with pytest.raises(ReportError):
        job.report(1, loss="low")
    job.give_back("no effect")
    with job.save_checkpoint() as folder:
        (folder / "model").write_text("x")
    assert not folder.exists()
    assert job.checkpoint is None
    assert queue_eval.current_job(job.token()) is job


def test_the_folder_outside_a_job_is_removed_at_exit() -> None:
    program = "import queue_eval as q, os; f = q.current_job().folder; print(f); f.joinpath('x').touch(); "
    forks = "pid = os.fork(); pid and os.waitpid(pid, 0); print(f.is_dir()) if pid else None"
    said = subprocess.check_output([sys.executable, "-W", "ignore", "-c", program + forks], text=True)
    folder, stayed = said.split()
    assert stayed == "True"
    assert not Path(folder).exists()


@pytest.mark.parametrize("token", ["x", "e30=", "W10=", "\N{SNOWMAN}", "eyJhIjoxfQ==", "A" * 100_000])
def test_a_text_that_is_no_token(token: str) -> None:
    with pytest.raises(UsageError, match="this is no token"):
        queue_eval.current_job(token)


def test_importing_the_package_does_not_import_it() -> None:
    program = "import queue_eval, sys; print('queue_eval.runtime.current_job' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program]) == b"False\n"
