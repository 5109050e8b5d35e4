"""The compiled part's build: with a compiler, without one, with one that fails. The wheel must come out in any case."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from patchbank.native import compiling

ROOT = Path(__file__).parents[1]
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hatch_build.py as a module; hatchling, which is only there while a wheel is built, is not needed."""
    name = "hatchling.builders.hooks.plugin.interface"
    stub = types.ModuleType(name)
    stub.BuildHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, stub)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(build: Any, tmp_path: Path) -> Path:
    """A copy of the C sources, and a library of an earlier build."""
    python = [path.name for path in (ROOT / build.FOLDER).glob("*.py") if path.name != "compiling.py"]
    shutil.copytree(
        ROOT / build.FOLDER,
        tmp_path / build.FOLDER,
        ignore=shutil.ignore_patterns("*.so", "__pycache__", *python),
    )
    (tmp_path / build.LIBRARY).write_bytes(b"of an earlier build")
    return tmp_path


def hook(build: Any, root: Path) -> tuple[Any, list[str]]:
    made = build.CustomBuildHook()
    warnings: list[str] = []
    made.root, made.app = str(root), types.SimpleNamespace(display_warning=warnings.append)
    return made, warnings


@pytest.mark.skipif(COMPILER is None or sys.platform == "win32", reason="no C compiler here")
def test_with_a_compiler_the_wheel_holds_a_library_and_names_its_platform(build: Any, tree: Path) -> None:
    made, warnings = hook(build, tree)
    data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    made.initialize("standard", data)
    assert warnings == []
    assert data["artifacts"] == ["src/patchbank/native/_native.so"]
    assert not data["pure_python"]
    assert data["tag"].startswith("py3-none-")
    assert data["tag"] != "py3-none-any"
    assert ctypes.CDLL(str(tree / build.LIBRARY)).patchbank_nearest
    left = sorted(path.name for path in (tree / build.FOLDER).iterdir() if path.name != "__pycache__")
    assert left == sorted([*compiling.SOURCES, "_native.so", "compiling.py"])


@pytest.mark.parametrize("compiler", [None, "#!/bin/sh\necho 'no such header' >&2\nexit 1\n"])
def test_without_a_working_compiler_the_wheel_is_pure_python_and_says_so(
    compiler: str | None, build: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an earlier build's library, of other sources, does not get into it."""
    programs = tree / "bin"
    programs.mkdir()
    if compiler:
        (programs / "cc").write_text(compiler)
        (programs / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    made, warnings = hook(build, tree)
    data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    made.initialize("standard", data)
    assert data == {"artifacts": [], "pure_python": True}
    assert len(warnings) == 1
    assert "NumPy" in warnings[0]
    if sys.platform != "win32":
        assert ("no such header" if compiler else "no C compiler") in warnings[0]
    assert not list((tree / build.FOLDER).glob("*.so"))
    assert not list((tree / build.FOLDER).glob("*.tmp"))
