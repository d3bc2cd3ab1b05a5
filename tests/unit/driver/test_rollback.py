"""What a driver remembers of its last submissions."""

from __future__ import annotations

from queue_eval.driver.rollback import _KEPT_MS as KEPT_MS
from queue_eval.driver.rollback import _MOST as MOST
from queue_eval.driver.rollback import Undone
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


def send(undone, ids, at_ms, *, done=True):
    jobs = []
    for id_ in ids:
        job = Job(id_, {"x": 1}, None)
        job.submitted_ms = at_ms
        job.status = Job.DONE if done else Job.RUNNING
        jobs.append(job)
    submissions = [Submission(CONFIG, FINGERPRINT, id_) for id_ in ids]
    undone.add(jobs, submissions, priority=3, delay_ms=5, slots=2)
    return jobs


def found(undone):
    return [sent.job.id for sent in undone.find(EmptyServer())]


def test_all_that_it_takes_to_send_them_again_is_kept_in_order():
    undone = Undone()
    (job,) = send(undone, [1], DAY_MS)
    send(undone, [2, 3], DAY_MS + 1)
    send(undone, [], DAY_MS + 2)
    first, *others = undone.find(EmptyServer())
    assert (first.job, first.submission) == (job, Submission(CONFIG, FINGERPRINT, 1))
    assert (first.priority, first.delay_ms, first.slots) == (3, 5, 2)
    assert [sent.job.id for sent in others] == [2, 3]


def test_what_is_over_is_forgotten_after_a_while():
    undone = Undone()
    send(undone, [1, 2], DAY_MS)
    send(undone, [3], DAY_MS + KEPT_MS)
    assert found(undone) == [1, 2, 3]
    send(undone, [4], DAY_MS + KEPT_MS + 1)
    assert found(undone) == [3, 4]


def test_what_is_not_over_is_kept():
    undone = Undone()
    send(undone, [1], DAY_MS, done=False)
    send(undone, [2], DAY_MS + 2 * KEPT_MS)
    assert found(undone) == [1, 2]


def test_no_more_than_so_many_are_kept():
    undone = Undone()
    for start in range(0, MOST + 3000, 1000):
        send(undone, range(start + 1, start + 1001), DAY_MS, done=False)
    assert found(undone) == list(range(3001, MOST + 3001))
