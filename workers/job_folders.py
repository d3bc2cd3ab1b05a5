"""The folders of a campaign's jobs, as one worker sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from queue_eval.model.attempt import Token
from queue_eval.runtime.checkpoints import campaign_folder, job_folder, newest, place_of


class JobFolders:
    """`inside`: see `queue_eval.runtime.pipe.Setup`."""

    def __init__(self, inside: dict[str, Any] | None) -> None:
        self._inside = inside or {}
        self.keeps_checkpoints = bool(self._inside.get("keep_checkpoints"))
        self.keeps_failed = bool(self._inside.get("keep_folders"))

    def checkpoints_of(self, job: int) -> Path | None:
        """Where the checkpoints of a job lie; None where none can be saved."""
        base = self._inside.get("checkpoints")
        return None if base is None else job_folder(base, self._inside["campaign"], self._inside["uid"], job)

    def place(self) -> str:
        """The id of the folder of checkpoints, which is made where it is missing; empty where none can be."""
        base = self._inside.get("checkpoints")
        if base is None:
            return ""
        try:
            Path(base).mkdir(mode=0o700, parents=True, exist_ok=True)
            return place_of(Path(base))
        except OSError:
            return ""

    def has_checkpoint(self, job: int) -> bool:
        """Whether a complete checkpoint of the job is to be seen here."""
        folder = self.checkpoints_of(job)
        return folder is not None and newest(folder) is not None

    def working_folder_of(self, token: Token) -> Path | None:
        """The folder that an attempt has made for itself, if it has."""
        base = self._inside.get("folders")
        if base is None:
            return None
        campaign = campaign_folder(base, self._inside["campaign"], self._inside["uid"])
        return campaign / f"{token[0]}-{token[1]}"


def inside(
    options: dict[str, Any], *, campaign: str, uid: str, worker: str, home: Path | None,
    mailroom: Path | None, time_limit_s: float | None, ends_at: float | None,
) -> dict[str, Any] | None:  # fmt: skip
    """What the processes of a campaign are told for `current_job`: `queue_eval.runtime.pipe.Setup.inside`.

    `options`: of the campaign; `home`: of this worker; `ends_at`: when this worker ends (monotonic, s).
    None for a worker without a mailroom, such as in a test: then jobs find nothing inside.
    """
    if mailroom is None:
        return None
    below = None if home is None else home.absolute()
    limit = options.get("checkpoint_space")
    return {
        "campaign": campaign,
        "uid": uid,
        "worker": worker,
        "lane": uid,
        "checkpoints": _checkpoints(options, below),
        "folders": None if below is None else str(below / "folders"),
        "notices": str(mailroom),
        "mailbox": str(mailroom / "mailbox"),
        "time_limit_s": time_limit_s,
        "ends_at": ends_at,
        "keep_checkpoints": bool(options.get("keep_checkpoints")),
        "keep_folders": bool(options.get("keep_folders")),
        "checkpoint_space": None if limit is None else int(limit),
        "live": True,
        "logs": None if below is None else str(below / "logs"),
    }


def _checkpoints(options: dict[str, Any], home: Path | None) -> str | None:
    """Where checkpoints are saved: in the folder that the campaign names; else below the driver's home, if
    this worker sees it; else below its own home."""
    if named := options.get("checkpoints"):
        return str(named)
    if shared := options.get("checkpoints_home"):
        folder = Path(str(shared))
        if folder.parent.is_dir():
            return str(folder)
    return None if home is None else str(home / "checkpoints")
