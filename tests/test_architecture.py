"""The direction of dependencies: product layers import the core, never the other way round (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "patchbank"
# Everything below is product; everything else is core. `__init__` is the façade and may name both.
PRODUCT = ("patchbank.cli", "patchbank.evaluation", "patchbank.report")
HEAVY = {"onnx", "onnxruntime", "cv2", "faiss", "torch", "timm", "PIL", "matplotlib", "rich", "safetensors"}
NEVER_AT_THE_TOP = HEAVY | {"scipy", "sklearn", "elpv_dataset"}
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST, *, inside_functions: bool) -> Iterator[str]:
    """Full names of what a module imports; nothing under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not used here"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from (name for part in child.orelse for name in imports(part, inside_functions=inside_functions))
        elif inside_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(child, inside_functions=inside_functions)


def is_product(name: str) -> bool:
    return any(name == layer or name.startswith((f"{layer}.", f"{layer}_")) for layer in PRODUCT)


def test_the_walker_sees_what_it_should():
    """The test of the tests: late imports are seen or not as asked for, and type-checking ones never."""
    tree = ast.parse(
        "import a\nfrom b import c\nif TYPE_CHECKING:\n    import d\ndef f():\n    import e\nclass G:\n    import h"
    )
    assert list(imports(tree, inside_functions=False)) == ["a", "b.c", "h"]
    assert list(imports(tree, inside_functions=True)) == ["a", "b.c", "e", "h"]
    assert [is_product(n) for n in ("patchbank.cli.app", "patchbank.report_page", "patchbank.model")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_core_never_imports_a_product_layer(path):
    name = name_of(path)
    if is_product(name) or name in ("patchbank", "patchbank.__main__"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [found for found in imports(tree, inside_functions=True) if is_product(found)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_imports_the_command_line(path):
    name = name_of(path)
    if name.startswith("patchbank.cli") or name == "patchbank.__main__":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [each for each in imports(tree, inside_functions=True) if each.split(".")[0] in ("typer", "rich", "click")]
    found += [each for each in imports(tree, inside_functions=True) if each.startswith("patchbank.cli")]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path):
    """So that `import patchbank`, `--help` and completion stay quick, and an extra is missed by its users only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {each.split(".")[0] for each in imports(tree, inside_functions=False)}
    assert found & NEVER_AT_THE_TOP == set()


def test_only_its_hook_imports_pyinstaller():
    """PyInstaller runs the hook; nothing that users run needs PyInstaller."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    found = [
        path.relative_to(SOURCE).as_posix()
        for path, tree in trees.items()
        if any(each.split(".")[0] == "PyInstaller" for each in imports(tree, inside_functions=True))
    ]
    assert found == ["_pyinstaller/hook-patchbank.py"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_no_eval(path):
    """Model files and checkpoints are untrusted: nothing that could run their contents is even imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {each.split(".")[0] for each in imports(tree, inside_functions=True)}
    assert found & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"} == set()
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert called & {"eval", "exec", "compile", "__import__"} == set()


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name != "__main__.py" and "hook-" not in path.name], ids=name_of
)
def test_dataclasses_over_arrays_are_compared_by_identity(path):
    """The equality that dataclasses generate asks an array for its truth, which raises."""
    module = importlib.import_module(name_of(path))
    found = [
        f"{cls.__name__}.{field.name}"
        for cls in vars(module).values()
        if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
        for field in dataclasses.fields(cls)
        if cls.__dataclass_params__.eq and field.compare and re.search(r"Array\b", str(field.type))
    ]
    assert found == []


def test_dependencies_are_declared():
    """Every third-party package that is imported anywhere is a dependency or an extra."""
    declared = {
        "numpy", "onnxruntime", "onnx", "cv2", "faiss", "safetensors", "typer", "rich", "threadpoolctl",
        "torch", "timm", "elpv_dataset", "matplotlib", "PyInstaller", "patchbank",
    }  # fmt: skip
    used = {
        each.split(".")[0]
        for path in MODULES
        for each in imports(ast.parse(path.read_text(encoding="utf-8")), inside_functions=True)
    }
    assert used - set(sys.stdlib_module_names) - declared == set()
