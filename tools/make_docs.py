"""Writes the pages of docs/reference/ that are made from the code: configuration, cli, python-api, database, line-file.

python tools/make_docs.py            writes them
python tools/make_docs.py --check    exits with 1 if one of them is not current (tests/test_docs.py does the same)
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

import patchbank
from patchbank import errors
from patchbank.config import Config, Runtime, options
from patchbank.server.settings import Settings

DOCS = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Made by tools/make_docs.py from the code: change the code, not this page. -->\n"
CONFIG_NAMES = {option.name for option in options(Config)}
RUNTIME_NAMES = {option.name for option in options(Runtime)}
WIDTH = 100
EXAMPLE = """```python
from dataclasses import replace
from patchbank import Config

config = Config(image_size=256, sampler="greedy_coreset", coreset_ratio=0.1)
larger = replace(config, image_size=384)
```"""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


# --- configuration.md ---


def configuration() -> str:
    """Every option of Config and Runtime."""
    parts = [
        NOTE,
        "# Configuration",
        "Every option, once. The same names are the fields of `patchbank.Config` and `patchbank.Runtime` in Python, "
        "the keys of a TOML file (`patchbank fit --config FILE`), and, with hyphens for underscores, the flags of the "
        "[command line](cli.md), which win over the file. An unknown name or an impossible value is an error that "
        "names what is valid.",
        "`Config` says what a model is: it is stored in the model file and cannot be changed there. `Runtime` says how "
        "this machine runs it, and is never stored.",
        EXAMPLE,
        "## Config",
    ]
    for group in dict.fromkeys(option.metadata["group"] for option in options(Config)):
        parts += [f"### {group}", option_table(o for o in options(Config) if o.metadata["group"] == group)]
    parts += [
        "## Runtime",
        option_table(options(Runtime)),
        "## Service",
        "The options of `patchbank serve`, beside those of `Runtime`; `patchbank serve --config FILE` reads both from "
        "one file. [serve.md](../operate/serve.md) says how they are used.",
        option_table(options(Settings)),
        "## All of it as TOML",
        "The defaults; leave out what suits you. `None` (nothing set) has no spelling in TOML: leave the option out.",
        toml(),
    ]
    return joined(parts)


def option_table(chosen: Iterable[dataclasses.Field[Any]]) -> str:
    """Name, type, default, limits and help of each option."""
    return table(
        ("option", "default", "valid", "what it does"),
        ((f"`{o.name}`", f"`{default_of(o)}`", valid(o), o.metadata["help"]) for o in chosen),
    )


def default_of(option: dataclasses.Field[Any]) -> str:
    if option.name == "image_size":
        return "x".join(map(str, option.default))
    return {None: "None", (): "()", "": '""'}.get(option.default, str(option.default))


def valid(option: dataclasses.Field[Any]) -> str:
    meta = option.metadata
    if meta["choices"]:
        return ", ".join(f"`{choice}`" for choice in meta["choices"])
    kind = str(option.type).replace("ImageSize", "int, or two of them").replace("tuple[str, ...]", "list of names")
    words_of = {"bool": "true or false", "str": "text", "float": "number", "int": "whole number"}
    for name, words in (words_of | {"Area": "path or polygons"}).items():
        kind = re.sub(rf"\b{name}\b", words, kind)
    kind = kind.replace(" | None", " or nothing")
    if meta["low"] is not None:
        kind += f", {'>' if meta['low_open'] else '>='} {meta['low']:g}"
    if meta["high"] is not None:
        kind += f", <= {meta['high']:.12g}"
    return kind


def toml() -> str:
    """The defaults as a TOML file."""
    lines = []
    for option in (*options(Config), *options(Runtime)):
        if option.default is None:
            continue
        value = option.default
        if isinstance(value, tuple):
            text = "[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in value) + "]"
        else:
            text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        lines.append(f"{option.name} = {text}")
    return "```toml\n" + "\n".join(lines) + "\n```\n"


# --- line-file.md ---


def line_file() -> str:
    """Every table of a line's file."""
    from patchbank.line import kinds, settings

    parts = [
        NOTE,
        "# The file of a line",
        "`patchbank run LINE.toml` reads it; [line.md](../operate/line.md) says how it is used. An unknown key, a "
        "wrong unit or an impossible value is an error before anything starts. Paths are relative to the folder of "
        "the file. Secrets do not stand in it: they come from files of their own. `patchbank run LINE.toml --check` "
        "opens everything once.",
        "## The top",
        option_table(options(settings.LineOptions)),
        "## [station.NAME]",
        "One for each station. NAME: up to 64 letters, digits and `_ . -`.",
        option_table(options(settings.StationOptions)),
        "### [station.NAME.recipes]",
        'Other models, by the number (from 1) with which the PLC chooses them: `2 = "blue-cap.patchbank"`. Number 0 is '
        "the station's own `model`. All of them are loaded at the start.",
    ]
    for title, group in (
        ("[station.NAME.camera]", kinds.CAMERAS),
        ("[station.NAME.plc]", kinds.PLCS),
        ("[station.NAME.output]", kinds.OUTPUTS),
        ("[[sink]]", {name: kind for name, kind in kinds.SINKS.items() if name != "server"}),
        ("[server]", {name: kind for name, kind in kinds.SINKS.items() if name == "server"}),
    ):
        for name, kind in group.items():
            parts += [
                f"### {title}: {name}" if title != "[server]" else "## [server]",
                inspect.cleandoc(kind.options.__doc__ or "").replace("\n", " "),
                option_table(options(kind.options)),
            ]
    retain = settings.RetainOptions
    parts += ["## [retain]", inspect.cleandoc(retain.__doc__ or ""), option_table(options(retain))]
    return joined(parts)


# --- cli.md ---


def command_line() -> str:
    """Every command, argument and flag, and the exit codes."""
    from patchbank.cli.app import app

    root: Any = typer.main.get_command(app)
    parts = [
        NOTE,
        "# Command line",
        "Results go to stdout, everything else (progress, notes, skipped images, errors) to stderr: "
        "`patchbank predict m.patchbank parts/ --json > results.jsonl` gives clean JSON. Progress bars are drawn on "
        "terminals only. `patchbank --version` prints the version, `patchbank COMMAND --help` explains a command, "
        "`patchbank --install-completion` installs completion for the current shell, and `patchbank --show-completion` "
        "prints it.",
    ]
    for path, command in commands(root, "patchbank"):
        parts += [f"## {path}", inspect.cleandoc(command.help or ""), usage(path, command), arguments(command)]
    parts += ["## Model options", "One flag for each field of `Config`; [configuration.md](configuration.md) has the "]
    parts[-1] += "defaults and limits. `--config FILE` reads them from a TOML file; flags win."
    parts += [flags(options(Config)), "## Machine options", "One flag for each field of `Runtime`."]
    parts += [flags(options(Runtime)), "## Exit codes", exit_codes()]
    parts += [
        "`predict` goes on after an error of one image or one file. Its code is 1 with `--fail-on` and such a "
        "verdict, whatever else has happened; else the largest code of what went wrong; else 0. "
        "[batches.md](../operate/batches.md) says what a batch promises.",
        "Without `--debug` an error is one line on stderr. With it, the traceback comes first; the exit code stays the "
        "same.",
    ]
    return joined(parts)


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below a group, in order of registration."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def usage(path: str, command: Any) -> str:
    words = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words.append(parameter.metavar)
        elif parameter.required:
            words.append(f"{parameter.opts[0]} {parameter.metavar}")
    example = f"\n\n```sh\n{command.epilog.removeprefix('Example: ')}\n```" if command.epilog else ""
    return f"```text\n{' '.join(words)} [OPTIONS]\n```{example}"


def arguments(command: Any) -> str:
    """The command's own arguments and flags, and which shared ones it takes."""
    names = {parameter.name for parameter in command.params}
    elsewhere = RUNTIME_NAMES | (CONFIG_NAMES if names >= CONFIG_NAMES else set())
    own = [parameter for parameter in command.params if parameter.name not in elsewhere]
    rows = [(f"`{spelling(parameter)}`", parameter.help or "") for parameter in own if parameter.name != "help"]
    shared = []
    if names >= CONFIG_NAMES:
        shared.append("the [model options](#model-options)")
    if names >= RUNTIME_NAMES:
        shared.append("the [machine options](#machine-options)")
    text = table(("argument or flag", "what it does"), rows)
    return text + (f"\nAlso takes {' and '.join(shared)}.\n" if shared else "")


def spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    text = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return text if parameter.is_flag else f"{text} {parameter.metavar}"


def flags(chosen: Iterable[dataclasses.Field[Any]]) -> str:
    rows = ((f"`--{o.name.replace('_', '-')}`", o.metadata["help"]) for o in chosen)
    return table(("flag", "what it sets"), rows)


def exit_codes() -> str:
    """0, 1, 130 and those of errors.py."""
    found = (
        "`predict --fail-on` found such a verdict, `drift --fail-on-drift` a drift, or `audit-log verify` a change of "
        "the log"
    )
    rows = [("0", "", "all is well"), ("1", "", found)]
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PatchbankError)]
    for code in sorted({c.exit_code for c in classes} - {errors.PatchbankError.exit_code}):
        these = [c for c in classes if c.exit_code == code]
        names = ", ".join(f"`{c.__name__}`" for c in these)
        rows.append((str(code), names, " ".join(c.__doc__ or "" for c in these)))
    rows.append((str(errors.PatchbankError.exit_code), "", "out of memory, or a bug in patchbank: please report it"))
    rows.append(("130", "", "interrupted by Ctrl-C"))
    return table(("code", "error", "meaning"), rows)


# --- python-api.md ---


def python_api() -> str:
    """Every public name with its signature and documentation."""
    parts = [
        NOTE,
        "# Python API",
        "Everything here is imported from `patchbank`; what is not listed is private and may change. Distances and "
        "scores are Euclidean (not squared); higher = more anomalous. Images are RGB, row by row.",
    ]
    public = {name: getattr(patchbank, name) for name in patchbank.__all__}
    raised = {n: v for n, v in public.items() if isinstance(v, type) and issubclass(v, errors.PatchbankError)}
    for name, value in public.items():
        if name not in raised:
            parts += [f"## {name}", *described(name, value)]
    parts += [
        "## Errors",
        "All derive from `PatchbankError`; what they mean for a shell is in [cli.md](cli.md#exit-codes).",
    ]
    rows = ((f"`{n}`", ", ".join(f"`{b.__name__}`" for b in c.__bases__), c.__doc__ or "") for n, c in raised.items())
    parts.append(table(("error", "is a", "raised when"), rows))
    return joined(parts)


def described(name: str, value: Any) -> Iterator[str]:
    """Signature, documentation and members of a class or function."""
    if not isinstance(value, type):
        yield code(f"{name}{signature(value)}")
        yield inspect.getdoc(value) or ""
        return
    if value in (Config, Runtime):
        yield code(f"{name}(*, option=value, ...)")
    elif dataclasses.is_dataclass(value):
        yield code("\n".join(f"{f.name}: {f.type}" for f in dataclasses.fields(value)))
    yield inspect.getdoc(value) or ""
    if value in (Config, Runtime):
        yield f"Its options: [configuration.md](configuration.md#{name.lower()})."
    for member, what in vars(value).items():
        if not member.startswith("_"):
            yield from member_lines(name, member, what)


def member_lines(owner: str, name: str, what: Any) -> Iterator[str]:
    function = what.__func__ if isinstance(what, (classmethod, staticmethod)) else what
    if inspect.isfunction(function):
        yield f"### {owner}.{name}"
        yield code(f"{owner if isinstance(what, classmethod) else instance(owner)}.{name}{signature(function)}")
        yield inspect.getdoc(function) or ""
    elif getter := getattr(what, "fget", None) or getattr(what, "func", None):
        annotation = getter.__annotations__.get("return", "")
        yield f"### {owner}.{name}"
        yield code(f"{instance(owner)}.{name}: {annotation}")
        yield inspect.getdoc(getter) or ""


def instance(owner: str) -> str:
    return {"PatchCore": "model", "MemoryBank": "bank"}.get(owner, owner.lower())


def signature(function: Callable[..., Any]) -> str:
    """(a: int, *, b: str = 'x') -> C, on one line or one line a parameter; without self and cls."""
    about = inspect.signature(function)
    words: list[str] = []
    for parameter in about.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        text = parameter.name + ("" if parameter.annotation is parameter.empty else f": {parameter.annotation}")
        if parameter.default is not parameter.empty:
            text += f" = {getattr(parameter.default, '__name__', None) or repr(parameter.default)}"
        words.append(text)
    returns = "" if about.return_annotation is about.empty else f" -> {about.return_annotation}"
    short = f"({', '.join(words)}){returns}"
    return short if len(short) <= WIDTH else "(\n" + "".join(f"    {word},\n" for word in words) + f"){returns}"


def code(text: str) -> str:
    return f"```text\n{text}\n```"


# --- database.md ---


def database() -> str:
    """Every table and column of the service's store, as both databases have them."""
    from patchbank.store import folder, schema, types

    parts = [
        NOTE,
        "# The database of the service",
        "`patchbank serve` keeps everything in its data folder. The database is SQLite in a file there, or PostgreSQL. "
        "This page is for who reads or backs up either; only the service writes.",
        "## The data folder",
        code(inspect.cleandoc(str(folder.__doc__)).partition("\n\n")[2]),
        "## Types",
        inspect.cleandoc(str(types.__doc__)).partition("\n\n")[2],
        "Compare times with texts of the same form in SQLite: `WHERE at >= '2026-01-31T00:00:00.000000Z'`.",
        "The identifier of an inspection is a UUID of version 7. It begins with the time: to sort by it is to sort by "
        "time.",
        "Read SQLite with `sqlite3 'file:patchbank.sqlite?mode=ro'` while the service runs. A second connection that "
        "writes can damage the file.",
        "Names of tables and columns are stable within a minor version; steps between versions are applied when the "
        "service starts. Rows of "
        + " and ".join(f"`{name}`" for name in schema.APPEND_ONLY)
        + " cannot be changed: triggers "
        "refuse it.",
    ]
    for name, described in sorted(schema.metadata.tables.items()):
        parts += [f"## {name}", described.comment or "", columns(described)]
        if indexes := sorted(map(index_line, described.indexes)):
            parts.append("Indexes: " + "; ".join(indexes) + ".")
    return joined(parts)


def columns(described: Any) -> str:
    """The columns of a table."""
    from sqlalchemy.dialects import postgresql, sqlite

    rows = []
    for column in described.columns:
        kinds = [
            column.type.compile(dialect=each).lower().replace('"c"', '"C"')
            for each in (sqlite.dialect(), postgresql.dialect())
        ]
        to = [f"-> `{key.target_fullname}`." for key in column.foreign_keys]
        said = ["Key." if column.primary_key else "", column.comment or "", *to]
        what = " ".join(part for part in said if part)
        rows.append((f"`{column.name}`", *kinds, "" if column.nullable else "not null", what))
    return table(("column", "SQLite", "PostgreSQL", "", "what"), rows)


def index_line(index: Any) -> str:
    """The columns of an index, and for which rows it is."""
    over = ", ".join(str(each).rpartition(".")[2] for each in index.expressions)
    where = index.dialect_options["sqlite"]["where"]
    return ("unique " if index.unique else "") + f"({over})" + (f" where {where}" if where is not None else "")


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "cli.md": command_line,
    "python-api.md": python_api,
    "database.md": database,
    "line-file.md": line_file,
}


def main() -> None:
    stale = [name for name, make in PAGES.items() if not _current(DOCS / name, make())]
    if "--check" in sys.argv[1:]:
        sys.exit(f"not current: {', '.join(stale)}; run: python tools/make_docs.py" if stale else 0)
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote {DOCS / name}")


def _current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
