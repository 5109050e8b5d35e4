"""Compiles the wheel's one small library, if there is a C compiler; without one, the wheel is pure Python."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/patchbank/search/native")
LIBRARY = FOLDER / "_native.so"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to the wheel, and the platform to the wheel's name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        problem = compile_library(Path(self.root))
        if problem:
            self.app.display_warning(f"patchbank searches with NumPy, at about half the speed: {problem}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_library(root: Path) -> str:
    """Compiles it in place, for any processor of this kind. Returns why not, or an empty text."""
    (root / LIBRARY).unlink(missing_ok=True)
    if sys.platform == "win32":
        return "the library is not built on Windows"
    compiler = next(filter(shutil.which, [*shlex.split(os.environ.get("CC", ""))[:1], "cc", "gcc", "clang"]), None)
    if compiler is None:
        return "no C compiler (cc, gcc, clang)"
    aside = root / FOLDER / f"_native.{os.getpid()}.tmp"
    flags = ["-O3", "-shared", "-fPIC", "-pthread"]
    command = [compiler, *flags, "-o", str(aside), str(root / FOLDER / "native.c"), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            return f"{compiler} failed: {done.stderr.strip().splitlines()[-1:]}"
        aside.replace(root / LIBRARY)
    finally:
        aside.unlink(missing_ok=True)
    return ""
