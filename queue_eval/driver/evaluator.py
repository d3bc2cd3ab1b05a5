"""The evaluator: a driver submits configs to it and gathers jobs. Its interface is DeepHyper 0.3.3's."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.campaign.replicas import await_replicas
from queue_eval.driver.awaited import SingleJobs
from queue_eval.driver.batch_sender import Placement
from queue_eval.driver.callbacks import Callbacks
from queue_eval.driver.chores import Chores
from queue_eval.driver.creation import DecidedAtCreation
from queue_eval.driver.interruption import TellInterrupted, describe_interruption
from queue_eval.driver.job_list import JobList
from queue_eval.driver.job_overview import JobOverview
from queue_eval.driver.ledger import CompletionHook
from queue_eval.driver.local_workers import LocalWorkers
from queue_eval.driver.looking import given_jobs
from queue_eval.driver.open import ServerSession, attach_campaign, open_campaign
from queue_eval.driver.options import (
    Keywords,
    Options,
    checked_priority,
    count,
    seconds,
    seconds_asked,
    time_request_of,
)
from queue_eval.driver.session import CampaignSession
from queue_eval.driver.submission import encoded_tags
from queue_eval.driver.waiter import Waiter
from queue_eval.errors import (
    GiveUp,
    JobFailed,
    QueueEvalError,
    SearchTerminationError,
    ServerError,
    UnknownMethodError,
    UsageError,
    WorkerError,
)  # fmt: skip
from queue_eval.model.codec import FAIL_RETURN_VALUE, encode_config
from queue_eval.model.job import Job
from queue_eval.model.report import Report
from queue_eval.model.states import Method, State
from queue_eval.transport.urls import unless_url
from queue_eval.user_warning import warn_user

_MAX_SLOTS = 10_000


class Evaluator(DecidedAtCreation, JobOverview):
    """Submits configs to a durable campaign and gathers the finished jobs.

    Guarantees: a finished job is gathered once. A driver that leaves, is interrupted or is killed loses
    nothing, since the campaign is on the server. Several threads may use it, also within a running event
    loop.

    `num_workers`: slots wanted in all on this machine, when workers are started here. `callbacks`: objects
    with ``on_launch(job)``, ``on_done(job)`` and ``on_report(job, report)``, or some of them. `options`: see
    `queue_eval.driver.options.Options`.
    """

    campaign: str
    """The name of the campaign."""
    num_workers: int
    """Slots wanted in all on this machine."""

    FAIL_RETURN_VALUE: ClassVar[float] = FAIL_RETURN_VALUE
    """Result of failed and cancelled jobs, without `failure_value`."""
    PYTHON_EXE: ClassVar[str] = os.environ.get("QUEUE_EVAL_PYTHON") or sys.executable
    """The interpreter of workers that are started here."""

    method: Method = Method.SUBPROCESS

    _class_of: ClassVar[dict[Method, type[Evaluator]]] = {}
    """The named classes, which `evaluators` defines. The package imports that module with this class."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Evaluator._class_of.setdefault(cls.method, cls)  # Not a class that a user derives from one.

    _forward: dict[str, Any] | None = None
    """Where attempts are forwarded to, for methods that forward them."""
    _most_running: int | None = None
    """How many jobs all workers together may hold at one time, for methods that limit it."""

    def __init__(
        self,
        run_function: Callable[..., Any] | str,
        num_workers: int = 1,
        callbacks: Sequence[Any] | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        chosen = Options.checked(**options)
        slots = count("num_workers", num_workers)
        calls = Callbacks(callbacks)
        with TellInterrupted(lambda: None):
            server, session = open_campaign(
                run_function, self.method, slots, chosen, self._forward, self._most_running, calls.on_report
            )
        self._set_up(server, session, run_function, slots, calls, chosen)

    def _set_up(
        self, server: ServerSession, session: CampaignSession, run_function: Any, num_workers: int,
        callbacks: Callbacks, options: Options,
    ) -> None:  # fmt: skip
        super().__init__(session)
        self.run_function = run_function
        self.num_workers = num_workers
        self.campaign = session.queue.campaign
        self._callbacks = callbacks
        self._options = options
        self._submit_lock = threading.Lock()
        wanted = server.is_embedded if options.local_workers is None else options.local_workers
        wanted = wanted and not session.is_read_only
        self._workers = (
            LocalWorkers(
                session.queue, server.home, num_workers, self.PYTHON_EXE, label=options.queue
            )
            if wanted
            else None
        )
        ensure = self._workers.ensure if self._workers else None
        chores = self._chores = Chores(
            session.queue, ensure, label=options.queue, forwards=self.method in (Method.RAY, Method.RQ),
            on_wait=callbacks.on_wait,
        )
        self._waiter = Waiter(session, chores, server.patience)
        self._singles = SingleJobs(self._waiter)
        self._interruptible = TellInterrupted(self._describe_interruption)
        self._is_decided = True

    @staticmethod
    def create(
        run_function: Callable[..., Any] | str, method: str = "subprocess",
        method_kwargs: dict[str, Any] = {},  # noqa: B006 - DeepHyper's signature; never changed
    ) -> Evaluator:  # fmt: skip
        """The evaluator whose workers execute jobs by `method`, with `method_kwargs` for its class.

        Raises UnknownMethodError for a method that is none of thread, process, subprocess, ray, rq.
        """
        if not isinstance(method, str) or method not in set(Method):
            raise UnknownMethodError(
                f'The method "{unless_url(method)}" is not a valid method for an Evaluator! '
                f"Choose among the following evaluator types: {', '.join(Method)}."
            )
        if not isinstance(method_kwargs, dict) or "run_function" in method_kwargs:
            raise UsageError("method_kwargs is not a dict of the class's keyword arguments; give one")
        with TellInterrupted(lambda: None):
            return Evaluator._class_of[Method(method)](run_function, **method_kwargs)

    @classmethod
    def attach(
        cls, campaign: str, url: str | None = None, home: str | Path | None = None,
        *, access: str | Path | None = None, read_only: bool = False,
    ) -> Evaluator:  # fmt: skip
        """Open an existing campaign without its run function, and adopt what is outstanding.

        `read_only`: only look. It adopts nothing, starts no worker and changes nothing; it refuses to submit,
        gather and cancel. `history` and `outstanding` then show the whole campaign, as of each call.

        Raises CampaignNotFoundError.
        """
        options = Options.checked(campaign=campaign, url=url, home=home, access=access)
        with TellInterrupted(lambda: None):
            server, session, meta = attach_campaign(campaign, options, is_read_only=read_only)
        label = meta.get("queue", b"").decode() or DEFAULT_QUEUE
        options = dataclasses.replace(options, queue=label, time_request=time_request_of(meta))
        attached = Evaluator.__new__(Evaluator)
        attached.method = Method(meta["method"].decode())
        slots = int(meta.get("num_workers", b"1"))
        attached._set_up(server, session, None, slots, Callbacks(None), options)
        return attached

    # Submitting ---------------------------------------------------------------------------------------

    def create_job(self, config: dict[str, Any]) -> Job:
        """A job that is not submitted. Its id is provisional until it is (see `execute`)."""
        copy, _ = encode_config(config, 0)
        job = Job.owning(self._session.next_id(), copy, self.run_function, self._session.source)
        with self._session.lock:
            self._created[job] = None
        return job

    def submit(
        self, configs: Iterable[dict[str, Any]], *, priority: int = 0, delay: float = 0.0, slots: int = 1,
        tags: Iterable[Any] | None = None, time_request: float | None = None,
    ) -> list[Job]:  # fmt: skip
        """Submit configs (dicts of JSON values) to be evaluated. Returns when the server has them.

        Jobs of higher `priority` (-32767 to 32767) run first; within one priority, first in, first out.
        `delay` is in seconds. Each job takes so many `slots` of one worker, with all that they own (cores,
        GPUs). A worker with less than `time_request` seconds left does not run them; None: as the option of
        that name says. `tags`: a JSON value or None for each config, which becomes the `tag` of its job. It
        is no part of reuse: a job that is joined keeps its tag, unless another one is given.

        Raises ConfigError, before anything is sent, when a config is not a dict of JSON values.
        """
        self._check_may_change()
        if isinstance(configs, (dict, str)) or not isinstance(configs, Iterable):
            raise UsageError(f"configs is of type {type(configs).__name__}; give a list of dicts")
        copies = [encode_config(config, position) for position, config in enumerate(configs)]
        texts = encoded_tags(tags, len(copies))
        checked = [(config, text, tag) for (config, text), tag in zip(copies, texts, strict=True)]
        rank = checked_priority(priority)
        delay_ms = round(seconds("delay", delay) * 1000)
        if count("slots", slots) > _MAX_SLOTS:
            raise UsageError(f"slots is {slots!r}; a job takes at most {_MAX_SLOTS} slots of one worker")
        time_s = seconds_asked("time_request", time_request) or self._options.time_request or 0
        placement = Placement(rank, delay_ms, int(slots), math.ceil(time_s))
        if not checked:
            return []
        with self._interruptible:
            # Workers are started first: one that cannot run these jobs then knows that others are coming.
            self._ensure_workers()
        with self._interruptible, self._submit_lock:
            jobs = JobList(self._session.submit(checked, placement))
            self._submitted += len(jobs)
        for job in jobs:
            self._callbacks.launched(job)
        return jobs

    async def execute(self, job: Job) -> Job:
        """Evaluate one job (see `create_job`) and await it; no gather returns it."""
        self._check_may_change()
        config, text = encode_config(job.own_config(), 0)
        (tag,) = encoded_tags([job.tag], 1)
        placement = Placement(time_s=math.ceil(self._options.time_request or 0))

        def submit(hook: CompletionHook) -> None:
            self._ensure_workers()
            with self._submit_lock:
                self._session.submit([(config, text, tag)], placement, job=job, hook=hook)
                self._submitted += 1
            with self._session.lock:
                self._created.pop(job, None)
            self._callbacks.launched(job)

        with self._interruptible:
            await self._singles.run(job, submit, self._session.hand_to_gather)
        self._finish([job], self._callbacks.done(job))
        return job

    # Gathering ----------------------------------------------------------------------------------------

    def gather(
        self, type: Literal["ALL", "BATCH"] | str, size: int = 1, timeout: float | None = None  # noqa: A002
    ) -> list[Job]:
        """Finished jobs, each returned once. "ALL" waits for all outstanding jobs, "BATCH" for `size`.

        `timeout` (s): return what there is by then. Raises JobFailed with ``on_failure="raise"``, and
        SearchTerminationError when a callback does. The batch is recorded before.
        """
        assert type in ("ALL", "BATCH"), f"Unsupported gather operation: {type}."
        wanted = count("size", size, 0)
        deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        self._check_may_change()
        outstanding = self.num_outstanding
        if type == "BATCH" and 0 < outstanding < wanted:
            warn_user(
                f"Requested a batch size ({size}) larger than currently running tasks ({outstanding}). "
                "Batch size has been set to the count of currently running tasks."
            )
        ledger = self._ledger

        def enough() -> bool:
            return not ledger.unfinished or (type == "BATCH" and len(ledger.ready) >= wanted)

        ending = None
        if outstanding:
            with self._interruptible:
                ending = self._waiter.until(enough, deadline, look_first=True)
        return self._take(None, ending)

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Jobs as they finish, until none is outstanding, or `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        self._check_may_change()
        ledger = self._ledger
        while self.num_outstanding:
            self._waiter.check_open()
            batch = self._take(1)
            if not batch:
                with self._interruptible:
                    ending = self._waiter.until(
                        lambda: bool(ledger.ready) or not ledger.unfinished, deadline, look_first=False
                    )
                if ending is not None:
                    raise ending
                batch = self._take(1)
                if not batch and deadline is not None and time.monotonic() >= deadline:
                    return
            yield from batch

    def _take(self, limit: int | None, ending: SearchTerminationError | None = None) -> list[Job]:
        """Gather ready jobs, at most `limit`. Records them first, so that an interruption loses nothing.

        `ending`: what a callback has raised while they were waited for. It is raised once they are recorded.
        """
        ledger, lock, reports = self._ledger, self._session.lock, self._ledger.reports
        with lock:
            batch = list(itertools.islice(ledger.ready.values(), limit))
            are_unheard = reports is not None and any(map(reports.holds, batch))
        if reports is not None and are_unheard:  # `outstanding` or `refresh` has made them ready
            ending = ending or reports.deliver(None, self._waiter.check_open)
        for job in batch:
            with lock:
                is_new = ledger.mark_gathered(job)
            if is_new:
                ending = self._callbacks.done(job) or ending
        with lock:
            batch = JobList(ledger.take_from_ready(batch))
        self._finish(batch, ending)
        return batch

    def _finish(self, batch: list[Job], ending: SearchTerminationError | None) -> None:
        """Show how far it is. Warn of results of other code than this driver's. Raise what this batch makes
        its gather raise."""
        self._chores.show(is_last=not self._ledger.outstanding)
        if self._session.sources is not None:
            self._session.sources.look(batch)
        if self._options.on_failure == "raise":
            failed = next((job for job in batch if job.state is State.FAILED), None)
            if failed is not None:
                raise JobFailed(failed, batch)
        if ending is not None:
            raise ending

    @property
    def total(self) -> int | None:
        """How many jobs the campaign will have in all; None: that is not known.

        Set it where jobs are submitted bit by bit, so that views tell the time left of the whole search. The
        campaign keeps it until it is set again. Raises UsageError unless it is a whole number of at least 1,
        or None.
        """
        return self._session.queue.snapshot().total

    @total.setter
    def total(self, number: int | None) -> None:
        wanted = None if number is None else count("total", number)
        self._check_may_change()
        self._session.queue.set_total(wanted)

    # Looking back -------------------------------------------------------------------------------------

    def history(self) -> list[Job]:
        """Jobs that had finished when the campaign was opened, in that order. They count as gathered.

        Of a read-only evaluator: all that have finished by now.
        """
        self._check_open()
        with self._interruptible:
            return JobList(self._session.history())

    def reports(self, job: Job) -> list[Report]:
        """The reports of a job, finished or not, in their order. Asks the server at each call."""
        with self._interruptible:
            return list(self._session.source.reports(job.id))

    def outstanding(self) -> list[Job]:
        """The jobs that no gather has returned, adopted ones too, by id. Their `state` is as of now.

        They are the objects that `submit` has returned and that `gather` will. As many as `num_outstanding`
        says, so some may be finished. Of a read-only evaluator: all unfinished jobs of the campaign.
        """
        self._check_open()
        return JobList(self._session.outstanding())

    def refresh(self, jobs: Iterable[Job]) -> None:
        """Bring these jobs up to date: `state`, `worker`, `started_at`, and the outcome of finished ones.

        They do not count as gathered by that. Jobs that are done, or were never submitted, stay as they are.
        """
        self._check_open()
        self._session.refresh(jobs)

    # Ending -------------------------------------------------------------------------------------------

    def stop(self, jobs: Iterable[Job] | None = None) -> int:
        """Ask running jobs to stop early: these, or all that are outstanding.

        A job that looks at `stop_requested` returns what it has, and succeeds (`Job.stopped_early`). One that
        does not look runs on. Only `retry` takes the request back. A job that has not begun is not asked.
        Returns how many were asked.
        """
        self._check_may_change()
        ids = None if jobs is None else [job.id for job in given_jobs(jobs)]
        with self._interruptible:
            return self._session.stop_outstanding() if ids is None else self._session.stop(ids)

    def cancel(self, jobs: Iterable[Job] | None = None, *, running: bool = True) -> int:
        """Cancel these jobs, or all outstanding ones. `gather` returns them as cancelled.

        `running`: also those that a worker has; else only those that wait for one. A worker may have a job a
        moment before it begins. Returns how many were cancelled.
        """
        self._check_may_change()
        ids = None if jobs is None else [job.id for job in given_jobs(jobs)]
        with self._interruptible:
            if ids is None:
                count = self._session.cancel_outstanding(running=running)
            else:
                count = self._session.cancel(ids, running=running)
            if count:
                self._session.sweep_checkpoints()
            return count

    def close(self, *, cancel: bool = False) -> None:
        """Detach from the campaign. Work goes on, unless `cancel`. What was gathered stays readable."""
        if self._waiter.closed:
            return
        with self._interruptible:
            try:
                if cancel:
                    self.cancel()
            finally:
                self._waiter.close(timeout_s=5.0)
                if self._workers is not None and self._options.campaign is None and not self.num_outstanding:
                    # If the server is away, they end by themselves.
                    with contextlib.suppress(GiveUp, ServerError):
                        self._workers.dismiss()
                if self._workers is not None:
                    # If the server is away, the driver's note counts no more once its process has ended.
                    with contextlib.suppress(GiveUp, QueueEvalError):
                        self._workers.leave()
                if self._options.campaign is None and not self._options.keep:
                    # The server may be away, or the campaign may have been purged.
                    with contextlib.suppress(GiveUp, QueueEvalError):
                        self._session.note_close()
                if self._options.wait_replicas:
                    # This comes last, so that it covers every write before it.
                    await_replicas(self._session.queue.link, self.campaign, self._options.wait_replicas)
                self._singles.close()
                self._session.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        with self._interruptible:
            self.close()

    def _describe_interruption(self) -> str | None:
        """What an interruption means for the campaign, in a sentence. None when it means nothing."""
        if not self.num_outstanding:
            return None
        is_named = self._options.campaign is not None
        return describe_interruption(self.campaign, self._session.queue.link.access, is_named=is_named)

    def _ensure_workers(self) -> None:
        """Start workers at once. If they cannot be started, the next gather says so."""
        if self._workers is not None:
            with contextlib.suppress(WorkerError):
                self._workers.ensure(before_submit=True)

    def _check_open(self) -> None:
        if self._waiter.closed:
            raise UsageError("the evaluator is closed; create another one for the same campaign")

    def _check_may_change(self) -> None:
        self._check_open()
        if self._session.is_read_only:
            raise UsageError(
                f"this evaluator only looks at campaign {self.campaign!r}; attach to it without read_only to "
                "submit, gather, cancel or stop"
            )
