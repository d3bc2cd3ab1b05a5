"""Tells a driver which jobs are outstanding, and how far jobs have come, without gathering any.

::

    what is listed as unfinished ──▶ outcomes up to now ──▶ adopted jobs that are left get objects
                                                             └▶ places ──▶ state, worker, start of each job

The listing comes before the outcomes: what is finished by then is among them, and what is not is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.places import Place, all_places_of
from queue_eval.campaign.result_stream import lost_entry
from queue_eval.driver.fill import JobFiller
from queue_eval.driver.intake import OutcomeIntake
from queue_eval.driver.ledger import Ledger
from queue_eval.errors import UsageError
from queue_eval.model.job import Job

_MAX_LISTINGS = 5
"""How often unfinished jobs are listed: one that moves meanwhile may be missed."""


class Looker:
    """Looks at the jobs of one driver, or of the whole campaign for a driver that only looks.

    Guarantees: one job is one object, the one that a later gather returns. Safe to use from several threads.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, intake: OutcomeIntake, filler: JobFiller
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._intake = intake
        self._filler = filler

    def outstanding(self) -> list[Job]:
        """The jobs of this driver that no gather has returned, by id, each with its state as of now."""
        ledger = self._ledger
        with ledger.lock:
            if not ledger.outstanding:
                return []
        adopted = self._adopted_ids()
        with ledger.lock:
            ids = sorted({*ledger.waiting, *adopted})
        places = self._places(ids)
        any_retried = bool(adopted) and ledger.has_new_retries(self._queue.retried())
        with ledger.lock:
            for place in places:
                job = ledger.waiting.get(place.id)
                if job is None and place.entry is None and ledger.is_candidate(place.id):
                    # One that was submitted after the opening was finished then: see `Ledger.is_adopted`.
                    if any_retried and place.submitted_ms > ledger.opened.opened_ms:
                        continue
                    job = self._begun(place, ledger.adopted_jobs)
                if job is not None and place.entry is None:
                    self._filler.show(job, place)
        if any(place.entry is not None for place in places):
            self._intake.catch_up()  # they were finished in between
        with ledger.lock:
            found = {**ledger.adopted_jobs, **ledger.waiting, **ledger.ready}
        return [found[job_id] for job_id in sorted(found)]

    def unfinished(self) -> list[Job]:
        """Every unfinished job of the campaign, by id, with its state as of now."""
        left = self._queue.standing().outstanding
        listed: set[int] = set()
        for _ in range(_MAX_LISTINGS):
            listed.update(job_id for job_id, _, _ in self._queue.outstanding())
            if len(listed) >= left:
                break
        places = [place for place in self._places(sorted(listed)) if place.entry is None]
        with self._ledger.lock:
            jobs = [self._begun(place, self._ledger.tracked) for place in places]
            for job, place in zip(jobs, places, strict=True):
                self._filler.show(job, place)
        return jobs

    def refresh(self, jobs: Iterable[Job]) -> None:
        """Bring unfinished jobs up to date. Finished ones get their outcomes, and are not gathered."""
        if isinstance(jobs, Job) or not isinstance(jobs, Iterable):
            raise UsageError(f"jobs is of type {type(jobs).__name__}; give a list of jobs")
        given = list(jobs)
        strange = [type(job).__name__ for job in given if not isinstance(job, Job)]
        if strange:
            raise UsageError(f"jobs holds a {strange[0]}; give a list of jobs")
        if any(self._is_own(job) for job in given):
            self._intake.catch_up()
        unfinished = [job for job in given if job.status == Job.RUNNING]
        places = {place.id: place for place in self._places(sorted({job.id for job in unfinished}))}
        finished: list[Job] = []
        with self._ledger.lock:
            for job in unfinished:
                place = places.get(job.id)
                if place is not None and place.entry is None:
                    self._filler.show(job, place)
                elif place is not None:
                    finished.append(job)
        if any(self._is_own(job) for job in finished):
            self._intake.catch_up()
        self._fill([job for job in finished if job.status == Job.RUNNING and not self._is_own(job)], places)

    def _fill(self, jobs: Sequence[Job], places: dict[int, Place]) -> None:
        """Write outcomes into jobs that no gather of this driver returns."""
        names = {job.id: places[job.id].entry or "" for job in jobs}
        entries = {entry.entry: entry for entry in self._queue.entries(sorted(set(names.values())))}
        self._filler.learn_hosts(entries.values())
        with self._ledger.lock:
            for job in jobs:
                name = names[job.id]
                self._filler.fill(job, entries.get(name) or lost_entry(job.id, name))

    def _adopted_ids(self) -> set[int]:
        """Adopted jobs that may be unfinished. Outcomes up to now have been taken in."""
        ledger = self._ledger
        listed: set[int] = set()
        for _ in range(_MAX_LISTINGS):
            with ledger.lock:
                has_adopted = ledger.adopted > 0
            if has_adopted:
                listed.update(job_id for job_id, _, _ in self._queue.outstanding())
            self._intake.catch_up()
            with ledger.lock:
                listed = {job_id for job_id in listed if ledger.is_candidate(job_id)}
                if len(listed) >= ledger.adopted:
                    break
        return listed

    def _places(self, ids: Sequence[int]) -> list[Place]:
        places = [place for place in all_places_of(self._queue, ids) if place is not None]
        self._filler.learn_workers(place.worker for place in places)
        return places

    def _begun(self, place: Place, known: dict[int, Job]) -> Job:
        """The object of an unfinished job, which `known` has or gets. The caller holds the ledger's lock."""
        job = known.get(place.id)
        if job is None or job.status == Job.DONE:  # a finished one was retried
            job = known[place.id] = self._filler.begin(place.id, place.submitted_ms, place.config, place.tag)
        return job

    def _is_own(self, job: Job) -> bool:
        """Whether this is an unfinished job that a gather of this driver will return."""
        with self._ledger.lock:
            places = (self._ledger.waiting, self._ledger.adopted_jobs)
            return any(place.get(job.id) is job for place in places)
