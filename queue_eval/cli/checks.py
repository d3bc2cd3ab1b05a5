"""The checks of `queue-eval doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from queue_eval.campaign.expiry import closed_ms_of
from queue_eval.campaign.meta import label_of
from queue_eval.campaign.registry import live_workers
from queue_eval.cli.campaigns import every_campaign
from queue_eval.cli.checkpoint_remains import find_unneeded, remove_unneeded
from queue_eval.cli.connect import check, named_access
from queue_eval.cli.shared_memory import FOLDER, remains, remove, sees_all
from queue_eval.errors import QueueEvalError, ServerRefusedError, UsageError
from queue_eval.runtime.trees import tree_bytes
from queue_eval.transport.access import (
    ACCESS_FILE,
    WORKER_ACCESS_FILE,
    Access,
    home_folder,
    named_file,
    safe_url,
)
from queue_eval.transport.clients import certificate_end
from queue_eval.transport.error_kinds import REDIS_ERRORS
from queue_eval.transport.hints import spell_command
from queue_eval.transport.link import (
    SCRIPTS_REMEDY,
    Link,
    nodes_of,
    read_configuration,
    read_settings,
    why_scriptless,
)
from queue_eval.views.attendance import why_unserved

_MAX_CLOCK_DIFFERENCE_S = 2.0
_RENEW_CERTIFICATE_DAYS = 30
"""A certificate that ends within so many days is to be renewed."""

_MAX_MEMORY_SHARE = 0.9
"""Share of the server's memory limit from which on it counts as nearly full."""

_MAX_SHOWN_UNSERVED = 5
_MAX_STRANGERS = 5
_MAX_UNNAMED = 100
"""More unnamed campaigns that are finished lead to a warning."""

_FAIL_BELOW_FREE_BYTES, _WARN_BELOW_FREE_BYTES = 100 * 2**20, 2 * 2**30
_OLDEST_VERSIONS = {"redis": (6, 2), "valkey": (7, 2)}
_OPTIONAL_PACKAGES = {
    "ray": 'for method="ray": pip install "queue-eval[ray]"',
    "rq": 'for method="rq": pip install "queue-eval[rq]"',
    "cryptography": 'for groups (server start --host): pip install "queue-eval[group]"',
    "pyarrow": 'for export to .parquet: pip install "queue-eval[parquet]"',
}


class Finding(NamedTuple):
    status: Literal["ok", "warn", "fail"]
    name: str
    detail: str


def every_check(
    url: str | None, home: str | None, *, clean: bool = False,
    agree: Callable[[str], bool] = lambda _: False,
) -> Iterator[Finding]:  # fmt: skip
    """All findings. Those about the server come only if it answers.

    `clean`: remove what dead processes have left in shared memory and, if `agree` says yes to a question,
    checkpoints of jobs that are over.
    """
    yield from _server(url, home, agree if clean else None)
    folder = home_folder(home)
    yield _disk(folder)
    yield _shared_memory(clean=clean)
    yield from _permissions(folder)
    yield from _packages()


def _server(
    url: str | None, home: str | None, agree: Callable[[str], bool] | None
) -> Iterator[Finding]:
    try:
        access = named_access(url, home)
    except QueueEvalError as error:
        yield Finding("fail", "server", str(error))
        return
    link = Link(access, name="queue-eval-doctor", on_wait=_give_up_at_once)
    try:
        began_at = time.monotonic()
        with suppress(ServerRefusedError):  # the checks of the memory policy and of scripts report it
            check(link, looks=True)
        delay_ms = (time.monotonic() - began_at) * 1000
        yield Finding("ok", "server", f"{safe_url(access.url)} answers in {delay_ms:.1f} ms")
        yield from _certificate(link)
        yield from _settings(link, access)
        yield _clock(link)
        scripts = _scripts(link)
        yield scripts
        if scripts.status == "ok":  # without scripts nobody can count jobs
            yield from _campaigns(link)
            yield _checkpoints(link, agree)
    except QueueEvalError as error:
        yield Finding("fail", "server", str(error))
    finally:
        link.close()


def _settings(link: Link, access: Access) -> Iterator[Finding]:
    settings = link.call(read_settings)
    with suppress(*REDIS_ERRORS, QueueEvalError):  # a user of a group's server may not read more
        for node, configuration in link.call(read_configuration).items():
            settings.setdefault(node, {}).update(configuration)
    for look in (_look_at_version, _look_at_persistence, _look_at_memory):
        yield from _worst({node: look(link, node, of_node) for node, of_node in settings.items()})
    if access.key is None:
        yield Finding(
            "warn", "key", "none: functions that travel by value cannot be signed; set QUEUE_EVAL_KEY"
        )


def _worst(findings: dict[str, Finding]) -> Iterator[Finding]:
    """The findings of nodes where something is wrong; if there are none, the finding of one node."""
    wrong = {node: finding for node, finding in findings.items() if finding.status != "ok"}
    for node, finding in wrong.items():
        yield finding._replace(name=f"{finding.name} of {node}" if node else finding.name)
    if not wrong:
        yield from islice(findings.values(), 1)


def _info(link: Link, node: str, section: str) -> dict[str, Any]:
    def operation(client: Any) -> dict[str, Any]:
        info: dict[str, Any] = client.info(section, **dict(nodes_of(client)).get(node, {}))
        return info

    return link.call(operation)


def _look_at_version(link: Link, node: str, _: dict[str, str]) -> Finding:
    return _version(_info(link, node, "server"))


def _look_at_persistence(link: Link, node: str, settings: dict[str, str]) -> Finding:
    return _persistence(settings, _info(link, node, "persistence"))


def _look_at_memory(link: Link, node: str, settings: dict[str, str]) -> Finding:
    return _memory(settings, _info(link, node, "memory"))


def _scripts(link: Link) -> Finding:
    why = link.call(why_scriptless)
    if why is not None:
        return Finding("fail", "scripts", f"the server runs no Lua ({why}); {SCRIPTS_REMEDY}")
    return Finding("ok", "scripts", "the server runs Lua")


def _certificate(link: Link) -> Iterator[Finding]:
    end = link.call(certificate_end)
    if end is None:
        return
    days = (end - time.time()) / 86400
    detail = f"valid until {datetime.fromtimestamp(end, UTC):%Y-%m-%d}"
    if days < _RENEW_CERTIFICATE_DAYS:
        detail += "; renew it: a certificate made by --tls is renewed when the server is started again"
        yield Finding("warn", "certificate", detail)
    else:
        yield Finding("ok", "certificate", detail)


def _version(info: dict[str, Any]) -> Finding:
    kind = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{kind}_version", "0"))
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    oldest = ".".join(map(str, _OLDEST_VERSIONS[kind]))
    if numbers < _OLDEST_VERSIONS[kind]:
        return Finding("fail", "version", f"{kind} {version} is too old; install {oldest} or newer")
    return Finding("ok", "version", f"{kind} {version}, {oldest} or newer is needed")


def _persistence(settings: dict[str, str], info: dict[str, Any]) -> Finding:
    name = "persistence"
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        return Finding("fail", name, "the server cannot write its log; look at its disk and its own log")
    if settings.get("appendonly") != "yes":
        if settings.get("save") != "":
            detail = "snapshots only: the server's death loses what came after the last one"
            return Finding("warn", name, f"{detail}; set it with: CONFIG SET appendonly yes")
        return Finding(
            "fail", name, "off: the server's death loses all; set it with: CONFIG SET appendonly yes"
        )
    fsync = settings.get("appendfsync", "")
    if not fsync:
        return Finding("ok", name, "log on; how often it is forced to disk is not shown to this user")
    if fsync == "no":
        return Finding("warn", name, "log without fsync; set it with: CONFIG SET appendfsync everysec")
    lost = (
        "nothing acknowledged is lost" if fsync == "always" else "a power cut may lose the last two seconds"
    )
    return Finding("ok", name, f"log with fsync {fsync}: {lost}")


def _memory(settings: dict[str, str], info: dict[str, Any]) -> Finding:
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        detail = f"{policy}: a full server silently loses jobs"
        remedy = "set it with: CONFIG SET maxmemory-policy noeviction"
        return Finding("fail", "maxmemory-policy", f"{detail}; {remedy}")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not limit or used < _MAX_MEMORY_SHARE * limit:
        return Finding("ok", "maxmemory-policy", policy)
    share = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MB are taken"
    remedy = "raise it with CONFIG SET maxmemory, or purge campaigns"
    if used < limit:
        return Finding("warn", "maxmemory", f"{share}: a full server takes no jobs and no results; {remedy}")
    return Finding("fail", "maxmemory", f"{share}: the server takes no jobs and no results; {remedy}")


def _clock(link: Link) -> Finding:
    before = time.time()
    seconds, micros = link.call(lambda client: client.time())
    difference = seconds + micros / 1e6 - (before + time.time()) / 2
    detail = f"{difference:+.3f} s from here to the server"
    if abs(difference) > _MAX_CLOCK_DIFFERENCE_S:
        return Finding("warn", "clock", f"{detail}: times shown are the server's; synchronise the clocks")
    return Finding("ok", "clock", detail)


def _campaigns(link: Link) -> Iterator[Finding]:
    count, broken, finished, unnamed, expiring = 0, 0, 0, 0, 0
    damaged: dict[str, Exception] = {}
    unserved: dict[str, str] = {}
    workers = live_workers(link)
    for name, meta, snapshot, _ in every_campaign(link, damaged.__setitem__):
        count += 1
        if not snapshot.outstanding:
            finished += 1
            unnamed += meta.get("expires") == b"1"
            expiring += closed_ms_of(meta) is not None
        if (why := why_unserved(name, label_of(meta), snapshot, workers, link.access)) is not None:
            unserved[name] = why.text
        if not snapshot.conserved:
            broken += 1
            places = sum(snapshot.counts.values())
            detail = f"{snapshot.last_id} jobs were submitted, {places} are there; please report it"
            yield Finding("fail", f"campaign {name}", detail)
    for name, error in damaged.items():
        yield Finding("fail", f"campaign {name}", str(error))
    if not broken and not damaged:
        counted = f"{count} on the server, {finished} of them finished, {expiring} of these to expire"
        yield Finding("ok", "campaigns", f"{counted}; every job in exactly one place")
    if unnamed > _MAX_UNNAMED:
        prune = spell_command(link.access, "campaigns", "--prune", "--older-than", "1d")
        purge = spell_command(link.access, "purge", "CAMPAIGN")
        detail = (
            f"{unnamed} finished ones that were given no name take room: {expiring} expire 14 days after "
            f"their drivers have closed; delete these earlier with: {prune}; the others with: {purge}"
        )
        yield Finding("warn", "campaigns", detail)
    for name, sentence in islice(unserved.items(), _MAX_SHOWN_UNSERVED):
        yield Finding("warn", f"campaign {name}", sentence)
    if (more := len(unserved) - _MAX_SHOWN_UNSERVED) > 0:
        yield Finding("warn", "campaigns", f"{more} more have jobs that wait, and nobody serves them")
    slots = sum(worker.card.slots or 0 for worker in workers)
    yield Finding("ok", "workers", f"{len(workers)} live, {slots} slots")


def _checkpoints(link: Link, agree: Callable[[str], bool] | None) -> Finding:
    """`agree`: asked before anything is removed; None: only look."""
    name = "checkpoints"
    found = list(find_unneeded(link))
    if not found:
        return Finding("ok", name, "none is left of jobs that are over")
    count, size = len(found), sum(tree_bytes(unneeded.folder) for unneeded in found)
    folders = f"{count} folder{'' if count == 1 else 's'} of jobs that are over"
    detail = f"{folders}, {size / 2**20:.1f} MB, such as {found[0].folder}"
    if strangers := sorted({unneeded.stranger for unneeded in found if unneeded.stranger is not None}):
        more = f" and {len(strangers) - _MAX_STRANGERS} more" if len(strangers) > _MAX_STRANGERS else ""
        detail += f"; purged, or of another server: {', '.join(strangers[:_MAX_STRANGERS])}{more}"
    if agree is None or not agree(f"Remove {detail}?"):
        return Finding("warn", name, f"{detail}; remove them with: queue-eval doctor --clean")
    failed = remove_unneeded(link)
    if failed:
        return Finding("warn", name, f"{detail}: {len(failed)} cannot be removed, such as {failed[0]}")
    return Finding("ok", name, f"{detail}: removed")


def _disk(folder: Path) -> Finding:
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GB free in {place}"
    if free < _FAIL_BELOW_FREE_BYTES:
        return Finding("fail", "disk", f"{detail}; make room")
    return Finding("warn" if free < _WARN_BELOW_FREE_BYTES else "ok", "disk", detail)


def _shared_memory(*, clean: bool) -> Finding:
    name = "shared memory"
    left = remains()
    if not left.paths:
        return Finding("ok", name, "dead processes of joblib have left nothing there")
    count = len(left.paths)
    entries = f"{count} {'entry' if count == 1 else 'entries'} of dead processes in {FOLDER}"
    detail = f"{entries}, {left.size / 2**20:.1f} MB"
    if not sees_all():
        where = "processes of other containers may use them: remove them from outside of this one"
        return Finding("warn", name, f"{detail}; {where}")
    if not clean:
        return Finding("warn", name, f"{detail}; remove them with: queue-eval doctor --clean")
    remove(left.paths)
    return Finding("ok", name, f"{detail}: removed")


def _permissions(folder: Path) -> Iterator[Finding]:
    named = None
    with suppress(UsageError):  # a URL stands in its place; the check of the server reports that
        named = named_file()
    files = [named or folder / ACCESS_FILE, folder / WORKER_ACCESS_FILE]
    if not files[1].exists():
        del files[1]
    for name, path in (*(("access file", file) for file in files), ("home", folder)):
        try:
            status = path.stat()
        except FileNotFoundError:
            yield Finding("ok", name, f"there is none at {path}")
            continue
        except OSError as error:
            yield Finding(
                "fail", name, f"{path} cannot be looked at ({error.strerror}); mend its permissions"
            )
            continue
        mode = status.st_mode & 0o777
        if status.st_uid != os.geteuid():
            yield Finding(
                "fail", name, f"{path} belongs to another account (uid {status.st_uid}); use one of yours"
            )
        elif name == "access file" and mode & 0o077:
            yield Finding("fail", name, f"{path} is open to others (mode {mode:o}); close it with: chmod 600")
        elif mode & 0o022:
            yield Finding(
                "fail", name, f"{path} can be changed by others (mode {mode:o}); close it with: chmod go-w"
            )
        elif mode & 0o055:
            yield Finding("warn", name, f"others can look into {path} (mode {mode:o}); close it: chmod 700")
        else:
            yield Finding("ok", name, f"{path} (mode {mode:o})")


def _packages() -> Iterator[Finding]:
    for package, use in _OPTIONAL_PACKAGES.items():
        try:
            yield Finding("ok", f"package {package}", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("ok", f"package {package}", f"not installed; only {use}")


def _give_up_at_once(_: float) -> None:
    raise QueueEvalError("the server went away during the check; run it again when it is back")
