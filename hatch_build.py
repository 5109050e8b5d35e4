"""Compiles the wheel's one small library, if there is a C compiler; without one, the wheel is pure Python."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/patchbank/native")
LIBRARY = FOLDER / "_native.so"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to the wheel, and the platform to the wheel's name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        folder = Path(self.root) / FOLDER
        problem = runpy.run_path(str(folder / "compiling.py"))["compile_library"](folder)
        if problem:
            self.app.display_warning(f"patchbank searches with NumPy, at about half the speed: {problem}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
