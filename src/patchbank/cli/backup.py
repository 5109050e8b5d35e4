"""`patchbank backup` and `patchbank restore`: a service's data, kept elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli.options import command, progress_bar
from patchbank.cli.service_data import FOLDER, AsJson, Data, Database, reading, who
from patchbank.cli.terminal import note, say, say_json
from patchbank.errors import StoreError
from patchbank.util.wording import counted


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""

    @command(app, "backup")
    def backup(
        output: Annotated[
            str,
            typer.Option(
                "-o", "--output", metavar="TARGET", help="A .tar file to write, or a folder to bring up to date."
            ),
        ],
        data: Data = FOLDER,
        database: Database = None,
        as_json: AsJson = False,
    ) -> None:
        """Back up a service's database, images and models, also while it runs. In a folder, only what is new is
        copied. Exit code 8, after the backup was made, if files are missing or damaged at their source."""
        from patchbank.store.backup import make

        with reading(data, database) as store, progress_bar() as progress:
            made = make(store, Path(output).absolute(), progress=progress)
        found = made.backup
        if as_json:
            about = {name: getattr(found, name) for name in ("kind", "images", "models", "missing_files")}
            about |= {"made_at": found.made_at.isoformat(), "head": f"{found.head[0]}:{found.head[1]}"}
            say_json({"target": output, **about, "files_written": made.files, "bytes_written": made.size})
        else:
            holds = f"{counted(found.images, 'image')}, {counted(found.models, 'model file')}"
            say(f"{output}: {holds}, {found.kind}; wrote {counted(made.files, 'file')}, {made.size / 1e6:.1f} MB")
        if found.missing_files:
            raise StoreError(
                f"the backup was made, but {counted(found.missing_files, 'file')} of the data are missing or damaged, "
                f"as {found.missing[0]}; look at the disk"
            )

    @command(app, "restore")
    def restore(
        source: Annotated[str, typer.Argument(metavar="BACKUP", help="File or folder written by 'patchbank backup'.")],
        data: Annotated[str, typer.Option("--data", metavar="DIR", help="Data folder to make: new, or empty.")],
        database: Annotated[
            str | None,
            typer.Option("--database", metavar="URL", help="Empty PostgreSQL database to fill; else SQLite."),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Make a data folder of a backup. Every digest, the database and the audit log are checked; a backup that is
        damaged is refused. A backup of SQLite can be restored into PostgreSQL. Everybody has to sign in again."""
        from patchbank.store.restore import restore as run

        with progress_bar() as progress:
            restored = run(Path(source), Path(data), database, by=who(), progress=progress)
        found = restored.backup
        if restored.missing:
            note(f"{counted(len(restored.missing), 'file')} were missing already when the backup was made")
        if as_json:
            about = {"made_at": found.made_at.isoformat(), "images": found.images, "models": found.models}
            say_json({"data": data, **about, "missing": list(restored.missing)})
        else:
            holds = f"{counted(found.images, 'image')}, {counted(found.models, 'model file')}"
            say(f"{data}: as it was at {found.made_at:%Y-%m-%d %H:%M:%S} UTC, {holds}")
