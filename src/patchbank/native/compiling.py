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
import tempfile
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "_native.so"
SOURCES = (
    *("native.c", "structs.h", "codes.h", "set.h", "tile.h", "nearest.h", "measure.h", "unfilter.h"),
    *("sums.c", "sums.h"),
)
# Of sums.c, the bits are promised: no product and sum of it may be fused, as processors that have FMA else do.
PROGRAMS = {"native.c": (), "sums.c": ("-ffp-contract=off",)}


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
    always = [*flags, "-fPIC", "-pthread", f"-DSOURCES={made_from}"]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=f".{library.stem}.") as aside:
        objects = [str(Path(aside, name).with_suffix(".o")) for name in PROGRAMS]
        commands = [
            ["-c", *always, *own, "-o", compiled, str(folder / name)]
            for (name, own), compiled in zip(PROGRAMS.items(), objects, strict=True)
        ]
        linked = Path(aside, library.name)
        for command in (*commands, ["-shared", *always, "-o", str(linked), *objects, "-lm"]):
            done = subprocess.run([program, *command], capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                return f"{program} failed: {done.stderr.strip().splitlines()[-1:]}"
        linked.replace(library)
    return ""


if __name__ == "__main__":
    sys.exit(compile_library() or 0)
