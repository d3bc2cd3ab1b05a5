"""Which code gave a result: what workers have reported of it, and how that compares with the code here.

::

    child: loads the function ──ready──▶ worker ──note_load──▶ meta, `source:<hash>` ──▶ driver, command line

A result bears its source, a hash of the function and of the user's files that loading it has reached.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from queue_eval.campaign.view import CampaignView
from queue_eval.function.driver_path import find_fresh
from queue_eval.function.reference import FunctionRef
from queue_eval.function.user_code import digest, digest_file, file_of, files_reached
from queue_eval.machine import machine_id
from queue_eval.model.codec import decode
from queue_eval.model.job import Job
from queue_eval.transport.hints import spell_command
from queue_eval.user_warning import warn_user

_FIELD = "source:"


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a result's source hash, as a worker has reported them."""

    function: str
    """Hash of the function's own code."""
    files: Mapping[str, tuple[str, str]]
    """Module -> its file on the worker's machine, and the digest of that."""
    parts: tuple[str, ...] = ()
    """Hashes of the functions that came with it by value."""

    @classmethod
    def parse(cls, text: bytes) -> Source | None:
        """From the field of meta. None when it is missing or damaged."""
        try:
            report = decode(text)
            files = {str(name): (str(file), str(hash_)) for name, (file, hash_) in report["files"].items()}
            return cls(str(report["function"]), files, tuple(sorted(map(str, report["parts"]))))
        except (ValueError, TypeError, LookupError, AttributeError):
            return None

    def digest_of(self, module: str) -> str | None:
        """The digest of the function's own file, in `module`; None when the function came by value."""
        found = self.files.get(module) or self.files.get("__main__")
        return None if found is None else found[1]

    def is_of(self, digests: Container[str]) -> bool:
        """Whether the digests of all its files are among these."""
        return all(known in digests for _, known in self.files.values())

    def is_current(self, wanted: _Wanted) -> bool | None:
        """Whether this machine has the same code now. None when nothing here shows it."""
        own = self.digest_of(wanted.module)
        if own is None:
            if wanted.function and self.function and wanted.function != self.function:
                return False
        elif (here := digest_at(wanted.file)) and here != own:
            return False
        found = {module: wanted.digest_of(module, file) for module, (file, _) in self.files.items()}
        if found and not any(found.values()):
            return None
        return all(found[module] == known for module, (_, known) in self.files.items())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The run function, as the last driver that opened the campaign has it."""

    module: str
    function: str
    """Its hash, or empty when it is not known."""
    file: str
    """The file of its module on the driver's machine, or empty when there is none."""
    path: tuple[str, ...]
    """Its import path, if the driver is on this machine."""
    pins: Mapping[str, str]

    def digest_of(self, module: str, file: str) -> str:
        """The digest of a module's file here: the driver's file, else the worker's. Empty without a file."""
        own = self.file if module in ("__main__", self.module) else self.pins.get(module, "")
        if not own and (spec := find_fresh(module, self.path)) is not None and spec.has_location:
            own = spec.origin or ""
        return digest_at(own) or digest_at(file)

    @classmethod
    def of(cls, meta: Mapping[str, bytes]) -> _Wanted:
        module, function = (meta.get(name, b"").decode(errors="replace") for name in ("function", "source"))
        file = ""
        path: tuple[str, ...] = ()
        pins: dict[str, str] = {}
        with suppress(ValueError, TypeError, LookupError, AttributeError):
            code = decode(meta["options"])["code"]
            file = str(code["file"] or "")
            if code["machine"] == machine_id():
                path = tuple(map(str, code["path"]))
                pins = {str(name): str(place) for name, place in code["pins"].items()}
        return cls(module.partition(":")[0], function, file, path, pins)


def known_sources(meta: Mapping[str, bytes]) -> dict[str, Source | None]:
    """All sources that workers have reported: hash -> its parts."""
    return {
        name.removeprefix(_FIELD): Source.parse(value)
        for name, value in meta.items()
        if name.startswith(_FIELD)
    }


def digest_at(file: str) -> str:
    """The digest of a file, or of a member of an archive. Empty when there is none."""
    if not file:
        return ""
    path = Path(file)
    with suppress(OSError):
        return digest_file(file)
    for folder in path.parents:
        with suppress(OSError, KeyError, zipfile.BadZipFile):
            if folder.is_file():
                with zipfile.ZipFile(folder) as archive:
                    return digest(archive.read(str(path.relative_to(folder))))
    return ""


def results_by_source(view: CampaignView) -> dict[str, dict[int, str]]:
    """Source -> the jobs whose results have it, with their entries. The source of the newest result is last.

    Reads the whole result stream.
    """
    found: dict[str, dict[int, str]] = {}
    cursor = "0-0"
    while page := view.read_after(cursor):
        cursor = page[-1].entry
        current = view.index_of([entry.id for entry in page])
        for entry, now in zip(page, current, strict=True):
            if entry.entry == now and entry.source:
                # Removed and added again, so that the source of the newest result is the last.
                found[entry.source] = jobs = found.pop(entry.source, {})
                jobs[entry.id] = entry.entry
    return found


def changed_sources(meta: Mapping[str, bytes], found: Iterable[str]) -> set[str] | None:
    """The sources in `found` whose code is not what this machine has now. None when nothing here shows it.

    `found`: the sources of results, with that of the newest result last.
    """
    known = known_sources(meta)
    wanted = _Wanted.of(meta)
    sources = {hash_: known.get(hash_) for hash_ in found}
    verdicts = {hash_: source.is_current(wanted) if source else None for hash_, source in sources.items()}
    current = [hash_ for hash_, verdict in verdicts.items() if verdict]
    if not current and None in verdicts.values():
        return None
    # Files of other machines may not be here. They are current if equal files of current sources are here.
    digests = {known for hash_ in current if (source := sources[hash_]) for _, known in source.files.values()}
    current = [
        hash_ for hash_, source in sources.items()
        if verdicts[hash_] or (verdicts[hash_] is None and source is not None and source.is_of(digests))
    ]  # fmt: skip
    # Code by value has no file to compare with: the code of the newest result counts as what there is now.
    if current and (newest := sources[current[-1]]) is not None:
        current = [
            hash_ for hash_ in current
            if (source := sources[hash_])
            and (source.digest_of(wanted.module) or source.parts == newest.parts)
        ]  # fmt: skip
    return set(sources) - set(current)


class SourceCheck:
    """Warns a driver once of each source of results that differs from its own code.

    `before`: the function's hash before this driver opened the campaign. Of that change the opening warns.
    """

    def __init__(self, view: CampaignView, reference: FunctionRef, before: str) -> None:
        self._view = view
        self._reference = reference
        self._before = before
        self._judged: set[str | None] = {None}
        # The files as they are now: what this driver has loaded does not change with them.
        self._loaded = files_reached(())

    def look(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.source not in self._judged:
                self._judged.add(job.source)
                self._judge(job)

    def _judge(self, job: Job) -> None:
        key = self._view.keys.meta
        text = self._view.link.call(lambda client: client.hget(key, f"{_FIELD}{job.source}"))
        source = Source.parse(text or b"")
        if source is None:
            return
        where = f"worker {job.worker}" + (f" on {job.host}" if job.host else "")
        for module, (file, hash_) in sorted(source.files.items()):
            own = self._own(module)
            if own is not None and own[1] != hash_:
                same = "which has changed since" if own[0] == file else f"and this driver has {own[0]}"
                warn_user(
                    f"results of campaign {self._view.campaign!r} (source {job.source}) are of other code "
                    f"than this driver's: {where} ran {module} from {file}, {same}; run them again with: "
                    f"{self._command()}"
                )
                return
        own_function, module = self._reference.source, self._reference.name.partition(":")[0]
        # A function in a file was compared by that: the driver's function may be instrumented, as in tests.
        is_in_file = source.digest_of(module) is not None or not source.function
        if own_function and not is_in_file and source.function not in (own_function, self._before):
            warn_user(
                f"results of campaign {self._view.campaign!r} (source {job.source}) are of another "
                f"{self._reference.name} than this driver's, by {where}; run them again with: "
                f"{self._command()}"
            )

    def _command(self) -> str:
        return spell_command(self._view.link.access, "retry", self._view.campaign, "--source-changed")

    def _own(self, module: str) -> list[str] | None:
        """File and digest of a module, as this driver has it. None when it does not have the module."""
        if module in ("__main__", self._reference.name.partition(":")[0]):
            script = self._reference.code.get("script")
            if script is not None:  # As it was when this driver began.
                return [script["file"], script["digest"]]
            file = self._reference.code.get("file")
            own = self._loaded.get(module)
            if own is not None and own[0] == file:
                return own
            return None if file is None else [file, digest_at(file)]
        if module in self._loaded:
            return self._loaded[module]
        if module in sys.modules:
            return file_of(sys.modules[module])
        spec = find_fresh(module, self._reference.code.get("path", sys.path))
        if spec is None or not spec.has_location or not spec.origin:
            return None
        return [spec.origin, digest_at(spec.origin)]
