"""Compiles the C part beside its sources, and tells by their content which sources a library was made from.

    python src/patchbank/native/compiling.py

Only the standard library is needed: hatch_build.py runs this where a wheel is built, before patchbank can be imported.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "_native.so"
SOURCES = ("native.c", "structs.h", "set.h", "tile.h", "nearest.h", "measure.h", "unfilter.h")


def digest(folder: Path = FOLDER) -> str | None:
    """Returns a digest of the sources in a folder: 32 letters and digits, or None if a source is missing."""
    made = hashlib.sha256()
    try:
        for name in SOURCES:
            content = (folder / name).read_bytes().replace(b"\r\n", b"\n")
            made.update(b"%s %d\n" % (name.encode(), len(content)) + content)
    except OSError:
        return None
    return "c" + made.hexdigest()[:31]  # a C name, so that no shell needs quotes


def compiler() -> str | None:
    """The first C compiler of this machine: what CC names, cc, gcc, clang."""
    return next(filter(shutil.which, [*shlex.split(os.environ.get("CC", ""))[:1], "cc", "gcc", "clang"]), None)


def compile_library(folder: Path = FOLDER, library: Path | None = None, flags: Iterable[str] = ("-O3",)) -> str:
    """Compiles the sources of a folder, for any processor of this kind; an earlier library goes in any case.

    library: where it is written to, unset = beside the sources. Returns why it could not be, or an empty text.
    """
    library = library or folder / LIBRARY
    library.unlink(missing_ok=True)
    if sys.platform == "win32":
        return "the library is not built on Windows"
    program, made_from = compiler(), digest(folder)
    if program is None:
        return "no C compiler (cc, gcc, clang)"
    if made_from is None:
        return f"not all of {', '.join(SOURCES)} are in {folder}"
    aside = library.with_name(f"{library.stem}.{os.getpid()}.tmp")
    try:
        always = ["-shared", "-fPIC", "-pthread", f"-DSOURCES={made_from}"]
        command = [program, *flags, *always, "-o", str(aside), str(folder / "native.c"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            return f"{program} failed: {done.stderr.strip().splitlines()[-1:]}"
        aside.replace(library)
    finally:
        aside.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    sys.exit(compile_library() or 0)
