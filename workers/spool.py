"""Settlements and releases kept on this machine's disk while the server is away, so that none is lost.

One file per worker, locked while the worker lives. A file that nobody locks is a dead worker's: any worker on
this machine delivers it. Delivering twice is harmless (settle and release are idempotent), so a file is
removed only after all it holds is acknowledged.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from queue_eval import failpoints
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import check_campaign_name
from queue_eval.campaign.paging import pages
from queue_eval.errors import CampaignNotFoundError, GiveUp, UsageError
from queue_eval.foreign_text import plain
from queue_eval.model.moves import Release, Settlement
from queue_eval.model.states import Outcome
from queue_eval.server.home import spool_file
from queue_eval.transport.link import Link
from queue_eval.transport.private_files import open_private
from queue_eval.transport.private_home import make_home
from workers.repeated_log import RepeatedLog

log = plain(logging.getLogger(__name__))

_PAGE = 500
"""How many leases are delivered in one call."""

_LeaseKey = tuple[str, int, int, str, str]


def _lease_key(queue: CampaignCommands, kept: Settlement | Release) -> _LeaseKey:
    """Identifies a lease. Id and attempt alone do not: a campaign that was purged and made anew, or a server
    that has gone back in time, gives the same ones again."""
    proof = ("", "") if isinstance(kept, Release) else (kept.request, kept.digest)
    return queue.uid, kept.id, kept.attempt, *proof


class Spool:
    """The spool of this worker. Assumes: one thread at a time."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = spool_file(folder, worker)
        self._worker = worker
        self._file: io.FileIO | None = None
        self._kept: set[_LeaseKey] = set()
        self._has_failed = False
        self._offset_s = time.time() - time.monotonic()
        """The server's time minus this machine's monotonic clock."""

    def set_server_time(self, server_ms: int) -> None:
        """The server's clock shows this now."""
        self._offset_s = server_ms / 1000 - time.monotonic()

    def keep(self, queue: CampaignCommands, leases: Sequence[Settlement | Release]) -> None:
        """Write what became of these leases, unless it is written already. On return it is on disk."""
        new = [lease for lease in leases if _lease_key(queue, lease) not in self._kept]
        if not new:
            return
        try:
            file = self._file or self._open()
            failpoints.reach("spool.before-write")
            lines = [_encode(queue, self._worker, lease, self._offset_s) + "\n" for lease in new]
            _append(file, "".join(lines).encode())
            failpoints.reach("spool.before-fsync")
            os.fsync(file.fileno())
            failpoints.reach("spool.after-fsync")
        except OSError as error:
            # The settlements stay in memory: only the death of this worker would lose them now.
            if not self._has_failed:
                log.error(
                    "cannot write the spool %s (%s); free some space there: what has ended is in memory only",
                    self._path, error.strerror,
                )  # fmt: skip
            self._has_failed = True
            return
        self._has_failed = False
        self._kept.update(_lease_key(queue, lease) for lease in new)

    def clear(self) -> None:
        """Remove the file: all that it held has been acknowledged."""
        if self._file is not None:
            failpoints.reach("spool.before-remove")
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
            self._kept.clear()

    def _open(self) -> io.FileIO:
        home = self._path.parent.parent
        if not home.exists():
            make_home(home)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            file = open(self._path, "ab", buffering=0, opener=open_private)  # noqa: SIM115 - it stays open
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # kept as long as the file is open
            # Another worker may have taken the new file for a dead one's, and removed it.
            if _is_at(self._path, file):
                self._file = file
                return file
            file.close()


def _append(file: io.FileIO, lines: bytes) -> None:
    """Write all lines or, on a full disk, none: half a line would spoil the next one."""
    before = os.fstat(file.fileno()).st_size
    try:
        while lines:
            lines = lines[file.write(lines) :]
    except OSError:
        file.truncate(before)
        raise


def deliver_orphans(folder: Path, link: Link, repeated_log: RepeatedLog) -> int:
    """Settle and give back what dead workers of this machine have left in `folder`. Returns how many leases.

    What a damaged campaign refuses stays there, in a file of its own.
    """
    delivered = 0
    for path in sorted(folder.glob("*.jsonl")):
        with _claim(path) as file:
            if file is None:
                continue
            failpoints.reach("spool.before-deliver")
            seconds, micros = link.call(lambda client: client.time())
            offset_s = seconds + micros / 1e6 - time.monotonic()
            lines: dict[tuple[str, str, str], dict[str, Settlement | Release]] = {}
            for line in file:
                if (kept := _decode(line, offset_s)) is not None:
                    lines.setdefault(kept[:3], {})[line] = kept[3]
            refused: list[str] = []
            for (campaign, uid, worker), leases in lines.items():
                try:
                    _deliver(CampaignCommands(link, campaign, uid), worker, list(leases.values()))
                    delivered += len(leases)
                except GiveUp:
                    raise
                except Exception as error:
                    repeated_log.add(f"what {path} holds of campaign {campaign} cannot be settled", error)
                    refused += leases
            failpoints.reach("spool.after-deliver")
            if len(refused) == sum(map(len, lines.values())) > 0:
                continue
            if not lines and os.fstat(file.fileno()).st_size:
                _rename_unreadable(path)
                continue
            if refused:
                _keep_refused(path, refused)
            path.unlink(missing_ok=True)
    if delivered:
        log.info("delivered what became of %d leases of a dead worker from %s", delivered, folder)
    return delivered


def _rename_unreadable(path: Path) -> None:
    """Rename a file that holds no readable line: nobody can tell what it is."""
    kept = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unreadable")
    path.rename(kept)
    log.warning("no line of the spool %s can be read; it is kept as %s", path, kept.name)


def _keep_refused(path: Path, lines: Sequence[str]) -> None:
    """Write these lines to a file of their own; on return they are on disk.

    No worker can have the name of that file: a worker would remove its own file.
    """
    refused = path.with_name(f"{path.stem.partition('+')[0]}+{secrets.token_hex(4)}.jsonl")
    with open(refused, "x", encoding="ascii", opener=open_private) as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _deliver(queue: CampaignCommands, worker: str, leases: Sequence[Settlement | Release]) -> None:
    settlements = [lease for lease in leases if isinstance(lease, Settlement)]
    releases = [lease for lease in leases if isinstance(lease, Release)]
    try:
        for page in pages(settlements, _PAGE):
            queue.settle(worker, page, lease_ms=0, request="", room=0, prefetch=0, now=time.monotonic())
        for given_back in pages(releases, _PAGE):
            queue.release(worker, given_back, leave=True)
    except CampaignNotFoundError:
        log.warning("campaign %s is gone: what was spooled of it is dropped", queue.campaign)


@contextmanager
def _claim(path: Path) -> Iterator[IO[str] | None]:
    """Open and lock a spool whose worker is dead; None when the worker lives."""
    try:
        file = open(path, "r+", encoding="ascii", errors="replace", opener=open_private)  # noqa: SIM115
    except OSError:  # another worker was faster, or the file is another user's
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            # The worker may have removed the file, and begun another one, before it could be locked.
            yield file if _is_at(path, file) else None


def _is_at(path: Path, file: IO[Any]) -> bool:
    """Whether this open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _encode(queue: CampaignCommands, worker: str, kept: Settlement | Release, offset_s: float) -> str:
    lease = {
        "campaign": queue.campaign, "uid": queue.uid, "worker": worker,
        "id": kept.id, "attempt": kept.attempt,
    }  # fmt: skip
    if isinstance(kept, Release):
        return json.dumps(lease | {"release": kept.reason} | ({"delayed": True} if kept.delayed else {}))
    return json.dumps(
        lease | {
            "outcome": kept.outcome.value, "run_ms": kept.run_ms,
            # By the server's clock: the machine that delivers this may have another one, or has set it since.
            "ended_s": kept.ended_at + offset_s, "source": kept.source,
            "body": kept.body.decode("utf-8", "surrogateescape"),
            "output": kept.output.decode("utf-8", "surrogateescape"),
            "request": kept.request, "digest": kept.digest,
        }
    )  # fmt: skip


def _decode(line: str, offset_s: float) -> tuple[str, str, str, Settlement | Release] | None:
    try:
        kept = json.loads(line)
        campaign = check_campaign_name(kept["campaign"])
        return campaign, str(kept["uid"]), str(kept["worker"]), _lease(kept, offset_s)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, UsageError):
        log.warning("a torn line in a spool is dropped: it was never acknowledged")
        return None


def _lease(kept: dict[str, Any], offset_s: float) -> Settlement | Release:
    if "release" in kept:
        token = int(kept["id"]), int(kept["attempt"])
        return Release(*token, str(kept["release"]), bool(kept.get("delayed", False)))
    return Settlement(
        id=int(kept["id"]),
        attempt=int(kept["attempt"]),
        outcome=Outcome(kept["outcome"]),
        run_ms=float(kept["run_ms"]),
        ended_at=min(time.monotonic(), float(kept["ended_s"]) - offset_s),
        source=str(kept["source"]),
        body=str(kept["body"]).encode("utf-8", "surrogateescape"),
        output=str(kept["output"]).encode("utf-8", "surrogateescape"),
        request=str(kept.get("request", "")),
        digest=str(kept.get("digest", "")),
    )
