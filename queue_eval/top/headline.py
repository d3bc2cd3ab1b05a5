"""The lines at the top of a campaign's screen: is it going, how far, how good, what failed, who works."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from queue_eval.foreign_text import one_line
from queue_eval.model.states import State
from queue_eval.top import shares
from queue_eval.views.formats import shown_duration

STYLES: dict[str, str] = {
    State.SCHEDULED: "cyan", State.PENDING: "blue", State.RUNNING: "yellow", State.SUCCEEDED: "green",
    State.FAILED: "red", State.CANCELLED: "magenta",
}  # fmt: skip

_BAR = ((State.SUCCEEDED, "█"), (State.FAILED, "▓"), (State.CANCELLED, "▓"), (State.RUNNING, "▒"))
_EMPTY = "░"
_ORDER = (
    State.RUNNING, State.SUCCEEDED, State.FAILED, State.PENDING, State.SCHEDULED, State.CANCELLED
)  # fmt: skip


def headline(document: Mapping[str, Any], width: int, *, groups: int = 1) -> list[Text]:
    """The lines. `groups`: so many groups of failures have a line of their own."""
    found = [_title(document, width), _progress(document, width), _counts(document, width)]
    for reason in document["reasons"][:1]:
        told = f"{reason['sentence']}; {reason['advice']}"
        found += _wrapped(Text(one_line(told), "yellow"), width, 2)
    found.append(_best(document))
    found += _failures(document, width, groups)
    found.append(_workers(document))
    for line in found:
        line.truncate(width, overflow="ellipsis")
    return found


def state_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """How the campaign is, in a few words, and their style."""
    counts = document["counts"]
    outstanding = sum(counts[state.value] for state in State if not state.is_final)
    if document["paused"]:
        rest = f", {counts['running']} still running" if counts["running"] else ""
        return f"paused{rest}; P lets it go on", "yellow"
    if not outstanding:
        to_come = document["planned"] - sum(counts.values())
        if to_come > 0:
            return f"waiting: its driver has {to_come} more jobs to submit", "yellow"
        return ("finished", "green") if sum(counts.values()) else ("no jobs yet", "yellow")
    if document["reasons"]:
        return ("running, but more wait", "yellow") if counts["running"] else ("waiting", "yellow")
    if counts["running"]:
        return "running", "green"
    if counts["pending"]:
        return "waiting for a free slot", "yellow"
    return "waiting: jobs are due later", "yellow"


def bar(counts: Mapping[str, int], planned: int, width: int) -> Text:
    """All jobs as a bar. Each state that has jobs has a character at least."""
    whole = max(1, planned)
    states = [state for state, _ in _BAR if counts[state.value]]
    cells = {state: max(1, int(counts[state.value] * width / whole)) for state in states}
    while sum(cells.values()) > width:
        cells[max(cells, key=lambda state: cells[state])] -= 1
    if sum(counts[state.value] for state, _ in _BAR) == planned and cells:
        cells[max(cells, key=lambda state: cells[state])] += width - sum(cells.values())
    found = Text(end="")
    for state, letter in _BAR:
        found.append(letter * cells.get(state, 0), STYLES[state])
    return found.append(_EMPTY * (width - found.cell_len), "dim")


def _title(document: Mapping[str, Any], width: int) -> Text:
    words, style = state_of(document)
    method = f"  {document['function']} ({document['method']})"
    line = Text.assemble((one_line(document["campaign"]), "bold"), "  ", (words, f"bold {style}"))
    if line.cell_len + len(method) <= width:
        line.append(one_line(method).rjust(width - line.cell_len), "dim")
    return line


def _progress(document: Mapping[str, Any], width: int) -> Text:
    counts, planned = document["counts"], document["planned"]
    done = sum(counts[state.value] for state in State if state.is_final)
    left_s, rate = document["time_left_s"], document["rate_per_s"]
    guess = "about " if document["time_left_is_guess"] else ""
    parts = [f" {100 * done / planned:.0f}%" if planned else " -", f"{done} of {planned}"]
    if left_s != 0:
        parts.append(f"{guess}{shown_duration(left_s)} left" if left_s is not None else "time left unknown")
    if rate is not None:
        parts.append(_shown_rate(rate))
    told = " · ".join(parts)
    return bar(counts, planned, max(10, width - len(told))).append(told)


def _shown_rate(per_s: float) -> str:
    """In a unit in which it is no tiny fraction."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_s * seconds >= 1 or unit == "h":
            return f"{per_s * seconds:.3g}/{unit}"
    raise AssertionError


def _counts(document: Mapping[str, Any], width: int) -> Text:
    line = Text(end="")
    for state in _ORDER:
        count = document["counts"][state.value]
        if count or state in (State.RUNNING, State.SUCCEEDED, State.FAILED):
            word = f"{count} {state.value}"
            line.append("   " if line.plain else "").append(word, STYLES[state] if count else "dim")
    share = document["read_share"]
    if share < 1:
        told = f"   read {share:.0%} of the results"
        line.append(told if line.cell_len + len(told) <= width else f"   {share:.0%} read", "dim")
    return line


def _best(document: Mapping[str, Any]) -> Text:
    best = document["best"]
    line = Text("best    ", "dim", end="")
    if best is None:
        return line.append("no result with a number yet", "dim not bold")
    name = f"{one_line(best['key'])}=" if best["key"] else ""
    line.append(f"{name}{best['value']:.6g}", "bold green not dim").append(f"  job {best['id']}  ", "not dim")
    return line.append(one_line(json.dumps(best["config"])), "not dim")


def _failures(document: Mapping[str, Any], width: int, most: int) -> Iterator[Text]:
    groups = document["failures"]
    for i, group in enumerate(groups[:most]):
        line = Text("failed  " if i == 0 else "        ", "dim", end="")
        line.append(f"{group['count']}  ", "bold red not dim").append(one_line(group["line"]), "red not dim")
        others = groups[most:]
        if i == most - 1 and others:
            rest = sum(other["count"] for other in others)
            more = f"  +{rest} in {len(others)} other way{'s' * (len(others) > 1)}"
            line.truncate(width - len(more), overflow="ellipsis")
            line.append(more, "not dim")
        yield line


def _workers(document: Mapping[str, Any]) -> Text:
    workers = document["workers"]
    line = Text("workers ", "dim", end="")
    live = [worker for worker in workers if worker["state"] != "lost"]
    if not workers:
        return line.append("none", "not dim" if not document["counts"]["pending"] else "yellow not dim")
    slots = sum(worker["slots"] or 0 for worker in live)
    busy = sum(map(busy_slots, live))
    hosts = len({worker["host"] for worker in live})
    parts = [f"{len(live)} on {hosts} host{'s' * (hosts != 1)}", f"{busy} of {slots} slots busy"]
    if not live:
        parts = ["none lives"]
    by_host = {worker["host"]: worker for worker in live}.values()
    if load := shares.mean([worker["load"] for worker in by_host if "load" in worker]):
        parts.append(f"load {load}")
    held = [w["memory_used"] / w["memory_total"] for w in by_host if w.get("memory_total")]
    if memory := shares.mean(held):
        parts.append(f"memory {memory}")
    working = [gpu["util"] / 100 for w in live for gpu in w.get("gpus", ()) if gpu["util"] is not None]
    if gpus := shares.mean(working):
        parts.append(f"GPUs {gpus}")
    line.append(" · ".join(parts), "not dim")
    if lost := len(workers) - len(live):
        line.append(f" · {lost} lost", "bold red not dim")
    return line


def busy_slots(worker: Mapping[str, Any]) -> int:
    """How many of its slots are taken.

    `busy` is of its last heartbeat. What it holds of this campaign is of now, but may wait there.
    """
    most = int(worker["slots"] or 0)
    return min(most, max(int(worker.get("busy") or 0), int(worker["running"])))


def _wrapped(text: Text, width: int, most: int) -> list[Text]:
    """The text in at most so many lines."""
    lines: list[Text] = []
    rest = text
    while rest.cell_len > width and len(lines) < most - 1:
        cut = rest.plain.rfind(" ", 0, width)
        cut = cut if cut > 0 else width
        lines.append(rest[:cut])
        rest = rest[cut:]
        rest = rest[1:] if rest.plain.startswith(" ") else rest
    return [*lines, rest]
