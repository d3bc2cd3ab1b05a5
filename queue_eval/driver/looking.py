"""Tells a driver which jobs are outstanding, and how far jobs have come, without gathering any.

::

    what is listed as unfinished ──▶ outcomes up to now ──▶ adopted jobs that are left get objects
                                                             └▶ places ──▶ state, worker, start of each job

The listing comes before the outcomes: what is finished by then is among them, and what is not is listed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

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
            known = {*ledger.waiting, *ledger.adopted_jobs}
        places = self._places(known, adopted - known)
        any_retried = bool(adopted) and ledger.has_new_retries(self._queue.retried())
        with ledger.lock:
            for place in places:
                if place.entry is not None:
                    continue
                job = ledger.waiting.get(place.id) or ledger.adopted_jobs.get(place.id)
                if job is None and place.origin and self._is_adopted(place, any_retried=any_retried):
                    job = ledger.adopted_jobs[place.id] = self._filler.begin(place.id, *place.origin)
                if job is not None:
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
        tracked = self._ledger.tracked
        with self._ledger.lock:  # a finished one was retried, and is another object from then on
            known = {i for i in listed if i in tracked and tracked[i].status != Job.DONE}
        jobs: list[Job] = []
        places = self._places(known, listed - known)
        with self._ledger.lock:
            for place in places:
                if place.entry is None:
                    if place.origin is not None:
                        tracked[place.id] = self._filler.begin(place.id, *place.origin)
                    if tracked[place.id].status != Job.DONE:
                        self._filler.show(tracked[place.id], place)
                        jobs.append(tracked[place.id])
        return sorted(jobs, key=lambda job: job.id)

    def refresh(self, jobs: Iterable[Job]) -> None:
        """Bring unfinished jobs up to date. Finished ones get their outcomes, and are not gathered."""
        given = given_jobs(jobs)
        if any(self._is_own(job) for job in given):
            self._intake.catch_up()
        unfinished = [job for job in given if job.status == Job.RUNNING]
        places = {place.id: place for place in self._places({job.id for job in unfinished})}
        finished: list[Job] = []
        with self._ledger.lock:
            for job in unfinished:
                if job.status != Job.RUNNING:  # another thread has taken in its outcome
                    continue
                if places[job.id].entry is None:
                    self._filler.show(job, places[job.id])
                else:
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

    def _places(self, known: Collection[int], new: Collection[int] = ()) -> list[Place]:
        """The places of these jobs, with the origins of the new ones."""
        places = [
            *all_places_of(self._queue, sorted(known)),
            *all_places_of(self._queue, sorted(new), with_origins=True),
        ]
        self._filler.learn_workers(place.worker for place in places)
        return places

    def _is_adopted(self, place: Place, *, any_retried: bool) -> bool:
        """Whether an unfinished job is an adopted one, now that outcomes up to now are known."""
        assert place.origin is not None
        if not self._ledger.is_candidate(place.id):
            return False
        # One that was submitted after the opening was finished then, and retried: see `Ledger.is_adopted`.
        return not any_retried or place.origin.submitted_ms <= self._ledger.opened.opened_ms

    def _is_own(self, job: Job) -> bool:
        """Whether this is an unfinished job that a gather of this driver will return."""
        with self._ledger.lock:
            places = (self._ledger.waiting, self._ledger.adopted_jobs)
            return any(place.get(job.id) is job for place in places)


def given_jobs(jobs: Iterable[Job]) -> list[Job]:
    """What a user gave, as a list. Raises UsageError for anything but jobs."""
    if isinstance(jobs, Job) or not isinstance(jobs, Iterable):
        raise UsageError(f"jobs is of type {type(jobs).__name__}; give a list of jobs")
    given = list(jobs)
    strange = [type(job).__name__ for job in given if not isinstance(job, Job)]
    if strange:
        raise UsageError(f"jobs holds a {strange[0]}; give a list of jobs")
    return given
