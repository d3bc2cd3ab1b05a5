"""A campaign on the server: one method per script, typed replies, nothing cached.

Every method may be called again after a lost reply (`Link` does it): the scripts are made for it.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from queue_eval.campaign import keys as names
from queue_eval.campaign.keys import Keys, check_campaign_name
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.registry import notify
from queue_eval.campaign.resting import wake
from queue_eval.campaign.scripts import script
from queue_eval.campaign.view import SCHEMA_VERSION, STAMP_DIGITS, CampaignView, reading
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
    Lease,
    Opened,
    Reclaimed,
    Release,
    Settled,
    Settlement,
    Submission,
)
from queue_eval.transport.error_kinds import undamaged
from queue_eval.transport.link import Link
from queue_eval.transport.script_calls import ScriptCall

log = plain(logging.getLogger(__name__))

_T = TypeVar("_T")

_OPENINGS = 100
"""So often an opening is tried while others open the same campaign."""


class CampaignQueue(CampaignView):
    """The moves of one campaign."""

    @classmethod
    def open(
        cls, link: Link, campaign: str, fields: Mapping[str, str | bytes | int | float], *,
        accept_change: bool, sign: Callable[[str, int], str] | None = None,
    ) -> tuple[CampaignQueue, Opened]:  # fmt: skip
        """Create or continue a campaign whose meta is to hold `fields`.

        `sign`: gives the signature of these fields for a uid and a revision.
        Raises CampaignConflictError when it is of another function or method and `accept_change` is not
        set, ServerRefusedError when another version of the protocol wrote it; then nothing has changed.
        """
        check_campaign_name(campaign)
        keys = Keys(campaign)
        for _ in range(_OPENINGS):
            uid, signed = secrets.token_hex(8), fields
            if sign is not None:
                uid, revision = cls._next_opening(link, keys, uid)
                signed = {**fields, "signed_for": f"{uid} {revision}", "signature": sign(uid, revision)}
            flat = list(itertools.chain.from_iterable(signed.items()))
            reply = link.run_script(
                script("open"), keys.columns, uid, SCHEMA_VERSION, int(accept_change), *flat
            )
            # Another driver came in between; or the reply of this very call was lost, and it was repeated.
            if reply and reply[0] != b"moved":
                break
        else:
            raise ServerRefusedError(
                f"campaign {campaign!r} was opened by others {_OPENINGS} times in a row; try again"
            )
        status, schema = reply[0].decode(), (reply[11] or b"").decode(errors="replace")[:20]
        if status == "schema":
            raise ServerRefusedError(
                f"campaign {campaign!r} was written by protocol version {schema}, this is {SCHEMA_VERSION}; "
                "use the queue_eval that created it, or another campaign name"
            )
        with reading(campaign):
            opened = Opened.parse(reply)
        if status == "conflict":
            raise CampaignConflictError(
                f"campaign {campaign!r} belongs to {opened.function} with method {opened.method!r}, not to "
                f"{fields['function']!s} with method {fields['method']!r}; "
                'use another campaign name, or on_change="accept"'
            )
        # After the fact, so that a registered campaign exists; a crash in between is healed by reopening.
        queue = cls(link, campaign, opened.uid)
        queue.register(opened.created_ms)
        return queue, opened

    @staticmethod
    def _next_opening(link: Link, keys: Keys, new_uid: str) -> tuple[str, int]:
        """Uid and revision that the next opening of a campaign will have."""
        uid, revision = link.call(lambda client: client.hmget(keys.meta, "uid", "revision"))
        with reading(keys.campaign):
            return (new_uid if uid is None else uid.decode()), int(revision or 0) + 1

    def register(self, created_ms: int) -> None:
        """Have workers know of it. While the node of the register is away this is left to `stay_listed`."""
        try:
            with self.link.skipping_nodes():
                self.link.call(lambda client: client.zadd(names.CAMPAIGNS, {self.campaign: created_ms}))
        except NodeAwayError as error:
            log.warning("campaign %s cannot be put on the register for now: %s", self.campaign, error)
        else:
            wake(self.link, self.campaign)

    def is_registered(self) -> bool:
        """Whether workers may know of it, as far as can be seen now."""
        with suppress(NodeAwayError), self.link.skipping_nodes():
            return self.link.call(lambda client: client.zscore(names.CAMPAIGNS, self.campaign)) is not None
        return True

    def stay_listed(self) -> None:
        """Have workers go on looking at it.

        A failover may have undone its entry in the register; who laid it to rest may have died on the way.

        Raises CampaignNotFoundError when it was purged.
        """
        with self.link.skipping_nodes():
            replies = self.link.ask_each(
                [(key, ("ZSCORE", key, self.campaign)) for key in (names.CAMPAIGNS, names.RESTING)]
            )
        if any(isinstance(reply, NodeAwayError) for reply in replies):
            return  # results come without it
        listed, rests = undamaged(replies)
        with suppress(DamagedError):  # a damaged register must not end a driver that needs it no more
            if listed is None:
                self.register(self.standing().created_ms)
            elif rests is not None:
                wake(self.link, self.campaign)

    def enqueue(
        self, driver: str, sequence: int, submissions: Sequence[Submission], *,
        reuse: bool, priority: int = 0, delay_ms: int = 0, slots: int = 1,
    ) -> EnqueueReply:  # fmt: skip
        """Send one batch (see `batches`).

        `sequence` grows with each batch of a `driver`: a repeated one adds nothing twice. Each of these jobs
        takes so many `slots`.
        """
        arguments: list[Any] = [driver, sequence, int(reuse), priority, delay_ms, slots]
        for s in submissions:
            arguments += (s.config, s.fingerprint, s.occurrence) if reuse else (s.config, s.fingerprint)
        reply = self._run("enqueue", *arguments)
        with reading(self.campaign):
            now_ms, submitted_ms, ids, fence, joined, resting = reply
            if isinstance(ids, int):
                ids = range(ids, ids + len(submissions))
            jobs = [Enqueued(int(id_), None, submitted_ms) for id_ in ids]
            for at, entry, at_ms in zip(joined[::3], joined[1::3], joined[2::3], strict=True):
                jobs[at - 1] = Enqueued(jobs[at - 1].id, entry.decode(errors="replace") or None, int(at_ms))
            enqueued = EnqueueReply(now_ms, jobs, fence.decode() or None)
        if resting:
            wake(self.link, self.campaign)
        return enqueued

    def settle(
        self, worker: str, settlements: Sequence[Settlement], *,
        lease_ms: int, request: str, room: int, prefetch: int, now: float, slots: int = 1,
    ) -> Settled:  # fmt: skip
        """Settle attempts and lease the next jobs; extends the worker's lease unless `lease_ms` is 0.

        `slots`: how many the worker has in all for one job; `room`: how many of them are free.
        """
        arguments: list[Any] = [worker, lease_ms, request, room, prefetch, slots]
        for s in settlements:
            facts = f"{s.run_ms:.6g} {max(0, round((now - s.ended_at) * 1000))} {s.source}"
            proof = f"{s.attempt} {s.request} " if s.request else f"{s.attempt} "
            arguments += (s.id, proof, s.outcome.value, facts, s.body, s.output, s.digest)
        reply = self._run("settle", *arguments)
        with reading(self.campaign):
            return _settled(reply, request)

    def extend(self, worker: str, lease_ms: int, tokens: Iterable[tuple[int, int]]) -> Extended:
        """Extend the lease; say which of the tokens (id, attempt) are finished or no longer this worker's."""
        reply = self._run("extend", worker, lease_ms, *itertools.chain.from_iterable(tokens))
        with reading(self.campaign):
            return self._extended(reply)

    @staticmethod
    def extend_all(
        link: Link, worker: str, lease_ms: int, held: Sequence[tuple[CampaignQueue, Iterable[Token]]]
    ) -> list[Extended | Exception]:
        """`extend` for many campaigns at the cost of one; an error in place of what failed."""
        calls = [
            (queue.keys.columns, (queue.uid, worker, lease_ms, *itertools.chain.from_iterable(tokens)))
            for queue, tokens in held
        ]
        return _each("extend", link, [queue for queue, _ in held], calls, CampaignQueue._extended)

    def _extended(self, reply: Sequence[Any]) -> Extended:
        finished, taken, revision, unknown = reply
        flat = [int(value) for value in unknown]
        return Extended(
            [int(i) for i in finished], [int(i) for i in taken], revision,
            list(zip(flat[::2], flat[1::2], strict=True)),
        )  # fmt: skip

    @staticmethod
    def leave_all(link: Link, worker: str, queues: Sequence[CampaignQueue]) -> list[int | Exception]:
        """End the attendance of a worker that holds nothing in these campaigns."""
        calls = [(queue.keys.columns, (queue.uid, worker, 1)) for queue in queues]
        return _each("release", link, queues, calls, lambda _, reply: int(reply))

    def release(self, worker: str, releases: Iterable[Release], *, leave: bool = False) -> int:
        """Give leases back; how many were held. `leave` ends the attendance."""
        flat = itertools.chain.from_iterable(releases)
        return int(self._run("release", worker, int(leave), *flat))

    def reclaim(self, *, grace_ms: int, worker: str = "", page: int = 200) -> Reclaimed:
        """Take back a page of what an expired (or the named, dead) worker holds."""
        reply = self._run("reclaim", grace_ms, page, worker)
        with reading(self.campaign):
            return self._reclaimed(reply)

    @staticmethod
    def reclaim_all(
        link: Link, queues: Sequence[CampaignQueue], *, grace_ms: int, worker: str = "", page: int = 200
    ) -> list[Reclaimed | Exception]:
        """`reclaim` for many campaigns at the cost of one; an error in place of what failed."""
        calls = [(queue.keys.columns, (queue.uid, grace_ms, page, worker)) for queue in queues]
        return _each("reclaim", link, queues, calls, CampaignQueue._reclaimed)

    def _reclaimed(self, reply: Sequence[Any]) -> Reclaimed:
        ids, more, expiry = reply
        return Reclaimed([int(i) for i in ids if i.isdigit()], more == 1, _time_ms(expiry))

    def note_load(self, revision: int | None, sources: Mapping[str, str] | None = None) -> None:
        """Have all know that a worker has loaded the run function of this revision, and of what code results
        are: source -> what it is made of (see `sources.Source`)."""
        told = itertools.chain.from_iterable((sources or {}).items())
        self._run("loaded", "" if revision is None else revision, *told)

    def cancel(self, ids: Iterable[int]) -> list[int]:
        """Cancel those that are not finished; returns which. Tells workers to look."""
        cancelled = [int(i) for page in pages(ids, PAGE) for i in self._run("cancel", *page)]
        if cancelled:
            self.notify("cancel")
        return cancelled

    def cancel_up_to(self, last_id: int) -> int:
        """Cancel every outstanding job up to this id; how many were."""
        count = 0
        # More than once: jobs that move between places while these are listed are missed.
        while ids := [id_ for id_, _, _ in self.outstanding() if id_ <= last_id]:
            cancelled = len(self.cancel(ids))
            count += cancelled
            if not cancelled:
                break
        return count

    def retry(self, ids: Iterable[int]) -> list[int]:
        """Run failed or cancelled jobs again; returns which."""
        return self._retry(pages(ids, PAGE))

    def retry_results(self, entries: Mapping[int, str]) -> list[int]:
        """Run finished jobs again, however they ended, if this is still their entry; returns which."""
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
        """Whether that changed anything."""
        return bool(self._run("pause", int(paused)))

    def take_hiring(self, token: str, hold_ms: int) -> bool:
        """Whether this driver alone may start workers now, for so long or until it frees the guard."""
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
        """Note which launch digest the local workers of a driver have, for `keep_s`; what all had noted
        before, by driver. `anew`: from now, also when it is noted already."""
        keys = (*self.keys.columns, self.keys.drivers)
        reply = self._checked(
            self.link.run_script(script("enlist"), keys, self.uid, driver, digest, keep_s, int(anew))
        )
        return {_text(name): _text(noted) for name, noted in zip(reply[::2], reply[1::2], strict=True)}

    def drivers(self) -> dict[str, str]:
        """The launch digests that drivers have noted. Of a damaged register, none."""
        try:
            noted = self.link.call(lambda client: client.hgetall(self.keys.drivers))
        except DamagedError:
            return {}
        return {_text(name): _text(said).partition(" ")[0] for name, said in noted.items()}

    def delist_drivers(self, drivers: Sequence[str]) -> None:
        """Forget what these drivers have noted."""
        if drivers:
            with suppress(DamagedError):  # the next driver to note anything mends it
                self.link.call(lambda client: client.hdel(self.keys.drivers, *drivers))

    def close(self, gathered: int) -> bool:
        """Its driver, which has gathered so many jobs, goes; whether it expires by itself from now on."""
        return int(self._run("close", gathered)) == 1

    def keep(self) -> None:
        """Have it expire no more."""
        self.link.call(lambda client: client.hdel(self.keys.meta, "expires"))

    def purge(self) -> None:
        """Delete the campaign whole."""
        uid, created_ms = self.link.call(lambda client: client.hmget(self.keys.meta, "uid", "created_ms"))
        self._delete(_text(created_ms) if uid is not None and _text(uid) == self.uid else None)

    def purge_expired(self, listed_ms: float, age_ms: int) -> bool:
        """Delete it if it expires and was closed so long ago; whether that was so.

        `listed_ms`: its score in the register, read before its uid.
        """
        return self._delete(repr(listed_ms), age_ms)

    def _delete(self, listed_ms: str | None, *age_ms: int) -> bool:
        """`listed_ms` is this campaign's own score in the register, or that of an earlier one of the name."""
        # The register last: who dies in between leaves a name there that the next look for expired ones takes
        # off. The other way round it would leave a campaign that nobody finds.
        with suppress(CampaignNotFoundError):  # the first call did it, whose reply was lost
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
    name: str, link: Link, queues: Sequence[CampaignQueue], calls: Sequence[ScriptCall],
    parse: Callable[[CampaignQueue, Any], _T],
) -> list[_T | Exception]:  # fmt: skip
    """One script for each of these campaigns, and what `parse` makes of its reply, or why there is none."""
    found: list[_T | Exception] = []
    for queue, reply in zip(queues, link.run_scripts(script(name), calls), strict=True):
        if isinstance(reply, Exception):
            found.append(reply)
            continue
        try:
            with reading(queue.campaign):
                found.append(parse(queue, queue._checked(reply)))
        except QueueEvalError as error:
            found.append(error)
    return found


def unlist(link: Link, campaign: str, listed_ms: str) -> bool:
    """Take a campaign that is gone off the register, where it has this score; whether it did."""
    # One that has taken its name meanwhile may rest again.
    link.call(lambda client: client.zrem(names.RESTING, campaign))
    return bool(link.run_script(script("unlist"), (names.CAMPAIGNS,), campaign, listed_ms) == 1)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _time_ms(said: bytes) -> int | None:
    """A score that is a time; None for none, and for what no clock says."""
    return int(float(said)) if said and math.isfinite(float(said)) else None


def _settled(reply: Sequence[Any], request: str) -> Settled:
    leases, due, now_ms, revision, verdicts, reserved_slots, other_wide, limited = reply
    return Settled(
        leases=[
            Lease(
                int(leases[i]), leases[i + 1], leases[i + 2] > 0, leases[i + 3][STAMP_DIGITS:],
                leases[i + 2] or 1, request,
            )
            for i in range(0, len(leases), 4)
        ],
        next_due_ms=due if isinstance(due, int) else None,
        now_ms=now_ms,
        revision=revision,
        verdicts=[verdict.decode() for verdict in verdicts],
        reserved_slots=reserved_slots,
        has_other_wide_jobs=other_wide == 1,
        prefetch_limited=limited == 1,
    )  # fmt: skip
