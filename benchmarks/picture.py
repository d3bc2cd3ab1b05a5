"""A picture of what `--json` gives: throughput by system, and cost per job by the size of a campaign."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.report import number

OURS, DURABLE, FLEETING, LIMIT = "queue_eval", "durable peers", "peers that are not durable", "limits"
COLOURS = {OURS: "#1f6fd0", DURABLE: "#e07b39", FLEETING: "#9aa3ad", LIMIT: "#d6dae0"}

OWN = {
    "bare": ("bare loop of the same server", LIMIT),
    "thread": ("queue_eval, thread", OURS),
    "process": ("queue_eval, process", OURS),
    "subprocess": ("queue_eval, subprocess", OURS),
    "interpreters": ("python -c pass", LIMIT),
}


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(document: dict[str, Any], file: Path) -> None:
    """Raises ValueError when the document holds nothing that is drawn, OSError when it cannot be written."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    bars = sorted(_bars(document), key=lambda bar: bar[1])
    curve = document["scenarios"].get("growth", {}).get("rounds", {}).get("curve")
    panels: list[tuple[Callable[[Any, Any], None], Any, float]] = []
    if bars:
        panels.append((_draw_bars, bars, 1.6))
    if curve:
        panels.append((_draw_curve, curve, 1.0))
    if not panels:
        raise ValueError("nothing to draw; measure throughput, peers or growth")
    widths = [width for _, _, width in panels]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.8 * sum(widths), 5.0), width_ratios=widths, squeeze=False
    )
    for (panel, data, _), axis in zip(panels, axes[0], strict=True):
        panel(axis, data)
        axis.spines[["top", "right"]].set_visible(False)
    machine = document["machine"]
    hardware = f"{machine['cores']} cores {machine['processor']}"
    caption = f"{hardware}, Python {machine['python']}, {machine['server']}, {machine['at'][:10]}"
    figure.text(0.01, 0.01, caption, fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.025, 1, 1))
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _bars(document: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """What, evaluations per second, which kind."""
    for row in document["scenarios"].get("throughput", {}).get("rows", ()):
        if row["key"] in OWN:
            what, kind = OWN[row["key"]]
            yield what, row["value"], kind
    for row in document["scenarios"].get("peers", {}).get("rows", ()):
        if row["key"] in PEERS:
            peer = PEERS[row["key"]]
            yield peer.what, row["value"], DURABLE if peer.durable else FLEETING


def _draw_bars(axis: Any, bars: list[tuple[str, float, str]]) -> None:
    names = [bar[0] for bar in bars]
    axis.barh(names, [bar[1] for bar in bars], color=[COLOURS[bar[2]] for bar in bars], height=0.7)
    for place, (_, rate, _) in enumerate(bars):
        axis.text(rate * 1.08, place, number(rate), va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(10, max(bar[1] for bar in bars) * 4)
    axis.tick_params(axis="y", labelsize=8, length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title("no-op evaluations per second, two workers or slots", loc="left", fontsize=10)
    kinds = [kind for kind in COLOURS if any(bar[2] == kind for bar in bars)]
    boxes = [axis.barh([names[0]], [0], color=COLOURS[kind]) for kind in kinds]
    axis.legend(boxes, kinds, loc="lower right", fontsize=8, frameon=False)


def _draw_curve(axis: Any, curve: list[tuple[int, float]]) -> None:
    sizes, costs_us = zip(*curve, strict=True)
    axis.plot(sizes, costs_us, color=COLOURS[OURS], linewidth=1.8)
    axis.set_ylim(0, 1.35 * max(costs_us))
    axis.set_xlim(0, None)
    axis.locator_params(axis="x", nbins=4)
    axis.xaxis.set_major_formatter(lambda jobs, _: f"{jobs:,.0f}")
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel("jobs in the campaign", fontsize=8)
    axis.set_title("µs per job submitted and gathered, thread", loc="left", fontsize=10)
