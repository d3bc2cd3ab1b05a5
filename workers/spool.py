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
from queue_eval.campaign.commands import CampaignQueue
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
from workers.complaints import Complaints

log = plain(logging.getLogger(__name__))

_PAGE = 500

_LeaseKey = tuple[str, int, int, str, str]


def _lease_key(queue: CampaignQueue, kept: Settlement | Release) -> _LeaseKey:
    """Tells a lease from all others: a campaign that was purged and made anew, and a server that has gone
    back in time, give the same ids and attempts again."""
    proof = ("", "") if isinstance(kept, Release) else (kept.request, kept.digest)
    return queue.uid, kept.id, kept.attempt, *proof


class Spool:
    """This worker's file. Assumes: one thread at a time."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = spool_file(folder, worker)
        self._worker = worker
        self._file: io.FileIO | None = None
        self._kept: set[_LeaseKey] = set()
        self._has_failed = False
        self._offset_s = time.time() - time.monotonic()
        """From this machine's monotonic clock to the server's time."""

    def tell_time(self, server_ms: int) -> None:
        """What the server's clock shows now."""
        self._offset_s = server_ms / 1000 - time.monotonic()

    def keep(self, queue: CampaignQueue, leases: Sequence[Settlement | Release]) -> None:
        """Write what became of these leases, unless it is written; on return it is on disk."""
        new = [one for one in leases if _lease_key(queue, one) not in self._kept]
        if not new:
            return
        try:
            file = self._file or self._open()
            failpoints.reach("spool.before-write")
            lines = [_encode(queue, self._worker, one, self._offset_s) + "\n" for one in new]
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
        self._kept.update(_lease_key(queue, one) for one in new)

    def clear(self) -> None:
        """All that was kept has been acknowledged."""
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
    """All of it or, on a disk that is full, nothing: half a line would spoil the next."""
    before = os.fstat(file.fileno()).st_size
    try:
        while lines:
            lines = lines[file.write(lines) :]
    except OSError:
        file.truncate(before)
        raise


def deliver_orphans(folder: Path, link: Link, complaints: Complaints) -> int:
    """Settle and give back what dead workers of this machine have left in `folder`. Returns how many leases.

    What a damaged campaign does not take stays there, in a file of its own.
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
                    _deliver(CampaignQueue(link, campaign, uid), worker, list(leases.values()))
                    delivered += len(leases)
                except GiveUp:
                    raise
                except Exception as error:
                    complaints.add(f"what {path} holds of campaign {campaign} cannot be settled", error)
                    refused += leases
            failpoints.reach("spool.after-deliver")
            if len(refused) == sum(map(len, lines.values())) > 0:
                continue
            if not lines and os.fstat(file.fileno()).st_size:
                _rename_unreadable(path)
                continue
            if refused:
                _set_aside(path, refused)
            path.unlink(missing_ok=True)
    if delivered:
        log.info("delivered what became of %d leases of a dead worker from %s", delivered, folder)
    return delivered


def _rename_unreadable(path: Path) -> None:
    """Keep a file without one line of ours: nobody can tell what it is."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unreadable")
    path.rename(aside)
    log.warning("no line of the spool %s can be read; it is kept as %s", path, aside.name)


def _set_aside(path: Path, lines: Sequence[str]) -> None:
    """On disk when it returns. In a file whose name no worker can have: a worker removes its own."""
    aside = path.with_name(f"{path.stem.partition('+')[0]}+{secrets.token_hex(4)}.jsonl")
    with open(aside, "x", encoding="ascii", opener=open_private) as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _deliver(queue: CampaignQueue, worker: str, leases: Sequence[Settlement | Release]) -> None:
    settlements = [one for one in leases if isinstance(one, Settlement)]
    releases = [one for one in leases if isinstance(one, Release)]
    try:
        for page in pages(settlements, _PAGE):
            queue.settle(worker, page, lease_ms=0, request="", room=0, prefetch=0, now=time.monotonic())
        for given_back in pages(releases, _PAGE):
            queue.release(worker, given_back, leave=True)
    except CampaignNotFoundError:
        log.warning("campaign %s is gone: what was spooled of it is dropped", queue.campaign)


@contextmanager
def _claim(path: Path) -> Iterator[IO[str] | None]:
    """The open file when its worker is dead, else None."""
    try:
        file = open(path, "r+", encoding="ascii", errors="replace", opener=open_private)  # noqa: SIM115
    except OSError:  # another worker was faster, or it is another user's
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            # Its worker may have removed it, and begun another one, before it could be locked.
            yield file if _is_at(path, file) else None


def _is_at(path: Path, file: IO[Any]) -> bool:
    """Whether what is open is still what the path names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _encode(queue: CampaignQueue, worker: str, kept: Settlement | Release, offset_s: float) -> str:
    lease = {
        "campaign": queue.campaign, "uid": queue.uid, "worker": worker,
        "id": kept.id, "attempt": kept.attempt,
    }  # fmt: skip
    if isinstance(kept, Release):
        return json.dumps(lease | {"release": kept.reason})
    return json.dumps(
        lease | {
            "outcome": kept.outcome.value, "run_ms": kept.run_ms,
            # By the server's clock: whoever delivers it may have another one, or has set it meanwhile.
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
        return Release(int(kept["id"]), int(kept["attempt"]), str(kept["release"]))
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
