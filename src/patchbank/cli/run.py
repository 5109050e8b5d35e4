"""`patchbank run`: a line."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import command, debugging
from patchbank.cli.terminal import note, note_trace, noted_in_a_thread, say, say_json
from patchbank.config import Runtime
from patchbank.errors import CameraError, ConfigError, PatchbankError

if TYPE_CHECKING:
    from patchbank.line.config import LineConfig
    from patchbank.line.record import Record
    from patchbank.line.runner import Runner

_DIFFERENT = 1  # --replay: the score is another one
_DEMO_PARTS = 10


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""

    @command(app, "run")
    def run(
        runtime: Runtime,
        line: Annotated[
            str | None, typer.Argument(metavar="LINE", help="The line's file, TOML (docs/operate/line.md).")
        ] = None,
        once: Annotated[bool, typer.Option("--once", help="Answer what is there, and end.")] = False,
        check: Annotated[
            bool, typer.Option("--check", help="Open everything once, say what each part answered, and end.")
        ] = False,
        export: Annotated[
            str | None,
            typer.Option("--export", metavar="FILE", help="Write the journal as JSON lines (- = stdout), and end."),
        ] = None,
        replay: Annotated[
            str | None,
            typer.Option("--replay", metavar="ID", help="Inspect a recorded part again; exit code 1: another score."),
        ] = None,
        demo: Annotated[
            bool, typer.Option("--demo", help="Make a line of solar cells, with a fake camera and a PLC, and run it.")
        ] = False,
        out: Annotated[
            str, typer.Option("--out", metavar="DIR", help="Where --demo writes its line.")
        ] = "patchbank-line-demo",
    ) -> None:
        """Run a line: take pictures as triggers or files come, and answer every part by its deadline. Prints a line for
        each part, or a page on a terminal; goes on until SIGTERM or Ctrl-C."""
        from patchbank.line.config import load

        chosen = [name for name, given in (("--once", once), ("--check", check), ("--export", export),
                                           ("--replay", replay)) if given]  # fmt: skip
        if len(chosen) > 1:
            raise ConfigError(f"expected one of {' and '.join(chosen)}; got both")
        if demo:
            if line or check or export or replay:
                raise ConfigError("--demo: expected no file and no other flag but --once, --out and the machine's")
            _demo(Path(out), runtime, once)
            return
        if line is None:
            raise ConfigError("LINE: expected the line's file, as patchbank run line.toml; or --demo")
        config = load(line)
        if check:
            _check(config, runtime)
        elif export:
            _export(config, export)
        elif replay:
            _replay(config, replay, runtime)
        else:
            _run(config, runtime, once)


def _run(config: LineConfig, runtime: Runtime, once: bool) -> None:
    from patchbank.line.runner import Runner

    with _stopped_by_signals() as ending:
        runner = Runner(config, runtime=runtime, once=once)
        _until_the_end(runner, ending, page=not once)
        failed = [f"{station.name}: {station.failure}" for station in runner.stations if station.failure]
        if once and failed:
            raise CameraError("; ".join(failed))


def _demo(folder: Path, runtime: Runtime, once: bool) -> None:
    """once: ends after a few parts."""
    from patchbank.cli.line_demo import PlayedPlc, prepared
    from patchbank.line.config import load
    from patchbank.line.plc.modbus import ModbusPlc
    from patchbank.line.runner import Runner

    listen = "127.0.0.1:0" if once else "127.0.0.1:1502"
    config = load(prepared(folder, listen, runtime))
    with _stopped_by_signals() as ending:
        runner = Runner(config, runtime=runtime)
        played: list[PlayedPlc] = []

        def started() -> None:
            (plc,) = runner.plcs.values()
            assert isinstance(plc, ModbusPlc)
            note("Modbus TCP: {}:{}; the PLC is played here".format(*plc.address))
            played.append(PlayedPlc(plc.address, 0.0 if once else 1.0))

        def enough() -> bool:
            return once and runner.view().stations[0].shown.counters.triggers > _DEMO_PARTS

        try:
            _until_the_end(runner, ending, page=not once, started=started, enough=enough)
        finally:
            for each in played:
                each.close()
    say(f"line      {config.path}")


def _until_the_end(
    runner: Runner,
    ending: threading.Event,
    *,
    page: bool,
    started: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Runs a line, and prints what it does: page = on a page, if this is a terminal."""
    from patchbank.cli.line_view import drawn, on_a_terminal

    with ExitStack() as stack:
        stack.enter_context(noted_in_a_thread())
        stack.callback(runner.stop)
        first = runner.journal.last_number()
        for name, found in runner.open().items():
            note(f"{name}: {found or 'no camera yet'}")
        runner.start()
        started()
        if page and on_a_terminal():
            with drawn(f"{runner.config.options.line or 'line'}: {runner.config.path}") as draw:
                while not runner.wait(ending, 0.25) and not enough():
                    draw(runner.view(backlogs=True))
            return
        while not runner.wait(ending, 0.2) and not enough():
            first = _print_new(runner.journal.numbered(first), first)
    reader = runner.reader()
    try:
        _print_new(reader.numbered(first), first)
    finally:
        reader.close()


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; a second one ends the program at once."""
    ending = threading.Event()

    def told(number: int, _: object) -> None:
        ending.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_new(records: Iterator[tuple[int, Record]], last: int) -> int:
    """Prints a line for each record. Returns the number of the last one."""
    for number, record in records:
        last = number
        if not record.late:
            score = "" if record.score is None else f"  {record.score:.3f}"
            took = "" if record.latency_ms is None else f"  {record.latency_ms:.0f} ms"
            style = {"ok": "green", "ng": "red", "error": "red"}.get(record.verdict, "yellow")
            part = record.part_id or record.trigger
            say(f"{record.station}  {part}  {record.verdict.upper():<6}{score}{took}  {record.reason}", style)
    return last


def _check(config: LineConfig, runtime: Runtime) -> None:
    from patchbank.line.check import check

    worst = 0
    for each in check(config, runtime):
        say(f"{'failed' if each.failed else 'ok':<7} {each.what}: {each.answer}", "red" if each.failed else "green")
        if each.failed is not None:
            code = each.failed.exit_code if isinstance(each.failed, PatchbankError) else PatchbankError.exit_code
            worst = max(worst, code)
            if debugging():
                note_trace("".join(_trace(each.failed)))
    if worst:
        raise typer.Exit(worst)


def _trace(error: Exception) -> list[str]:
    import traceback

    return traceback.format_exception(error)


def _export(config: LineConfig, target: str) -> None:
    from patchbank.line.journal_reader import JournalReader
    from patchbank.util.files import atomic_write

    reader = JournalReader(config.data)
    try:
        if target == "-":
            for record in reader.records():
                say_json(exported(record))
        else:
            with atomic_write(Path(target)) as file:
                for record in reader.records():
                    file.write(json.dumps(exported(record), allow_nan=False).encode() + b"\n")
    finally:
        reader.close()


def exported(record: Record) -> dict[str, Any]:
    """A record without its patch grid, which takes 5 kB, and what the line alone needs."""
    return {name: value for name, value in record.to_dict().items() if name not in ("heat", "source_key")}


def _replay(config: LineConfig, id: str, runtime: Runtime) -> None:
    from patchbank.line.replay import replay

    done = replay(config, id, runtime)
    note(f"inspected with {done.model}")
    say_json(done.to_dict())
    if not done.identical:
        raise typer.Exit(_DIFFERENT)
