"""A campaign on the server: one method per script, typed replies, nothing cached.

Every method may be called again after a lost reply (`Link` does it): the scripts are made for it.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from queue_eval.campaign import keys as names
from queue_eval.campaign.keys import Keys, check_campaign_name
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.registry import notify
from queue_eval.campaign.resting import wake
from queue_eval.campaign.scripts import script
from queue_eval.campaign.view import SCHEMA_VERSION, CampaignView, reading
from queue_eval.errors import (
    CampaignConflictError,
    CampaignNotFoundError,
    DamagedError,
    NodeAwayError,
    QueueEvalError,
    ServerRefusedError,
)
from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Token
from queue_eval.model.moves import (
    Enqueued,
    EnqueueReply,
    Extended,
    Opened,
    PointBatch,
    Printed,
    Reclaimed,
    Release,
    Settled,
    Settlement,
    StandingReply,
    Stopped,
    Submission,
)
from queue_eval.model.shape import Shape
from queue_eval.model.states import Opening, State
from queue_eval.transport.error_kinds import undamaged
from queue_eval.transport.link import Link
from queue_eval.transport.script_calls import ScriptCall

log = plain(logging.getLogger(__name__))

_T = TypeVar("_T")

_MAX_POINT_BYTES = 2**20
"""How large the points of one call are together, unless one batch alone is larger."""

_MAX_PRINTED = 64
"""Of how many attempts one call tells what they have printed: a megabyte at most."""

_MAX_OPENINGS = 100
"""How often `open` tries again when others open the same campaign in between."""


class CampaignCommands(CampaignView):
    """The moves of one campaign."""

    @classmethod
    def open(
        cls, link: Link, campaign: str, fields: Mapping[str, str | bytes | int | float], *,
        accept_change: bool, sign: Callable[[str, int], str] | None = None,
    ) -> tuple[CampaignCommands, Opened]:  # fmt: skip
        """Create or continue a campaign whose meta is to hold `fields`.

        `sign`: returns the signature of these fields for a uid and a revision.
        Raises CampaignConflictError when the campaign is of another function or method and `accept_change`
        is not set, and ServerRefusedError when another version of the protocol wrote it. Nothing has
        changed then.
        """
        check_campaign_name(campaign)
        keys = Keys(campaign)
        for _ in range(_MAX_OPENINGS):
            uid, signed = secrets.token_hex(8), fields
            if sign is not None:
                uid, revision = cls._next_opening(link, keys, uid)
                signed = {**fields, "signed_for": f"{uid} {revision}", "signature": sign(uid, revision)}
            flat = list(itertools.chain.from_iterable(signed.items()))
            values = link.run_script(
                script("open"), keys.columns, uid, SCHEMA_VERSION, int(accept_change), *flat
            )
            reply = StandingReply(*values) if values else None
            # MOVED: another driver came in between, or the reply to this very call was lost and the link
            # has repeated it.
            if reply is not None and reply.opening is not Opening.MOVED:
                break
        else:
            raise ServerRefusedError(
                f"campaign {campaign!r} was opened by others {_MAX_OPENINGS} times in a row; try again"
            )
        if reply.opening is Opening.SCHEMA:
            schema = reply.schema.decode(errors="replace")[:20]
            raise ServerRefusedError(
                f"campaign {campaign!r} was written by protocol version {schema}, this is {SCHEMA_VERSION}; "
                "use the queue_eval that created it, or another campaign name"
            )
        with reading(campaign):
            opened = Opened.of(reply)
        if reply.opening is Opening.CONFLICT:
            raise CampaignConflictError(
                f"campaign {campaign!r} belongs to {opened.function} with method {opened.method!r}, not to "
                f"{fields['function']!s} with method {fields['method']!r}; "
                'use another campaign name, or on_change="accept"'
            )
        # Registered last, so that every registered campaign exists. After a crash in between, the next
        # opening registers it.
        commands = cls(link, campaign, opened.uid)
        commands.register(opened.created_ms)
        return commands, opened

    @staticmethod
    def _next_opening(link: Link, keys: Keys, new_uid: str) -> tuple[str, int]:
        """Uid and revision that the next opening of a campaign will have."""
        uid, revision = link.call(lambda client: client.hmget(keys.meta, "uid", "revision"))
        with reading(keys.campaign):
            return (new_uid if uid is None else uid.decode()), int(revision or 0) + 1

    def register(self, created_ms: int) -> None:
        """Put the campaign on the register, from which workers learn of it.

        While the register's node is away, this is left to `stay_listed`.
        """
        try:
            with self.link.skipping_nodes():
                self.link.call(lambda client: client.zadd(names.CAMPAIGNS, {self.campaign: created_ms}))
        except NodeAwayError as error:
            log.warning("campaign %s cannot be put on the register for now: %s", self.campaign, error)
        else:
            wake(self.link, self.campaign)

    def is_registered(self) -> bool:
        """Whether the campaign is on the register. True, too, while the register's node is away."""
        with suppress(NodeAwayError), self.link.skipping_nodes():
            return self.link.call(lambda client: client.zscore(names.CAMPAIGNS, self.campaign)) is not None
        return True

    def stay_listed(self) -> None:
        """Put the campaign back where workers look, if it is missing there.

        A failover may have rolled back its entry in the register. A worker that laid it to rest may have died
        before it was done.

        Raises CampaignNotFoundError when it was purged.
        """
        with self.link.skipping_nodes():
            replies = self.link.ask_each(
                [(key, ("ZSCORE", key, self.campaign)) for key in (names.CAMPAIGNS, names.RESTING)]
            )
        if any(isinstance(reply, NodeAwayError) for reply in replies):
            return  # the register's node is away; results still come
        listed, rests = undamaged(replies)
        with suppress(DamagedError):  # a damaged register must not end a driver that can do without it
            if listed is None:
                self.register(self.standing().created_ms)
            elif rests is not None:
                wake(self.link, self.campaign)

    def enqueue(
        self, driver: str, sequence: int, submissions: Sequence[Submission], *,
        reuse: bool, priority: int = 0, delay_ms: int = 0, slots: int = 1, time_s: int = 0,
    ) -> EnqueueReply:  # fmt: skip
        """Send one batch (see `batches`).

        `sequence` grows with each batch of a `driver`: a batch that is sent again adds nothing twice.
        `slots`: how many each of these jobs takes; `time_s`: how many whole seconds each asks for. The server
        may round these up by a tenth.
        """
        is_tagged = any(s.tag for s in submissions)
        arguments: list[Any] = [
            driver, sequence, int(reuse), priority, delay_ms, str(Shape(slots, time_s)), int(is_tagged),
        ]  # fmt: skip
        for config, fingerprint, occurrence, tag in submissions:
            arguments += (config, fingerprint, occurrence) if reuse else (config, fingerprint)
            if is_tagged:
                arguments.append(tag)
        reply = self._run("enqueue", *arguments)
        with reading(self.campaign):
            now_ms, submitted_ms, ids, fence, joined, resting = reply
            if isinstance(ids, int):
                ids = range(ids, ids + len(submissions))
            jobs = [Enqueued(int(job), None, submitted_ms) for job in ids]
            for at, entry, at_ms, tag in zip(*(joined[i::4] for i in range(4)), strict=True):
                name = entry.decode(errors="replace") or None
                jobs[at - 1] = Enqueued(jobs[at - 1].id, name, int(at_ms), tag)
            enqueued = EnqueueReply(now_ms, jobs, fence.decode() or None)
        if resting:
            wake(self.link, self.campaign)
        return enqueued

    def settle(
        self, worker: str, settlements: Sequence[Settlement], *,
        lease_ms: int, request: str, room: int, prefetch: int, now: float, slots: int = 1,
        left_s: float | None = None, place: str = "",
    ) -> Settled:  # fmt: skip
        """Settle attempts, extend the worker's lease by `lease_ms` and lease the next jobs.

        With a `lease_ms` of 0 it only settles: nothing is extended, and nothing is leased.

        `slots`: how many the worker has in all for one job; `room`: how many of them are free; `left_s`: how
        long a job may run there, None for as long as it likes; `place`: the id of the folder in which its
        checkpoints lie, empty when that is not known.
        """
        left = "" if left_s is None else max(0, math.floor(left_s))
        arguments: list[Any] = [worker, lease_ms, request, room, prefetch, slots, left, place]
        for s in settlements:
            facts = f"{s.run_ms:.6g} {max(0, round((now - s.ended_at) * 1000))} {s.source}"
            proof = f"{s.attempt} {s.request} " if s.request else f"{s.attempt} "
            arguments += (s.id, proof, s.outcome.value, facts, s.body, s.output, s.digest)
        reply = self._run("settle", *arguments)
        with reading(self.campaign):
            return Settled.of(reply, request)

    def extend(self, worker: str, lease_ms: int, tokens: Iterable[tuple[int, int]]) -> Extended:
        """Extend the lease, and learn which of the tokens (id, attempt) are finished or no longer this
        worker's."""
        reply = self._run("extend", worker, lease_ms, *itertools.chain.from_iterable(tokens))
        with reading(self.campaign):
            return self._extended(reply)

    @staticmethod
    def extend_all(
        link: Link, worker: str, lease_ms: int, held: Sequence[tuple[CampaignCommands, Iterable[Token]]]
    ) -> list[Extended | Exception]:
        """`extend` for many campaigns at the cost of one; an error in place of what failed."""
        calls = [
            (campaign.keys.columns, (campaign.uid, worker, lease_ms, *itertools.chain.from_iterable(tokens)))
            for campaign, tokens in held
        ]
        campaigns = [campaign for campaign, _ in held]
        return _each("extend", link, campaigns, calls, CampaignCommands._extended)

    def _extended(self, reply: Sequence[Any]) -> Extended:
        finished, taken, revision, unknown, stops = reply
        flat = [int(value) for value in unknown]
        return Extended(
            [int(i) for i in finished], [int(i) for i in taken], revision,
            list(zip(flat[::2], flat[1::2], strict=True)), [int(i) for i in stops],
        )  # fmt: skip

    @staticmethod
    def leave_all(
        link: Link, worker: str, campaigns: Sequence[CampaignCommands]
    ) -> list[int | Exception]:
        """End the attendance of a worker that holds nothing in these campaigns."""
        calls = [(campaign.keys.columns, (campaign.uid, worker, 1)) for campaign in campaigns]
        return _each("release", link, campaigns, calls, lambda _, reply: int(reply[0]))

    def release(self, worker: str, releases: Iterable[Release], *, leave: bool = False) -> int:
        """Give leases back. Returns how many were held. `leave` ends the worker's attendance.

        Logs which jobs ask for more time from now on, because their attempts lacked it.
        """
        flat = itertools.chain.from_iterable(
            (r.id, r.attempt, r.reason, int(r.delayed), int(r.lacks_time)) for r in releases
        )
        count, asking = self._run("release", worker, int(leave), *flat)
        for job, time_s in zip(asking[::2], asking[1::2], strict=True):
            log.warning(
                "job %d of %s was given back again and again for lack of time, without a checkpoint: from "
                "now on only workers with %d s left run it", int(job), self.campaign, int(time_s),
            )  # fmt: skip
        return int(count)

    def report(self, worker: str, batches: Sequence[PointBatch]) -> list[bool]:
        """Take what running attempts have told of themselves.

        Returns of each batch whether it was taken. Of an attempt that this worker does not hold any more,
        nothing is. A batch may be sent again, also with more points behind: each counts once.
        """
        taken: list[bool] = []
        for page in _batch_pages(batches):
            arguments: list[Any] = [worker]
            for b in page:
                proof = f"{b.attempt} {b.request} " if b.request else f"{b.attempt} "
                arguments += (b.id, proof, b.base_ms, b.dropped, int(b.looks), b.checkpoint, b.lines)
            taken += [reply == 1 for reply in self._run("report", *arguments)]
        return taken

    def tell(self, worker: str, printed: Sequence[Printed]) -> list[bool]:
        """Take the newest part of what running attempts have printed.

        Returns of each whether it was taken: nothing is of an attempt that this worker holds no more.
        What is sent again is taken once.
        """
        taken: list[bool] = []
        for page in pages(printed, _MAX_PRINTED):
            arguments: list[Any] = [worker]
            for p in page:
                proof = f"{p.attempt} {p.request} " if p.request else f"{p.attempt} "
                arguments += (p.id, proof, p.total, p.text)
            taken += [reply == 1 for reply in self._run("tell", *arguments)]
        return taken

    def stop(self, ids: Iterable[int]) -> Stopped:
        """Ask jobs to stop early that have begun and are not finished; let their workers know at once.

        Others among `ids` are left alone. A job that is asked stays asked over its attempts, until `retry`.
        """
        stopped, workers = Stopped([], []), set[str]()
        for page in pages(ids, PAGE):
            asked, looking, holding = self._run("stop", *page)
            stopped.asked.extend(int(i) for i in asked)
            stopped.looking.extend(int(i) for i in looking)
            workers |= {_text(worker) for worker in holding}
        if workers:
            notify(self.link, "stop", workers=sorted(workers), campaign=self.campaign)
        return stopped

    def reclaim(self, *, grace_ms: int, worker: str = "", page: int = 200) -> Reclaimed:
        """Take back a page of what an expired worker holds, or the dead one that is named."""
        reply = self._run("reclaim", grace_ms, page, worker)
        with reading(self.campaign):
            return self._reclaimed(reply)

    @staticmethod
    def reclaim_all(
        link: Link, campaigns: Sequence[CampaignCommands], *, grace_ms: int, worker: str = "", page: int = 200
    ) -> list[Reclaimed | Exception]:
        """`reclaim` for many campaigns at the cost of one; an error in place of what failed."""
        calls = [(campaign.keys.columns, (campaign.uid, grace_ms, page, worker)) for campaign in campaigns]
        return _each("reclaim", link, campaigns, calls, CampaignCommands._reclaimed)

    def _reclaimed(self, reply: Sequence[Any]) -> Reclaimed:
        ids, more, expiry = reply
        return Reclaimed([int(i) for i in ids if i.isdigit()], more == 1, _time_ms(expiry))

    def note_load(self, revision: int | None, sources: Mapping[str, str] | None = None) -> None:
        """Record that a worker has loaded the run function of this revision, and the code that gives results.

        `sources`: source -> what it is made of (JSON, see `sources.Source`).
        """
        flat = itertools.chain.from_iterable((sources or {}).items())
        self._run("loaded", "" if revision is None else revision, *flat)

    def cancel(self, ids: Iterable[int], *, running: bool = True) -> list[int]:
        """Cancel those that are not finished, and return their ids. Asks workers to look.

        `running`: also those that a worker holds.
        """
        which = () if running else ("waiting",)
        cancelled = [int(i) for page in pages(ids, PAGE) for i in self._run("cancel", *which, *page)]
        if cancelled:
            self.notify("cancel")
        return cancelled

    def cancel_up_to(self, last_id: int, *, running: bool = True) -> int:
        """Cancel every outstanding job up to this id; see `cancel`. Returns how many."""
        count = 0
        # Listed again until none is left: a job that moves to another place during a listing may be missed.
        while ids := [
            job for job, state, _ in self.outstanding()
            if job <= last_id and (running or state is not State.RUNNING)
        ]:  # fmt: skip
            cancelled = len(self.cancel(ids, running=running))
            count += cancelled
            if not cancelled:
                break
        return count

    def retry(self, ids: Iterable[int]) -> list[int]:
        """Run failed or cancelled jobs again, and return their ids."""
        return self._retry(pages(ids, PAGE))

    def retry_results(self, entries: Mapping[int, str]) -> list[int]:
        """Run finished jobs again, however they ended, and return their ids.

        `entries`: id -> its entry in the result stream. A job that has another entry by now is left alone.
        """
        batches = pages(entries.items(), PAGE)
        return self._retry(["results", *itertools.chain.from_iterable(page)] for page in batches)

    def _retry(self, calls: Iterable[Sequence[int | str]]) -> list[int]:
        again: list[int] = []
        for arguments in calls:
            ids_again, resting = self._run("retry", *arguments)
            again += [int(i) for i in ids_again]
            if resting:
                wake(self.link, self.campaign)
        return again

    def pause(self, paused: bool) -> bool:
        """Pause the campaign, or let it go on. Returns whether that changed anything."""
        return bool(self._run("pause", int(paused)))

    def set_total(self, total: int | None) -> None:
        """Say how many jobs the campaign will have in all; None: that is not known."""
        self._run("total", "" if total is None else total)

    def keep_summary(self, cursor: str, kept: bytes) -> bool:
        """Keep for the next viewer what is known of the outcomes up to this entry. Returns False when another
        has kept more."""
        return bool(self._run("keep_summary", cursor, kept))

    def take_hiring(self, token: str, hold_ms: int) -> bool:
        """Take the guard of drivers that start workers, for `hold_ms` or until it is freed.

        Returns whether this driver has it: then it alone may start workers.
        """
        return self._run_hire(token, hold_ms) == 1

    def free_hiring(self, token: str) -> None:
        """Let others start workers, if the guard is still held under this token."""
        self._run_hire(token, 0)

    def _run_hire(self, token: str, hold_ms: int) -> int:
        reply = self.link.run_script(
            script("hire"), (*self.keys.columns, self.keys.hiring), self.uid, token, hold_ms
        )
        return int(self._checked(reply))

    def enlist_driver(self, driver: str, digest: str, keep_s: int, *, anew: bool) -> dict[str, str]:
        """Note for `keep_s` which launch digest the local workers of a driver have.

        `anew`: the time counts from now, also when the digest is noted already.
        Returns what all drivers had noted before: driver -> launch digest.
        """
        keys = (*self.keys.columns, self.keys.drivers)
        reply = self._checked(
            self.link.run_script(script("enlist"), keys, self.uid, driver, digest, keep_s, int(anew))
        )
        return {_text(name): _text(noted) for name, noted in zip(reply[::2], reply[1::2], strict=True)}

    def drivers(self) -> dict[str, str]:
        """Driver -> the launch digest that it has noted. Empty when that hash is damaged."""
        try:
            noted = self.link.call(lambda client: client.hgetall(self.keys.drivers))
        except DamagedError:
            return {}
        return {_text(name): _text(entry).partition(" ")[0] for name, entry in noted.items()}

    def delist_drivers(self, drivers: Sequence[str]) -> None:
        """Forget what these drivers have noted."""
        if drivers:
            with suppress(DamagedError):  # the next driver that notes a digest mends it
                self.link.call(lambda client: client.hdel(self.keys.drivers, *drivers))

    def close(self, gathered: int) -> bool:
        """Note that the driver leaves, and has gathered so many jobs.

        Returns whether the campaign expires from now on.
        """
        return int(self._run("close", gathered)) == 1

    def keep(self) -> None:
        """Keep the campaign from expiring."""
        self.link.call(lambda client: client.hdel(self.keys.meta, "expires"))

    def purge(self) -> None:
        """Delete the campaign whole."""
        uid, created_ms = self.link.call(lambda client: client.hmget(self.keys.meta, "uid", "created_ms"))
        self._delete(_text(created_ms) if uid is not None and _text(uid) == self.uid else None)

    def purge_expired(self, listed_ms: float, age_ms: int) -> bool:
        """Delete the campaign if it expires and was closed at least `age_ms` ago. Returns whether it was.

        `listed_ms`: its score in the register, read before its uid.
        """
        return self._delete(repr(listed_ms), age_ms)

    def _delete(self, listed_ms: str | None, *age_ms: int) -> bool:
        """`listed_ms` is this campaign's own score in the register, or that of an earlier one of the name."""
        # Taken off the register last: a process that dies in between leaves a name there, which the next
        # search for expired campaigns takes off. The other way round it would leave a campaign that nobody
        # finds.
        with suppress(CampaignNotFoundError):  # an earlier call deleted it, and its reply was lost
            if self._run("purge", *age_ms) != 1:
                return False
        if listed_ms is not None:
            unlist(self.link, self.campaign, listed_ms)
        self.notify("purge")
        return True

    def notify(self, what: str) -> None:
        """Ask workers to look now rather than at their next extension."""
        notify(self.link, what, campaign=self.campaign)


def _each(
    name: str, link: Link, campaigns: Sequence[CampaignCommands], calls: Sequence[ScriptCall],
    parse: Callable[[CampaignCommands, Any], _T],
) -> list[_T | Exception]:  # fmt: skip
    """Run one script for each of these campaigns. Returns each parsed reply, or the error in its place."""
    found: list[_T | Exception] = []
    for campaign, reply in zip(campaigns, link.run_scripts(script(name), calls), strict=True):
        if isinstance(reply, Exception):
            found.append(reply)
            continue
        try:
            with reading(campaign.campaign):
                found.append(parse(campaign, campaign._checked(reply)))
        except QueueEvalError as error:
            found.append(error)
    return found


def _batch_pages(batches: Iterable[PointBatch]) -> Iterator[list[PointBatch]]:
    """Split batches so that each call stays short on the server."""
    page: list[PointBatch] = []
    size = 0
    for batch in batches:
        if page and (len(page) == PAGE or size + len(batch.lines) > _MAX_POINT_BYTES):
            yield page
            page, size = [], 0
        page.append(batch)
        size += len(batch.lines)
    if page:
        yield page


def unlist(link: Link, campaign: str, listed_ms: str) -> bool:
    """Take a campaign that is gone off the register, if it has this score there. Returns whether it had."""
    # A new campaign of this name that rests is taken off, too. Workers lay it to rest again.
    link.call(lambda client: client.zrem(names.RESTING, campaign))
    return bool(link.run_script(script("unlist"), (names.CAMPAIGNS,), campaign, listed_ms) == 1)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _time_ms(score: bytes) -> int | None:
    """A score as a time (ms). None for an empty one, and for one that is not finite."""
    return int(float(score)) if score and math.isfinite(float(score)) else None
