"""How a driver opens a campaign: which server, which function, which options."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.expiry import prune_in_passing
from queue_eval.campaign.meta import failure_value_of
from queue_eval.driver.checkpoint_disk import CheckpointDisk, purge_expired
from queue_eval.driver.chores import Patience
from queue_eval.driver.options import Options
from queue_eval.driver.report_queue import OnReport
from queue_eval.driver.session import CampaignSession
from queue_eval.driver.sources import SourceCheck
from queue_eval.errors import (
    CampaignConflictError,
    CampaignNotFoundError,
    FunctionError,
    ServerRefusedError,
    ServerUnreachableError,
)
from queue_eval.function.driver_path import is_same_file
from queue_eval.function.reference import FunctionRef, describe
from queue_eval.function.signing import Opening, must_sign, sign
from queue_eval.model.codec import decode, encode
from queue_eval.model.moves import Opened
from queue_eval.model.states import Method
from queue_eval.server.lifecycle import open_access, server_state, wake_server
from queue_eval.transport.access import Access, check_build, entered_home, find_access, home_folder
from queue_eval.transport.link import Link
from queue_eval.user_warning import warn_user


@dataclass(frozen=True)
class ServerSession:
    """A driver's session with a server: a link that was checked, and what the driver knows of the server."""

    link: Link
    access: Access
    home: Path
    is_embedded: bool
    patience: Patience


def will_be_embedded(url: str | None, home: Path | None, file: Path | None = None) -> bool:
    """Whether `reach` would give the embedded server. Starts none."""
    access = find_access(url, home, file)
    return access is None or _is_embedded(access)


def _is_embedded(access: Access) -> bool:
    return access.home is not None and server_state(access.home).state != "absent"


def look_at(options: Options) -> ServerSession:
    """A session with a server that is there already, for a look. Starts none that was stopped on purpose.

    Raises ServerUnreachableError, ServerRefusedError.
    """
    access = find_access(options.url, options.home, options.access)
    assert access is not None
    try:
        return _session(access, options.home)
    except ServerUnreachableError:
        # Its watcher may have stopped it, because nobody needed it.
        if access.home is None or not wake_server(access.home):
            raise
    return _session(access, options.home)


def reach(url: str | None, home: Path | None, file: Path | None = None) -> ServerSession:
    """A session with the server that `url`, `file`, the environment or `home` name.

    The embedded server is started if need be.

    Raises ServerUnreachableError, ServerRefusedError.
    """
    return _session(open_access(url, home, file), home)


def _session(access: Access, home: Path | None) -> ServerSession:
    folder = access.home or entered_home(home)
    is_embedded = _is_embedded(access)
    patience = Patience(access.home if is_embedded else None)
    link = Link(access, name="queue_eval-driver", on_wait=patience)
    try:
        link.check()
    except BaseException:
        link.close()
        raise
    return ServerSession(link, access, folder, is_embedded, patience)


def open_campaign(
    run_function: Callable[..., Any] | str, method: Method, num_workers: int, options: Options,
    forward: dict[str, Any] | None = None, most_running: int | None = None,
    on_report: OnReport | None = None,
) -> tuple[ServerSession, CampaignSession]:  # fmt: skip
    """Create or continue the campaign of `options`. Warns when the function's source has changed.

    `forward`: for methods that forward attempts to another system, where that is (JSON values).
    `most_running`: how many jobs of the campaign all workers together may hold at one time. `on_report`: see
    `CampaignSession`.

    Raises FunctionError before a server is touched; ServerUnreachableError, ServerRefusedError,
    CampaignConflictError.
    """
    reference = describe(run_function, is_forwarded=forward is not None)
    name = options.campaign or _unique_name(reference)
    server = reach(options.url, options.home, options.access)
    try:
        _check_role(server.access)
        check_build(server.access)
        fields = _meta(server, reference, method, num_workers, options, forward)
        fields["most_running"] = most_running or ""
        queue, opened = _open(
            server.link, name, fields, reference, accept_change=options.on_change == "accept"
        )
        if not opened.created:
            _compare(name, opened, reference, str(fields["options"]))
        if options.campaign is None:
            prune_in_passing(server.link, purge_expired)
    except BaseException:
        server.link.close()
        raise
    session = CampaignSession(
        queue, opened, run_function, reuse=options.reuse, keep=options.keep_jobs,
        failure_value=options.failure_value, on_report=on_report,
    )  # fmt: skip
    session.sources = SourceCheck(queue, reference, opened.source)
    meta = {"uid": opened.uid.encode(), "options": str(fields["options"]).encode()}
    session.checkpoints = CheckpointDisk.of(name, meta)
    return server, session


def _open(
    link: Link, campaign: str, fields: dict[str, Any], reference: FunctionRef, *, accept_change: bool
) -> tuple[CampaignCommands, Opened]:
    seal = _seal(link.access.key, campaign, fields)
    try:
        return CampaignCommands.open(link, campaign, fields, accept_change=accept_change, sign=seal)
    except CampaignConflictError:
        _, meta = CampaignCommands.attach(link, campaign)
        if not _is_same_function(meta, reference, str(fields["method"])):
            raise
    return CampaignCommands.open(link, campaign, fields, accept_change=True, sign=seal)


def _seal(key: bytes | None, campaign: str, fields: dict[str, Any]) -> Callable[[str, int], str] | None:
    """A function that signs these fields of meta for an opening; None where no signature is asked for."""
    if key is None or not must_sign(key, fields["payload"]):
        return None

    def seal(uid: str, revision: int) -> str:
        return sign(
            key,
            Opening(
                campaign, uid, revision, fields["function"], fields["method"], fields["queue"],
                fields["options"].encode(), fields["payload"],
            ),
        )  # fmt: skip

    return seal


def _is_same_function(meta: dict[str, bytes], reference: FunctionRef, method: str) -> bool:
    """Whether a campaign's function is this one under another name.

    `__main__:run` of a script is `search:run` of the same file.
    """
    module, _, function = meta["function"].decode().partition(":")
    own_module, _, own_function = reference.name.partition(":")
    is_alias = "__main__" in (module, own_module) and function == own_function
    if not is_alias or meta["method"].decode() != method:
        return False
    file, own_file = _file_of(meta.get("options", b"")), reference.code.get("file")
    if file is None or own_file is None:  # An earlier build wrote the campaign's meta.
        return bool(reference.source) and meta.get("source", b"").decode() == reference.source
    return is_same_file(file, own_file)


def _file_of(options: bytes) -> str | None:
    """The file of the function's module on the machine of the last driver."""
    try:
        file = decode(options)["code"]["file"]
    except (ValueError, TypeError, LookupError):
        return None
    return file if isinstance(file, str) else None


def attach_campaign(
    campaign: str, options: Options, *, is_read_only: bool = False
) -> tuple[ServerSession, CampaignSession, dict[str, bytes]]:
    """Open an existing campaign, which stays as it is. Returns its meta, too.

    `is_read_only`: only to look at it. Nothing on the server changes then.

    Raises CampaignNotFoundError.
    """
    if find_access(options.url, options.home, options.access) is None:
        raise CampaignNotFoundError(
            f"there is no campaign {campaign!r}: {home_folder(options.home)} has no server; "
            "give the campaign's url or home"
        )
    server = look_at(options) if is_read_only else reach(options.url, options.home, options.access)
    try:
        _check_role(server.access)
        queue, meta = CampaignCommands.attach(server.link, campaign)
        if meta.get("expires") and not is_read_only:
            queue.keep()  # Somebody knows it by name, so it must not expire.
        opened = queue.standing()
    except BaseException:
        server.link.close()
        raise
    failure_value = failure_value_of(meta)
    session = CampaignSession(
        queue, opened, None, reuse=options.reuse, failure_value=failure_value, is_read_only=is_read_only
    )
    session.checkpoints = CheckpointDisk.of(campaign, meta)
    return server, session, meta


def _check_role(access: Access) -> None:
    """Refuse a worker's access file at once: the server would refuse its user only half-way."""
    if access.role == "worker":
        raise ServerRefusedError(
            f"{access.file} is the access file of workers; a driver needs access.json of the same home"
        )


def _unique_name(reference: FunctionRef) -> str:
    function = re.sub(r"[^A-Za-z0-9_.-]+", "", reference.name.rpartition(":")[2])[-60:].strip(".-")
    return f"{function or 'campaign'}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _meta(
    server: ServerSession, reference: FunctionRef, method: Method, num_workers: int,
    options: Options, forward: dict[str, Any] | None,
) -> dict[str, str | bytes | int | float]:  # fmt: skip
    key, payload = server.access.key, reference.payload
    if payload is not None and key is None and reference.may_import_script:
        payload = None  # Then the function runs only where its script is.
    if payload is not None and key is None:
        raise FunctionError(
            f"{reference.name} travels by value, which needs a key to sign it; "
            "set QUEUE_EVAL_KEY, or move the function to a module"
        )
    retry = options.retry_delay
    return {
        "function": reference.name,
        "method": method.value,
        "source": reference.source,
        "options": encode(
            {
                "path": list(reference.path),
                "kwargs": json.loads(options.run_function_kwargs),
                "time_limit": options.time_limit,
                "time_request": options.time_request,
                "forward": forward,
                "values": options.values,
                "code": reference.code,
                "checkpoints": None if options.checkpoints is None else str(options.checkpoints),
                "checkpoints_home": str(checkpoints_of(server.home)),
                "keep_checkpoints": options.keep_checkpoints,
                "keep_folders": options.keep_folders,
                "checkpoint_space": options.checkpoint_space,
            }
        ),
        "time_limit_s": "" if options.time_limit is None else options.time_limit,
        "max_attempts": options.max_attempts,
        "max_losses": options.max_losses,
        "retry_first_ms": round(retry.first_s * 1000),
        "retry_factor": retry.factor,
        "retry_max_ms": round(retry.maximum_s * 1000),
        "payload": payload or b"",
        "signature": "",  # Made once the number of the opening is known.
        "num_workers": num_workers,
        "queue": options.queue,
        "failure_value": encode(options.failure_value),
        "expires": "" if options.campaign is not None or options.keep else "1",
    }


def checkpoints_of(home: Path) -> Path:
    """The folder in which checkpoints lie, where a campaign names no other."""
    return home.resolve() / "checkpoints"


def _kwargs(options: str) -> Any:
    """The keyword arguments of an earlier opening; None when they are not known."""
    try:
        return decode(options)["kwargs"]
    except (ValueError, TypeError, LookupError):
        return None


def _compare(campaign: str, opened: Opened, reference: FunctionRef, options: str) -> None:
    before = _kwargs(opened.options)
    if before is not None and before != json.loads(options)["kwargs"]:
        warn_user(
            f"run_function_kwargs have changed since campaign {campaign!r} last ran ({before}); "
            "what is finished stays as it is"
        )
    if opened.source and reference.source and opened.source != reference.source:
        warn_user(
            f"the source of {reference.name} has changed since campaign {campaign!r} last ran "
            f"({opened.source} -> {reference.source}); what is finished stays as it is"
        )
