"""How a driver submits jobs.

::

    configs ──▶ batches ──▶ send ──▶ is the recovery's state VERIFIED? ──yes──▶ ledger ──▶ submission log
                             ▲                │ no
                             └── again, if ── verify: this batch, or jobs before it, may be rolled back
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import batches
from queue_eval.driver.batch_sender import BatchSender, Placement
from queue_eval.driver.ledger import CompletionHook, Ledger
from queue_eval.driver.recovery import Recovery, RecoveryState
from queue_eval.driver.submission_log import SubmissionLog
from queue_eval.errors import UsageError
from queue_eval.model.codec import canonical, decode_tag, encode_options
from queue_eval.model.job import Job, JobSource
from queue_eval.model.moves import Enqueued, EnqueueReply, Submission
from queue_eval.model.states import State

CheckedConfig = tuple[dict[str, Any], str, str]
"""A private copy of a config, its JSON (see `codec.encode_config`), and that of its tag; empty for none."""

_Occurrences = Counter[bytes]
"""How often each config was submitted, by its fingerprint."""


def encoded_tags(tags: Iterable[Any] | None, wanted: int) -> list[str]:
    """The JSON of so many tags; empty for None. Raises UsageError."""
    if tags is None:
        return [""] * wanted
    if isinstance(tags, (str, bytes, dict)) or not isinstance(tags, Iterable):
        raise UsageError(f"tags is of type {type(tags).__name__}; give a list with one tag for each config")
    given = list(tags)
    if len(given) != wanted:
        raise UsageError(f"tags holds {len(given)} for {wanted} configs; give one for each, None for none")
    return ["" if tag is None else encode_options(f"tags[{i}]", tag) for i, tag in enumerate(given)]


class Submitter:
    """Submits configs of one driver to its campaign.

    Guarantees: when `submit` returns, the server has acknowledged every job, and the ledger and the
    submission log have it. With reuse, the k-th submission of a config gets the campaign's k-th job with it.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, sender: BatchSender, recovery: Recovery,
        submissions: SubmissionLog, run_function: Any, source: JobSource, *, reuse: bool,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._ledger = ledger
        self._sender = sender
        self._recovery = recovery
        self._submissions = submissions
        self._run_function = run_function
        self._source = source
        self._reuse = reuse
        self._acknowledged: _Occurrences = Counter()

    def submit(
        self, configs: Sequence[CheckedConfig], placement: Placement, *, job: Job | None = None,
        hook: CompletionHook | None = None,
    ) -> list[Job]:  # fmt: skip
        """Submit configs. Returns their jobs, once the server has acknowledged them.

        `job`: use this one for the only config. `hook` is then called when it is finished.
        """
        with self._sender.lock:
            with self._ledger.lock:
                self._ledger.submitting = True
            try:
                return self._submit(configs, placement, job, hook)
            finally:
                with self._ledger.lock:
                    self._ledger.submitting = False
                    self._ledger.seen_during_submit.clear()

    def _submit(
        self, configs: Sequence[CheckedConfig], placement: Placement, job: Job | None,
        hook: CompletionHook | None,
    ) -> list[Job]:  # fmt: skip
        jobs: list[Job] = []
        on_their_way: _Occurrences = Counter()
        for batch in batches(self._submission(*config, on_their_way) for config in configs):
            reply = self._place(batch, placement)
            if self._reuse:
                self._acknowledged.update(submission.fingerprint for submission in batch)
                on_their_way.subtract(submission.fingerprint for submission in batch)
            sent_configs = configs[len(jobs) : len(jobs) + len(batch)]
            new = [
                self._started(job, config, tag, answer, placement)
                for (config, _, tag), answer in zip(sent_configs, reply.jobs, strict=True)
            ]
            self._sender.register(new, reply.jobs, reply.fence, hook)
            self._submissions.add(new, batch, placement)
            jobs += new
        return jobs

    def _submission(
        self, config: dict[str, Any], text: str, tag: str, on_their_way: _Occurrences
    ) -> Submission:
        fingerprint = blake2b(canonical(config).encode(), digest_size=12).digest()
        if not self._reuse:
            return Submission(text, fingerprint, tag=tag)
        on_their_way[fingerprint] += 1
        occurrence = self._acknowledged[fingerprint] + on_their_way[fingerprint]
        return Submission(text, fingerprint, occurrence, tag)

    def _place(self, batch: Sequence[Submission], placement: Placement) -> EnqueueReply:
        """Send a batch. Returns the reply that still holds after a rollback of the server.

        If the server may have rolled back, rolled-back jobs have ids again before this returns: the server
        may have given their former ids to this batch.
        """
        reply = self._sender.send(batch, placement)
        while self._recovery.state is not RecoveryState.VERIFIED:
            self._recovery.verify()
            # With reuse, this batch may have taken the places of rolled-back jobs with equal configs. Those
            # have joined its jobs when they were resubmitted. Sent again, each config gets a job of its own.
            if self._reuse or not self._has(reply):
                reply = self._sender.send(batch, placement)
        return reply

    def _has(self, reply: EnqueueReply) -> bool:
        """Whether the server still has the jobs that it has acknowledged."""
        origins = self._queue.configs_of([answer.id for answer in reply.jobs])
        pairs = zip(origins, reply.jobs, strict=True)
        return all(origin is not None and origin[0] == answer.submitted_ms for origin, answer in pairs)

    def _started(
        self, job: Job | None, config: dict[str, Any], tag: str, answer: Enqueued, placement: Placement
    ) -> Job:
        """The job that the server has acknowledged: `job`, else the one that was shown, else a new one."""
        adopted = self._ledger.adopted_jobs
        if job is None and adopted and (shown := adopted.get(answer.id)) is not None:
            shown.tag = decode_tag(answer.tag)
            return shown
        job = job or Job.owning(answer.id, config, self._run_function, self._source)
        job.id = job.config["id"] = answer.id
        job.status, job.submitted_ms = Job.RUNNING, answer.submitted_ms
        if kept := answer.tag or tag:
            job.tag = decode_tag(kept)
        job.state = State.SCHEDULED if placement.delay_ms else State.PENDING
        return job
