"""A campaign as one driver works on it: opening, submission, adoption, reuse, history.

Puts together the campaign on the server (`CampaignQueue`) and the driver's memory of it (`Ledger`). What
takes time, or may be interrupted, is read before anything is changed; changes are made under the lock.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from queue_eval.campaign.commands import CampaignQueue
from queue_eval.campaign.history import Past, past_pages, without_collections
from queue_eval.campaign.paging import PAGE, Portion, batches
from queue_eval.campaign.result_stream import ResultEntry, ResultReader, entry_order, lost_entry
from queue_eval.driver.fill import fill, rebuilt
from queue_eval.driver.ledger import Ledger, Origin, Watcher
from queue_eval.driver.rollback import Sent, Undone, groups
from queue_eval.driver.sources import SourceCheck
from queue_eval.errors import DamagedError
from queue_eval.foreign_text import plain
from queue_eval.model.codec import FAIL_RETURN_VALUE, canonical
from queue_eval.model.job import Job
from queue_eval.model.moves import Enqueued, EnqueueReply, Opened, Submission
from queue_eval.model.states import State

log = plain(logging.getLogger(__name__))

STEP_S = 1.0
"""Longest wait for results at a stretch: how soon chores are done and an interruption is noticed."""

CheckedConfig = tuple[dict[str, Any], str]
"""A private copy of a config, and its JSON (see `codec.encode_config`)."""


class Campaign:
    """One driver's side of a campaign.

    Guarantees: each outcome of a job of this driver enters the ledger once. `lock` is held for every look
    at, or change of, `ledger`; it is a condition that is notified when outcomes have arrived. Assumes:
    `read` is called by one thread at a time, `submit` too.
    """

    def __init__(
        self, queue: CampaignQueue, opened: Opened, run_function: Any, *, reuse: bool, keep: bool = True,
        failure_value: Any = FAIL_RETURN_VALUE,
    ) -> None:  # fmt: skip
        self.queue = queue
        self.opened = opened
        self.ledger = Ledger(opened, keep)
        self.lock = threading.Condition()
        self._run_function = run_function
        self._reuse = reuse
        self._failure_value = failure_value
        self._driver = secrets.token_hex(8)
        self._sequence = 0
        self._sending = threading.RLock()
        self._undone = Undone()
        self._sure_at = queue.link.doubts
        self._is_restored = True
        """Whether all that was found to be undone is on the server again."""
        self._occurrences: Counter[bytes] = Counter()
        self._reader = ResultReader(queue.link, queue.keys.results, opened.tail, max_block_s=STEP_S)
        self._hosts: dict[str, str] = {}
        self._history: list[Job] | None = None
        self.sources: SourceCheck | None = None
        """None for a driver that does not know the run function."""

    # Submission ---------------------------------------------------------------------------------------

    def submit(
        self, configs: Iterable[CheckedConfig], *, priority: int = 0, delay_ms: int = 0, slots: int = 1,
        job: Job | None = None, watcher: Watcher | None = None,
    ) -> list[Job]:  # fmt: skip
        """Send configs; the jobs, once the server has acknowledged them. Each takes so many `slots`.

        `job`: use this one for the only config; `watcher` is then called with it when it is finished, and
        no gather returns it.
        """
        with self._sending:
            return self._submit(list(configs), priority, delay_ms, slots, job, watcher)

    def _submit(
        self, configs: Sequence[CheckedConfig], priority: int, delay_ms: int, slots: int, job: Job | None,
        watcher: Watcher | None,
    ) -> list[Job]:  # fmt: skip
        with self.lock:
            self.ledger.submitting = True
        try:
            return self._send(configs, priority, delay_ms, slots, job, watcher)
        finally:
            with self.lock:
                self.ledger.submitting = False
                self.ledger.early.clear()

    def _send(
        self, configs: Sequence[CheckedConfig], priority: int, delay_ms: int, slots: int, job: Job | None,
        watcher: Watcher | None,
    ) -> list[Job]:  # fmt: skip
        jobs: list[Job] = []
        ahead: Counter[bytes] = Counter()
        for batch in batches(self._submission(config, text, ahead) for config, text in configs):
            reply = self._place(batch, priority, delay_ms, slots)
            if self._reuse:
                self._occurrences.update(submission.fingerprint for submission in batch)
                ahead.subtract(submission.fingerprint for submission in batch)
            new = []
            sent = configs[len(jobs) : len(jobs) + len(batch)]
            for (config, _), answer in zip(sent, reply.jobs, strict=True):
                one = job or Job.owning(answer.id, config, self._run_function)
                one.id = one.config["id"] = answer.id
                one.status, one.submitted_ms = Job.RUNNING, answer.submitted_ms
                one.state = State.SCHEDULED if delay_ms else State.PENDING
                new.append(one)
            self._register(new, reply.jobs, reply.fence, watcher)
            self._undone.add(new, batch, priority=priority, delay_ms=delay_ms, slots=slots)
            jobs += new
        return jobs

    def _place(
        self, batch: Sequence[Submission], priority: int, delay_ms: int, slots: int
    ) -> EnqueueReply:
        """Enqueue. If the server may have gone back in time, what it has forgotten has its ids before this
        returns: they may be those that these were given."""
        reply = self._enqueue(batch, priority, delay_ms, slots)
        while self.queue.link.doubts != self._sure_at:
            self._make_sure()
            # With reuse these may have taken the places of equal configs that were forgotten, and have joined
            # them again since: once more, each gets its own.
            if self._reuse or not self._has(reply):
                reply = self._enqueue(batch, priority, delay_ms, slots)
        return reply

    def _has(self, reply: EnqueueReply) -> bool:
        """Whether the server still has what it has acknowledged."""
        origins = self.queue.configs_of([answer.id for answer in reply.jobs])
        pairs = zip(origins, reply.jobs, strict=True)
        return all(origin is not None and origin[0] == answer.submitted_ms for origin, answer in pairs)

    def _enqueue(
        self, batch: Sequence[Submission], priority: int, delay_ms: int, slots: int
    ) -> EnqueueReply:
        # Counted before it is sent: if the reply never comes, its number is not used for another batch.
        self._sequence += 1
        return self.queue.enqueue(
            self._driver, self._sequence, batch, reuse=self._reuse, priority=priority, delay_ms=delay_ms,
            slots=slots,
        )  # fmt: skip

    def _submission(self, config: dict[str, Any], text: str, ahead: Counter[bytes]) -> Submission:
        fingerprint = blake2b(canonical(config).encode(), digest_size=12).digest()
        if not self._reuse:
            return Submission(text, fingerprint)
        ahead[fingerprint] += 1
        return Submission(text, fingerprint, self._occurrences[fingerprint] + ahead[fingerprint])

    def _register(
        self, jobs: Sequence[Job], answers: Sequence[Enqueued], fence: str | None,
        watcher: Watcher | None,
    ) -> None:  # fmt: skip
        old = [
            job for job, answer in zip(jobs, answers, strict=True)
            if answer.entry is not None or answer.id <= self.ledger.horizon
        ]  # fmt: skip
        late = {job.id for job in old if (job.submitted_ms or 0) > self.opened.opened_ms}
        if late and not self._retried():
            late.clear()  # a clock that was set back
        with self.lock:
            for job, answer in zip(jobs, answers, strict=True):
                if watcher is not None:
                    self.ledger.watchers[job.id] = watcher
                self.ledger.add(job, answer.entry, fence, retried=job.id in late)

    def hand_to_gather(self, job: Job) -> None:
        """A finished job is awaited no more: the next gather returns it."""
        with self.lock:
            self.ledger.reopen(job)
            self.lock.notify_all()

    def next_id(self) -> int:
        """An id for a job that is not submitted yet; the server may give it another."""
        with self.lock:
            self.ledger.last_id += 1
            return self.ledger.last_id

    # A server that has gone back in time ---------------------------------------------------------------

    def _make_sure(self) -> None:
        """Submit again what the server has forgotten. Assumes that this thread holds `_sending`."""
        doubts = self.queue.link.doubts
        try:
            doubts = self._restore()
        except DamagedError as error:  # which tells nothing of what was forgotten
            log.warning("cannot see whether the server has gone back in time: %s", error)
        self._sure_at = doubts

    def _restore(self) -> int:
        """The doubts before it looked: those that have come since are new ones."""
        is_registered = self.queue.is_registered()
        # As little as possible comes after this: where replies are lost all the time it must end at last.
        doubts = self.queue.link.doubts
        undone = self._undone.find(self.queue, in_order=self._is_restored)
        now = self.queue.standing()
        if undone:
            self._is_restored = False
            log.warning(
                "the server has gone back in time (a power cut, a failover): %d jobs of campaign %s are "
                "submitted again, from job %d on", len(undone), self.queue.campaign, undone[0].job.id,
            )  # fmt: skip
        with self.lock:
            self.ledger.forgotten = {sent.job.id: sent.job for sent in undone}
            if now.last_id < self.ledger.horizon:
                for id_ in range(now.last_id + 1, self.ledger.horizon + 1):
                    self.ledger.counted.add(id_)
            if undone or entry_order(now.tail) < entry_order(self.ledger.cursor):
                # From further back: what has come since may have an earlier time than what was undone.
                self.ledger.cursor = min(now.tail, self.opened.tail, key=entry_order)
                self.ledger.early.clear()
        for batch in groups(undone, PAGE):
            self._send_again(batch)
        with self.lock:
            self.ledger.forgotten.clear()
        self._is_restored = self._is_restored or self.queue.link.doubts == doubts
        self._look_at_joined()
        if not is_registered:
            self.queue.register(now.created_ms)
        return doubts

    def _send_again(self, batch: Sequence[Sent]) -> None:
        first = batch[0]
        reply = self._enqueue(
            [sent.submission for sent in batch], first.priority, first.delay_ms, first.slots
        )
        waiting: list[tuple[Job, Enqueued]] = []
        with self.lock:
            for sent, answer in zip(batch, reply.jobs, strict=True):
                self.ledger.renumber(sent.job, answer.id)
                sent.job.submitted_ms = answer.submitted_ms
                if sent.job.status != Job.DONE:
                    waiting.append((sent.job, answer))
                elif answer.id <= self.ledger.horizon:
                    # Its outcome is known here; that of the second time is nobody's.
                    self.ledger.counted.add(answer.id)
        self._register([job for job, _ in waiting], [answer for _, answer in waiting], reply.fence, None)

    def _look_at_joined(self) -> None:
        """Jobs that were joined as finished may be open again."""
        with self.lock:
            joined = list(self.ledger.joined.items())
        index = self.queue.index_of([id_ for id_, _ in joined])
        with self.lock:
            for (id_, entry), current in zip(joined, index, strict=True):
                if self.ledger.joined.get(id_) == entry and current != entry:
                    del self.ledger.joined[id_]
                    if current is not None:
                        self.ledger.joined[id_] = current

    # Outcomes -----------------------------------------------------------------------------------------

    def read(self, block_s: float) -> bool:
        """Take in outcomes, waiting up to `block_s` for the first; whether there may be more at once."""
        doubts = self.queue.link.doubts
        if doubts != self._sure_at:
            return self._reassure(block_s)
        if self._take_joined(doubts):
            block_s = 0.0  # it may be enough
        # The ledger's cursor counts, not the reader's: what was read but not taken in is read again.
        self._reader.cursor = self.ledger.cursor
        entries = self._reader.read(block_s)
        if entries:
            self._take(entries, doubts, entries[-1].entry)
        return self._reader.may_have_more or self.queue.link.doubts != doubts

    def _reassure(self, block_s: float) -> bool:
        """Make sure that nothing was forgotten, unless another thread is submitting; whether to read on."""
        if not self._sending.acquire(timeout=block_s):
            return False
        try:
            self._make_sure()
        finally:
            self._sending.release()
        return True

    def _take_joined(self, doubts: int) -> bool:
        with self.lock:
            joined = sorted(self.ledger.joined.items(), key=lambda item: entry_order(item[1]))
        portion = Portion()
        at = 0
        while page := joined[at : at + portion.count]:
            found = self.queue.entries([entry for _, entry in page])
            if not self._take(found, doubts):
                break
            at += len(page)
            portion.seen(len(page), sum(len(entry.body) for entry in found))
            there = {entry.entry for entry in found}
            self._give_up([(id_, entry) for id_, entry in page if entry not in there])
        return bool(joined)

    def _give_up(self, missing: Sequence[tuple[int, str]]) -> None:
        """End the wait for jobs that the index calls finished, and whose outcome is not there."""
        if not missing:
            return
        with self.lock:
            for id_, entry in missing:
                job = self.ledger.waiting.get(id_)
                # Another thread may have submitted the job again, or joined a later outcome, meanwhile.
                if self.ledger.joined.get(id_) == entry and job is not None:
                    self._fill(job, lost_entry(id_, entry))
                    self.ledger.resolve(job)
            self.lock.notify_all()

    def _take(self, entries: Sequence[ResultEntry], doubts: int, cursor: str | None = None) -> bool:
        """Whether they were taken in; the next are those after `cursor` then.

        Not if there are more `doubts` than before they were read: the server may have forgotten their jobs,
        and given the ids to others.
        """
        with self.lock:
            strangers = [e for e in entries if self.ledger.is_candidate(e)]
            ours = [e for e in entries if e.id in self.ledger.waiting]
        origins = self._origins([entry.id for entry in strangers])
        retried = bool(strangers) and self._retried()
        self._learn_hosts((*strangers, *ours))
        with self.lock:
            if self.queue.link.doubts != doubts:
                return False
            for entry in entries:
                self._apply(entry, origins.get(entry.id), retried=retried)
                if self.ledger.submitting:
                    self.ledger.early[entry.id] = entry.entry
            if cursor is not None:
                self.ledger.cursor = cursor
            self.lock.notify_all()
        return True

    def _apply(self, entry: ResultEntry, origin: Origin | None, *, retried: bool) -> None:
        ledger = self.ledger
        job = ledger.take(entry)
        if job is not None:
            self._fill(job, entry)
            ledger.resolve(job)
        elif origin is not None and ledger.is_candidate(entry):
            if ledger.is_adopted(entry, origin, retried=retried):
                ledger.resolve(self._rebuilt(entry, origin.submitted_ms, origin.config))
                ledger.counted.add(entry.id)
        elif entry.id in ledger.fences and entry.id <= ledger.horizon:
            # An outcome from before a retry that this driver has joined: if the job was adopted, that ended.
            stamp = ledger.tracked[entry.id].submitted_ms
            if stamp is not None and entry.finished_ms <= stamp:
                ledger.counted.add(entry.id)

    def _origins(self, ids: Sequence[int]) -> dict[int, Origin]:
        found = zip(ids, self.queue.configs_of(ids), strict=True)
        return {id_: Origin(*origin) for id_, origin in found if origin is not None}

    def _retried(self) -> bool:
        return self.queue.retried() != self.opened.retried

    def _learn_hosts(self, entries: Iterable[ResultEntry]) -> None:
        unknown = list({e.worker for e in entries if e.worker and e.worker not in self._hosts})
        for worker, host in zip(unknown, self.queue.hosts_of(unknown), strict=True):
            self._hosts[worker] = host or worker.rpartition("-")[0] or worker

    def _rebuilt(self, entry: ResultEntry, submitted_ms: int, config: bytes) -> Job:
        job = rebuilt(entry.id, submitted_ms, config, self._run_function)
        self._fill(job, entry)
        return job

    def _fill(self, job: Job, entry: ResultEntry) -> None:
        fill(job, entry, self._hosts.get(entry.worker), self.opened.created_ms, self._failure_value)

    # The past, and the end ----------------------------------------------------------------------------

    def history(self) -> list[Job]:
        """Jobs that had finished when the campaign was opened, in that order."""
        found = self._history
        if found is None:
            with without_collections():
                found = list(self._read_past(self.opened.tail))
            if self.ledger.keep:
                self._history = found
        with self.lock:
            for job in found:
                self.ledger.settle_in(job)
        return list(found)

    def gathered(self) -> Iterator[Job]:
        """Every job that was gathered, read from the server in the order in which they finished."""
        for job in self._read_past(self.queue.standing().tail):
            if job.id in self.ledger.gathered:
                yield job

    def _read_past(self, tail: str) -> Iterator[Job]:
        for page in past_pages(self.queue, tail):
            yield from self._of_the_past(page)

    def _of_the_past(self, page: Sequence[Past]) -> list[Job]:
        self._learn_hosts(entry for entry, _, _ in page)
        jobs = []
        with self.lock:
            tracked = self.ledger.tracked
            for entry, submitted_ms, config in page:
                job = tracked.get(entry.id)
                if job is None:
                    job = self._rebuilt(entry, submitted_ms, config)
                    if self.ledger.keep:
                        tracked[entry.id] = job
                elif job.status != Job.DONE:
                    self._fill(job, entry)
                jobs.append(job)
        return jobs

    def cancel(self, ids: Iterable[int]) -> int:
        """How many of these were cancelled by this call."""
        return len(self.queue.cancel(ids))

    def cancel_outstanding(self) -> int:
        """Cancel all of this driver's jobs, submitted or adopted; how many were."""
        with self.lock:
            ids = list(self.ledger.waiting)
            adopted = self.ledger.adopted
        count = self.cancel(ids)
        return count + (self.queue.cancel_up_to(self.ledger.horizon) if adopted else 0)

    def note_close(self) -> None:
        """Have an unnamed campaign expire by itself, if this driver has gathered all its results."""
        with self.lock:
            gathered = None if self.ledger.outstanding else len(self.ledger.gathered)
        if gathered is not None:
            self.queue.close(gathered)

    def close(self) -> None:
        self._reader.close()
        self.queue.link.close()
