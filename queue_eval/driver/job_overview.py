"""What a driver knows of its jobs, as counts, lists and tables. It works on a closed driver, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queue_eval.driver.best import best_of
from queue_eval.driver.job_list import JobList
from queue_eval.driver.results import SavedKeys, convert_for_csv, data_frame, write_results
from queue_eval.driver.results_owner import Owner
from queue_eval.driver.session import CampaignSession
from queue_eval.model.job import Job
from queue_eval.transport.urls import SecretUrl

if TYPE_CHECKING:
    import pandas as pd


class JobOverview:
    """The part of an evaluator that only shows jobs, and changes none."""

    def __init__(self, session: CampaignSession) -> None:
        self._session = session
        self._ledger = session.ledger
        self._created: dict[Job, None] = {}
        """Jobs that were created and not submitted. A dict, so that each leaves in constant time."""
        self._submitted = 0

    @property
    def num_outstanding(self) -> int:
        """How many jobs, submitted or adopted, no gather has returned."""
        with self._session.lock:
            return self._ledger.outstanding

    @property
    def num_submitted(self) -> int:
        """How many jobs this evaluator has submitted."""
        return self._submitted

    @property
    def num_gathered(self) -> int:
        """How many jobs were gathered, awaited or given by `history`, each counted once."""
        with self._session.lock:
            return len(self._ledger.gathered_ids)

    @property
    def jobs(self) -> list[Job]:
        """Every job that this driver knows. It knows an adopted one when that has finished, or was shown.

        With ``keep_jobs=False``, those that no gather has returned yet. See `outstanding`.
        """
        with self._session.lock:
            known = self._ledger.tracked.values(), self._ledger.adopted_jobs.values()
            return JobList([*known[0], *known[1], *self._created])

    @property
    def jobs_done(self) -> list[Job]:
        """Every job that was gathered, awaited or given by `history`, each once, and that is kept."""
        with self._session.lock:
            return JobList(self._ledger.gathered_jobs.values())

    @property
    def url(self) -> str:
        """The URL of the server, for workers, other drivers and `attach`.

        It holds the server's password, if that has one: `str` and `print` show it, `repr` does not.
        """
        return SecretUrl(self._session.queue.link.access.url)

    def best(
        self, n: int = 1, direction: str = "max", key: Callable[[Job], Any] | None = None
    ) -> list[Job]:
        """The `n` best jobs of those gathered or given by `history`, the best one first.

        Only jobs that have succeeded, and with a finite number: `key` gives it, else it is the result.
        `direction`: "max" or "min". Of equal jobs the lower id comes first. Raises UsageError for a value
        that is no number. With ``keep_jobs=False`` the jobs are read from the server.
        """
        jobs = self.jobs_done if self._ledger.keep or not self.num_gathered else self._session.gathered()
        return JobList(best_of(jobs, n, direction, key))

    def plot(
        self, kind: str = "objective", *, key: str | None = None, direction: str = "max", ax: Any = None
    ) -> Any:
        """Draw the campaign as the browser shows it, and return the axes of matplotlib (extra ``plot``).

        `kind`: "objective" (results as they came, the best so far, failures), "curves" (what running jobs and
        the best ones have reported), "rate" (results per second) or "slots" (who ran what when). `key`: the
        name of a number in results that are dicts, ``outer.inner`` for one within a dict; None: the result
        itself, or its ``objective``. `direction`: "max" or "min". `ax`: axes to draw into; None: of its own.
        Raises UsageError for an unknown kind or key, and without matplotlib.
        """
        from queue_eval.driver.plots import plot  # only those who look pay for the views

        return plot(self._session.queue, kind, key=key, direction=direction, ax=ax)

    def _repr_html_(self) -> str:
        from queue_eval.driver.notebook import evaluator_html

        return evaluator_html(self._session.queue, len(self.jobs_done), self.num_outstanding)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per job that this driver knows; times in UTC and seconds."""
        return data_frame(self.jobs)

    def dump_evals(self, saved_keys: SavedKeys = None, log_dir: str | Path = ".") -> None:
        """Write ``results.csv`` to `log_dir`: every job of `jobs_done`; no file when there is none.

        `saved_keys`: None for the whole config, a list of its keys, or a callable from `Job` to dict.

        What another campaign has written there is kept under another name, with a warning.
        With ``keep_jobs=False`` the jobs are read from the server, in the order in which they finished.
        """
        self.write_evals(Path(log_dir) / "results.csv", saved_keys)

    def write_evals(
        self, target: Path, saved_keys: SavedKeys = None, *, safe_cells: bool = False
    ) -> None:
        """As `dump_evals`, to a file of another name. `safe_cells`: for spreadsheets, without formulas."""
        folder, name = target.parent, target.name
        owner = Owner(self._session.queue.campaign, self._session.queue.uid)
        if self._ledger.keep:
            write_results(
                self.jobs_done, saved_keys, folder, name=name, owner=owner, safe_cells=safe_cells
            )
        elif self.num_gathered:
            gathered = self._session.gathered()
            write_results(
                gathered, saved_keys, folder, spill=True, name=name, owner=owner, safe_cells=safe_cells
            )

    def decode(self, key: str) -> dict[str, Any]:
        """The dict that a JSON string holds. Raises ValueError for anything else."""
        value = json.loads(key) if isinstance(key, str) else key
        if not isinstance(key, str) or not isinstance(value, dict):
            raise ValueError(f"Expected dict, but got {value.__class__}")
        return value

    def convert_for_csv(self, value: Any) -> Any:
        """`value` as a cell of a CSV file: a list becomes its `str`."""
        return convert_for_csv(value)
