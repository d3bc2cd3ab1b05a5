"""Short HTML of jobs and of tables, for notebooks. All text of others is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from queue_eval.foreign_text import last_line, one_line, printable
from queue_eval.model.codec import encode

if TYPE_CHECKING:
    from queue_eval.model.job import Job

MOST_ROWS = 50
"""A list of jobs shows so many."""

_VALUE_CHARACTERS = 80
_ERROR_CHARACTERS = 4000


def escaped(text: str) -> str:
    """Text as HTML shows it."""
    return html.escape(printable(text))


def shortened(value: Any, characters: int = _VALUE_CHARACTERS) -> str:
    """A value in one short line of HTML."""
    try:
        text = value if isinstance(value, str) else encode(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    text = one_line(text[: 4 * characters])
    return escaped(text if len(text) <= characters else f"{text[: characters - 1]}…")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. The cells are HTML."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, the values being HTML."""
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{value}</td></tr>'
        for name, value in pairs
    )
    return f"<table><tbody>{rows}</tbody></table>"


def job_html(job: Job) -> str:
    """One job: its config, how it stands, and its result or its error."""
    pairs = [("job", str(job.id)), ("state", _state(job)), ("config", shortened(job.own_config(), 500))]
    if job.tag is not None:
        pairs.append(("tag", shortened(job.tag)))
    if job.status == job.DONE and job.error is None:
        pairs.append(("result", shortened(job.result, 500)))
    pairs += [
        ("attempts", str(job.attempts)),
        ("worker", escaped(f"{job.worker} on {job.host}" if job.host else job.worker or "-")),
    ]
    if job.run_s is not None:
        pairs.append(("ran", f"{job.run_s:.3g} s"))
    if job.error is None:
        return facts(pairs)
    last, text = shortened(last_line(job.error)), escaped(job.error[-_ERROR_CHARACTERS:])
    pairs.append(("error", f"<details><summary>{last}</summary><pre>{text}</pre></details>"))
    return facts(pairs)


def jobs_html(jobs: Sequence[Job]) -> str:
    """A line for each job, of the first `MOST_ROWS`."""
    rows = [
        (
            str(job.id), _state(job), shortened(job.own_config()), _outcome(job),
            "-" if job.run_s is None else f"{job.run_s:.3g} s",
        )
        for job in jobs[:MOST_ROWS]
    ]  # fmt: skip
    more = f"<p>and {len(jobs) - MOST_ROWS} more</p>" if len(jobs) > MOST_ROWS else ""
    count = f"{len(jobs)} job{'s' * (len(jobs) != 1)}"
    return f"<p>{count}</p>{table(('job', 'state', 'config', 'result', 'ran'), rows)}{more}"


def _state(job: Job) -> str:
    return f"{job.state.value}{' early, as it was asked' if job.stopped_early else ''}"


def _outcome(job: Job) -> str:
    if job.status != job.DONE:
        return "-"
    return shortened(job.result) if job.error is None else shortened(last_line(job.error))
