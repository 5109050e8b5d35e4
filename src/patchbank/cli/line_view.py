"""A running line on a terminal: a page that is drawn anew a few times a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from patchbank.util.wording import printable

if TYPE_CHECKING:
    from patchbank.line.views import LineView, StationView

_STYLES = {"ok": "bold white on green", "ng": "bold white on red", "review": "bold black on yellow"}
_STATES = {"start": "yellow", "ready": "green", "busy": "cyan", "fault": "bold red"}
_FOREIGN = 60  # characters of a text that is not ours


def on_a_terminal() -> bool:
    """Whether the page can be drawn."""
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def drawn(title: str) -> Iterator[Callable[[LineView], None]]:
    """Yields what draws a view of the line in place of the one before."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), refresh_per_second=4, transient=False) as live:
        yield lambda view: live.update(page(title, view), refresh=True)


def page(title: str, view: LineView) -> Any:
    """What is drawn: a row for each station, then what is wrong, then what is owed to the sinks."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=printable(title), expand=True)
    for name in ("station", "state", "verdict", "part", "score", "ms", "triggers", "OK", "REVIEW", "NG", "ERROR"):
        table.add_column(name, justify="left" if name in ("station", "state", "verdict", "part") else "right")
    for station in view.stations:
        table.add_row(*_row(station))
    lines: list[Any] = [table]
    for station in view.stations:
        about = f"{station.name}: model {station.model}, version {station.model_version}"
        camera = station.failure or station.camera or "no camera"
        lines.append(Text(printable(f"{about}; {camera}")[:200], "dim"))
    lines += [Text(printable(f"alarm: {what}: {why}"), "bold red") for what, why in view.alarms.items()]
    for sink, (owed, refused) in view.backlogs.items():
        lines.append(Text(printable(f"sink {sink}: {owed} wait, {refused} refused"), "dim"))
    lines.append(Text(f"{time.strftime('%H:%M:%S')}  Ctrl-C stops the line", "dim"))
    return Group(*lines)


def _row(station: StationView) -> list[Any]:
    from rich.text import Text

    counters, last = station.shown.counters, station.last
    state = "paused" if station.paused else station.shown.state.name.lower()
    verdict, part, score = Text("-"), "", ""
    if last is not None:
        said = str(last.decided.verdict)
        verdict = Text(f" {said.upper()} ", _STYLES.get(said, _STYLES["ng"]))
        part = printable(last.part.part_id or str(last.part.seq))[:_FOREIGN]
        score = "" if last.result is None else f"{last.result.score:.3f}"
    return [
        printable(station.name),
        Text(state, _STATES.get(state, "yellow")),
        verdict,
        Text(part),
        score,
        f"{station.shown.latency_ms:.0f}",
        str(counters.triggers),
        str(counters.ok),
        str(counters.review),
        str(counters.ng),
        str(counters.error),
    ]
