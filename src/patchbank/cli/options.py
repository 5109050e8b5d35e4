"""What every command shares: flags made from the config's fields, one-line errors, exit codes, progress."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli.examples import example_of, panel_of
from patchbank.cli.terminal import logged_as_notes, note, note_trace
from patchbank.config import PRESETS, Config, Runtime, options, read_toml, with_preset
from patchbank.errors import ConfigError, OutputError, PatchbankError
from patchbank.server.settings import Settings
from patchbank.util.progress import Progress, silent
from patchbank.util.wording import printable
from patchbank.validation import check_names

INTERRUPTED = 130
_debug: ContextVar[bool] = ContextVar("debug", default=False)
# What is being done, for people: the stages that work reports (`util/progress.py`).
STAGES = {
    "quantise": "measuring the network's activations",
    "embed": "reading and embedding images",
    "coreset": "thinning to the memory bank",
    "cross-fit": "fitting once without each fold",
    "calibrate": "calibrating: scoring images held out",
    "screen": "looking for defects among the images",
    "compare": "comparing with the interrupted fit",
    "fill": "filling the gaps with other patches",
    "audit": "reading the images once more",
    "tune": "trying settings",
    "evaluate": "inspecting test images",
    "inspect": "inspecting images",
    "read": "reading a folder of images",
    "plant": "inspecting planted defects",
    "explain": "explaining what was flagged",
    "back up": "copying files",
    "restore": "restoring",
}
# Parameters of a command that become one flag for each option of their class.
_OPTIONS: dict[str, type] = {"config": Config, "runtime": Runtime, "settings": Settings}
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command: its parameters named `config`, `runtime` and `settings` become one flag for each of their
    fields, and errors become one line and an exit code. The name of a command of a group begins with the group's.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        example = example_of(name)
        epilog = f"Example: {example}" if example else None
        app.command(name.split()[-1], rich_help_panel=panel_of(name), epilog=epilog)(_guarded(_with_flags(function)))
        return function

    return register


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name not in _OPTIONS]
    taken = {name: cls for name, cls in _OPTIONS.items() if name in signature.parameters}
    parts = list(taken.values())
    fits = Config in parts
    fields = {cls: [f for f in options(cls) if fits or not f.metadata["fit_only"]] for cls in parts}
    flags = [_flag(field) for cls in parts for field in fields[cls]]
    names = "|".join(PRESETS)
    file = [
        _parameter(
            "config_file", str, None, "--config", help="TOML file of options; flags win over it.", metavar="FILE"
        ),
        _parameter(
            "preset",
            str,
            None,
            "--preset",
            help="Set of options that others win over (default: balanced)",
            metavar=names,
        ),
    ]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        values = {f.name: given.pop(f.name) for cls in parts for f in fields[cls]}
        stored = read_toml(path) if (path := given.pop("config_file", None)) else {}
        if preset := given.pop("preset", None):
            stored["preset"] = preset
        built = _build(parts, stored, {name: value for name, value in values.items() if value is not None})
        function(**given, **{name: built[cls] for name, cls in taken.items()})

    parameters = [*own, *(file if Config in parts else file[:1] if Settings in parts else []), *flags]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _build(parts: Sequence[type], stored: dict[str, Any], flags: dict[str, Any]) -> dict[type, Any]:
    names = {cls: {f.name for f in options(cls)} for cls in parts}
    known = set().union(*names.values()) if names else set()
    stored = with_preset(stored) if Config in parts else stored
    check_names(stored, known, " in the configuration file")
    merged = stored | {name: value.split(",") if name == "layers" else value for name, value in flags.items()}
    return {cls: cls(**{name: value for name, value in merged.items() if name in names[cls]}) for cls in parts}


def _flag(field: dataclasses.Field[Any]) -> inspect.Parameter:
    meta, kind = field.metadata, _KINDS.get(str(field.type).split(" |")[0], str)
    default: Any = field.default
    flag = field.name.replace("_", "-")
    if field.name == "image_size":
        default = "x".join(map(str, default))
    shown = "" if default in (None, (), "", False) else f" (default: {default})"
    metavar = "|".join(meta["choices"]) or {"image_size": "N|HxW", "layers": "A,B"}.get(field.name)
    complete = _completion(meta["choices"]) if meta["choices"] else None
    return _parameter(
        field.name,
        kind,
        None,
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        help=meta["help"] + shown,
        metavar=metavar,
        autocompletion=complete,
        rich_help_panel=f"Options: {meta['group']}",
    )


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _parameter(name: str, kind: Any, default: Any, *flags: str, **about: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, typer.Option(*flags, show_default=False, **about)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Errors become one line on stderr and the exit code of their class; `--debug` shows the traceback."""
    signature = inspect.signature(function)
    debug_flag = inspect.Parameter(
        "debug",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
    )

    @functools.wraps(function)
    def run(*, debug: bool = False, **given: Any) -> None:
        _debug.set(debug)
        try:
            with logged_as_notes():
                function(**given)
        except PatchbankError as error:
            fail(str(error), error.exit_code, debug=debug)
        except KeyboardInterrupt:
            fail("interrupted; what was written before is whole", INTERRUPTED)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            fail(f"{error.strerror or error}{where}", OutputError.exit_code, debug=debug)
        except MemoryError:
            advice = "use a smaller image_size or fewer images"
            fail(f"not enough memory; {advice}", PatchbankError.exit_code, debug=debug)
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001  (a bug must not end with 1, the exit code of a found anomaly)
            about = f"{type(error).__name__}: {error}"
            fail(
                f"internal error ({about}); please report it with the lines above", PatchbankError.exit_code, debug=True
            )

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    run.__signature__ = inspect.Signature([*parameters, debug_flag])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, debug_flag]}
    return run


def fail(message: str, exit_code: int, *, debug: bool = False) -> None:
    """Prints one line to stderr, below the current exception's traceback if `debug`, and ends the program."""
    if debug:
        note_trace()
    note("patchbank: " + " ".join(message.split()), "red")
    raise typer.Exit(exit_code)


def check_page(path: str) -> None:
    """Raises ConfigError for a name that is not that of a page, OutputError if it cannot be written there."""
    from patchbank.util.files import check_writable

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"output: expected a name that ends in .html; got {path}")
    check_writable(path)


def debugging() -> bool:
    """Says whether the command was called with --debug."""
    return _debug.get()


def login() -> str:
    """The name of the user, who is the author of a model's new version; empty where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def in_words(stage: str) -> str:
    """A stage in words; what stands before ": " in it (the data set, say) stays."""
    before, separator, last = stage.rpartition(": ")
    return before + separator + STAGES.get(last, last)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback that draws bars with the time left, on a terminal only."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(printable(in_words(stage)), total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report
