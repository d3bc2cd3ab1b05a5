"""The states of a driver's recovery after a rollback of the server."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest

from queue_eval.driver.batch_sender import BatchSender, Placement
from queue_eval.driver.ledger import Ledger
from queue_eval.driver.recovery import Recovery, RecoveryState
from queue_eval.driver.submission_log import SubmissionLog
from queue_eval.errors import DamagedError
from queue_eval.model.job import Job
from queue_eval.model.moves import Enqueued, EnqueueReply, Opened, Submission

VERIFIED, UNVERIFIED, RESUBMITTING = RecoveryState


class Server:
    """A campaign on a server that can lose its jobs. `…_fault` is called before a lookup, or a batch."""

    campaign = "c"

    def __init__(self):
        self.link = SimpleNamespace(epoch=0)
        self.clock_ms = 1000
        self.jobs = {}
        self.is_damaged = False
        self.lookup_fault = self.send_fault = lambda: None

    def standing(self):
        return Opened(
            created=False, uid="u", created_ms=500, opened_ms=500, last_id=len(self.jobs), finished=0,
            tail="0-0", function="f", method="thread", source="", options="{}", retried=0,
        )  # fmt: skip

    def is_registered(self):
        return True

    def retried(self):
        return 0

    def configs_of(self, ids):
        if self.is_damaged:
            raise DamagedError("a key is no hash")
        self.lookup_fault()
        return [self.jobs.get(job_id) for job_id in ids]

    def index_of(self, ids):
        return [None for _ in ids]

    def enqueue(self, driver, number, batch, **placement):
        self.send_fault()
        answers = []
        for submission in batch:
            self.clock_ms += 1
            answers.append(Enqueued(len(self.jobs) + 1, None, self.clock_ms))
            self.jobs[len(self.jobs) + 1] = (self.clock_ms, submission.config.encode())
        return EnqueueReply(self.clock_ms, answers, None)


class Driver:
    """Two submitted jobs of different placements, which are resubmitted one by one."""

    def __init__(self):
        self.server = Server()
        ledger = Ledger(self.server.standing())
        sender = BatchSender(self.server, ledger, reuse=False)
        submissions = SubmissionLog()
        self.recovery = Recovery(self.server, ledger, sender, submissions)
        for priority in (0, 1):
            placement, batch = Placement(priority), [Submission(f'{{"x":{priority}}}', b"f" * 12)]
            reply = sender.send(batch, placement)
            job = Job(reply.jobs[0].id, {}, None)
            job.submitted_ms = reply.jobs[0].submitted_ms
            sender.register([job], reply.jobs, None)
            submissions.add([job], batch, placement)

    def reconnect(self):
        self.server.link.epoch += 1

    def roll_back(self):
        self.server.jobs.clear()
        self.reconnect()

    def verify(self):
        self.recovery.verify()

    def reconnect_while_looking(self):
        self._verify_with("lookup_fault", self.reconnect)

    def roll_back_while_looking(self):
        self._verify_with("lookup_fault", self.roll_back)

    def reconnect_while_resubmitting(self):
        self._verify_with("send_fault", self.reconnect)

    def interrupt_after_one_job(self):
        self._verify_with("send_fault", self._interrupt_the_second)

    def find_damage(self):
        self.server.is_damaged = True
        self.verify()
        self.server.is_damaged = False

    def _interrupt_the_second(self):
        if self.server.jobs:
            raise KeyboardInterrupt

    def _verify_with(self, call, fault):
        setattr(self.server, call, fault)
        with suppress(KeyboardInterrupt):
            self.verify()
        setattr(self.server, call, lambda: None)


@pytest.mark.parametrize(
    "transitions",
    [
        [("verify", VERIFIED)],
        [("reconnect", UNVERIFIED), ("verify", VERIFIED)],
        [("reconnect", UNVERIFIED), ("reconnect_while_looking", UNVERIFIED), ("verify", VERIFIED)],
        [("reconnect", UNVERIFIED), ("roll_back_while_looking", RESUBMITTING), ("verify", VERIFIED)],
        [("roll_back", UNVERIFIED), ("verify", VERIFIED)],
        [("roll_back", UNVERIFIED), ("reconnect_while_resubmitting", RESUBMITTING), ("verify", VERIFIED)],
        [("roll_back", UNVERIFIED), ("interrupt_after_one_job", RESUBMITTING), ("verify", VERIFIED)],
        [
            ("roll_back", UNVERIFIED),
            ("interrupt_after_one_job", RESUBMITTING),
            ("roll_back", RESUBMITTING),
            ("reconnect_while_looking", RESUBMITTING),
            ("verify", VERIFIED),
        ],
        [
            ("roll_back", UNVERIFIED),
            ("find_damage", VERIFIED),
            ("reconnect", UNVERIFIED),
            ("verify", VERIFIED),
        ],
        [
            ("roll_back", UNVERIFIED),
            ("interrupt_after_one_job", RESUBMITTING),
            ("find_damage", VERIFIED),
            ("reconnect", RESUBMITTING),
            ("verify", VERIFIED),
        ],
    ],
)
def test_transitions_end_with_every_job_on_the_server(transitions):
    driver = Driver()
    assert driver.recovery.state is VERIFIED
    for event, state in transitions:
        getattr(driver, event)()
        assert (event, driver.recovery.state) == (event, state)
    assert sorted(config for _, config in driver.server.jobs.values()) == [b'{"x":0}', b'{"x":1}']
