"""One job whole, as lines: its state, what it reports, why it failed, what it printed, its attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from queue_eval.campaign.executions import ExecutionReader
from queue_eval.errors import UsageError
from queue_eval.foreign_text import one_line, printable
from queue_eval.model.job import Execution
from queue_eval.model.states import RELEASED, State
from queue_eval.top.headline import STYLES
from queue_eval.top.panes import Source
from queue_eval.top.report_curves import Curve, ReportCurves
from queue_eval.top.running_pane import worker_at
from queue_eval.top.sparkline import sparkline
from queue_eval.views.formats import shown_duration, shown_time
from queue_eval.views.records import JobRecord

_MOST_OUTPUT_LINES = 500
_MOST_CONFIG_CHARACTERS = 4000
_MOST_RESULT_CHARACTERS = 4000
_MOST_VALUES = 12
_LEFT = 11


@dataclass(frozen=True)
class JobPage:
    """All that is shown of a job, read at about one moment."""

    record: JobRecord
    attempts: list[Execution]
    output: str
    curve: Curve | None
    is_stop_asked: bool
    now_ms: int


def read_page(source: Source, attempts: ExecutionReader, curves: ReportCurves, job: int) -> JobPage:
    """Raises UsageError when there is no such job."""
    queue = source.queue
    records = source.records.of([job])
    if not records:
        last_id = queue.snapshot().last_id
        has = f"its ids are 1 to {last_id}" if last_id else "it has none yet"
        raise UsageError(f"campaign {queue.campaign!r} has no job {job}; {has}")
    (record,) = records
    (asked,) = queue.stops_of([job])
    curve = curves.read([job]).get(job)
    return JobPage(
        record, attempts.executions_of(job), attempts.output_of(job) or "",
        None if curve is None else curve.copy(), asked, queue.snapshot().now_ms,
    )  # fmt: skip


def lines_of(page: JobPage, width: int) -> list[Text]:
    """What stands first is what people come for: of a failed job its error."""
    record = page.record
    found = [*_head(page)]
    found.append(_field("config", one_line(json.dumps(record.as_json()["config"]))[:_MOST_CONFIG_CHARACTERS]))
    if record.tag:
        found.append(_field("tag", one_line(json.dumps(record.as_json()["tag"]))[:_MOST_CONFIG_CHARACTERS]))
    if record.state is State.SUCCEEDED:
        found.append(_field("result", one_line(json.dumps(record.result))[:_MOST_RESULT_CHARACTERS], "green"))
    found += _reports(page.curve, width)
    found += _block("error", record.error, "red")
    if record.state is State.RUNNING and not page.output:
        found += [Text(), Text("output: it has printed nothing yet", "dim")]
    found += _block("output", page.output)
    found += _attempts(page)
    return found


def _head(page: JobPage) -> Iterator[Text]:
    record = page.record
    state = f"{record.state.value}{' early, as it was asked' if record.stopped_early else ''}"
    if page.is_stop_asked and record.entry is None:
        state += ", asked to stop early"
    yield _field("state", state, f"bold {STYLES[record.state]}")
    given_back = f", and {record.releases} given back" if record.releases else ""
    yield _field("attempts", f"{record.attempts}{given_back}")
    yield _field("worker", one_line(worker_at(record.worker, record.host)))
    running = next((one for one in page.attempts if one.outcome == State.RUNNING), None)
    if running is not None and running.started_at is not None:
        since_s = max(0.0, page.now_ms / 1000 - running.started_at.timestamp())
        yield _field("runs for", shown_duration(since_s))
    if record.entry is not None:
        yield _field("ran", f"{shown_duration(record.run_s)}, finished {shown_time(record.finished_ms)} UTC")
    else:
        yield _field("submitted", f"{shown_time(record.submitted_ms)} UTC")


def _reports(curve: Curve | None, width: int) -> Iterator[Text]:
    if curve is None or curve.last is None:
        return
    names = curve.names
    longest = min(20, max((len(one_line(name)) for name in names), default=0))
    yield Text()
    yield Text(f"reports of attempt {curve.attempt}, step {curve.last.step}:", "bold")
    for name in names[:_MOST_VALUES]:
        values = curve.values(name)
        label = one_line(name)[:longest].ljust(longest)
        newest = f"{values[-1]:<10.4g}"
        line = Text(f"  {label}  {newest} ")
        yield line.append(sparkline(values, min(100, width - line.cell_len - 1)), "cyan")
    if len(names) > _MOST_VALUES:
        yield Text(f"  and {len(names) - _MOST_VALUES} more values", "dim")


def _attempts(page: JobPage) -> Iterator[Text]:
    if len(page.attempts) < 2 and page.record.entry is not None:
        return  # the lines above have told all of it
    yield Text()
    yield Text("attempts:" if page.attempts else "attempts: none yet", "bold")
    for one in page.attempts:
        style = STYLES.get(one.outcome, "")
        began = "" if one.started_at is None else f"  began {shown_time(one.started_at.timestamp() * 1000)}"
        ran = "" if one.run_s is None else f", ran {shown_duration(one.run_s)}"
        cause = f" ({one.cause})" if one.cause else ""
        yield Text.assemble(
            f"  {one.number}  ", (one_line(f"{one.outcome}{cause}"), style),
            "  ", one_line(worker_at(one.worker, one.host)), f"{began}{ran}",
        )  # fmt: skip
    earlier = page.attempts[:-1] if page.record.entry is not None else page.attempts
    for one in earlier:
        title = "given back" if one.outcome == RELEASED else "error"
        yield from _block(f"{title}, attempt {one.number}", one.error, "red")
        yield from _block(f"output of attempt {one.number}", one.output)


def _field(label: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{label:<{_LEFT}}", "dim"), (value, style))


def _block(title: str, text: str | None, style: str = "") -> Iterator[Text]:
    """Its newest lines, which come last."""
    if not text:
        return
    lines = printable(text).rstrip("\n").splitlines()
    yield Text()
    left_out = len(lines) - _MOST_OUTPUT_LINES
    more = f" (the last {_MOST_OUTPUT_LINES} of {len(lines)} lines)" if left_out > 0 else ""
    yield Text(f"{title}{more}:", "bold")
    for line in lines[-_MOST_OUTPUT_LINES:]:
        yield Text(f"  {line.expandtabs()}", style)
