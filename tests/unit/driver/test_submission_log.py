"""What a driver remembers of its last submissions."""

from __future__ import annotations

from queue_eval.driver.batch_sender import Placement
from queue_eval.driver.submission_log import (
    MAX_REMEMBERED_JOBS,
    REMEMBER_FINISHED_MS,
    SubmissionLog,
)
from queue_eval.model.job import Job
from queue_eval.model.moves import Submission

DAY_MS = 86_400_000
CONFIG, FINGERPRINT = '{"x":1}', b"f" * 12


class EmptyServer:
    """It has forgotten all."""

    def configs_of(self, ids):
        return [None] * len(ids)

    def retried(self):
        return 0


def send(log, ids, at_ms, *, done=True):
    jobs = []
    for id_ in ids:
        job = Job(id_, {"x": 1}, None)
        job.submitted_ms = at_ms
        job.status = Job.DONE if done else Job.RUNNING
        jobs.append(job)
    submissions = [Submission(CONFIG, FINGERPRINT, id_) for id_ in ids]
    log.add(jobs, submissions, Placement(priority=3, delay_ms=5, slots=2))
    return jobs


def found(log):
    return [sent.job.id for sent in log.find_rolled_back(EmptyServer())]


def test_all_that_it_takes_to_send_them_again_is_kept_in_order():
    log = SubmissionLog()
    (job,) = send(log, [1], DAY_MS)
    send(log, [2, 3], DAY_MS + 1)
    send(log, [], DAY_MS + 2)
    first, *others = log.find_rolled_back(EmptyServer())
    assert (first.job, first.submission) == (job, Submission(CONFIG, FINGERPRINT, 1))
    assert (first.placement.priority, first.placement.delay_ms, first.placement.slots) == (3, 5, 2)
    assert [sent.job.id for sent in others] == [2, 3]


def test_what_is_over_is_forgotten_after_a_while():
    log = SubmissionLog()
    send(log, [1, 2], DAY_MS)
    send(log, [3], DAY_MS + REMEMBER_FINISHED_MS)
    assert found(log) == [1, 2, 3]
    send(log, [4], DAY_MS + REMEMBER_FINISHED_MS + 1)
    assert found(log) == [3, 4]


def test_what_is_not_over_is_kept():
    log = SubmissionLog()
    send(log, [1], DAY_MS, done=False)
    send(log, [2], DAY_MS + 2 * REMEMBER_FINISHED_MS)
    assert found(log) == [1, 2]


def test_no_more_than_so_many_are_kept():
    log = SubmissionLog()
    for start in range(0, MAX_REMEMBERED_JOBS + 3000, 1000):
        send(log, range(start + 1, start + 1001), DAY_MS, done=False)
    assert found(log) == list(range(3001, MAX_REMEMBERED_JOBS + 3001))
