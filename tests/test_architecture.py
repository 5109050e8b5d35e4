"""What may import what (ARCHITECTURE.md). Each rule is one test, which names all offenders at once."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "patchbank"
# Everything below is product; everything else is core. `__init__` is the façade and may name both.
PRODUCT = ("patchbank.cli", "patchbank.evaluation")
# What a module may import at its top, beside the standard library and patchbank. Everything else is imported in the
# functions that use it.
# Package -> the folder that may import it at the top of a module, "" = all.
AT_THE_TOP = {
    "numpy": "",
    "typer": "cli",
    "jinja2": "reports",
    "PyInstaller": "_pyinstaller",
}  # package -> the folder that may, "" = all
# Distributions whose package has another name.
IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "faiss-cpu": "faiss",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "pyinstaller": "PyInstaller",
}


class Import(NamedTuple):
    """What a module imports: the full name. kind: "top", "late" (in a function) or "types" (under TYPE_CHECKING)."""

    name: str
    kind: str


class Module(NamedTuple):
    """A module of the package. folders: where it lies, from the package's root, with its own name at the end."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        return self.path.relative_to(SOURCE).with_suffix("").parts


def imports(node: ast.AST, package: str, kind: str = "top") -> Iterator[Import]:
    """All imports below the node of a module of this package: statements of every form, and `import_module("...")`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, kind) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - child.level + 1], child.module or ""] if child.level else [])
            base = base.rstrip(".") or str(child.module)
            yield from (Import(f"{base}.{alias.name}", kind) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for part in child.body:
                yield from imports(ast.Module([part], []), package, "types")
            for part in child.orelse:
                yield from imports(ast.Module([part], []), package, kind)
        else:
            if (
                isinstance(child, ast.Call)
                and ast.unparse(child.func) in ("importlib.import_module", "import_module")
                and isinstance(child.args[0], ast.Constant)
            ):
                yield Import(str(child.args[0].value), kind)
            late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(child, package, "late" if late and kind == "top" else kind)


@cache
def modules() -> tuple[Module, ...]:
    """All modules of the package, parsed once."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" else ".".join(parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.append(Module(name, path, tree, tuple(imports(tree, package))))
    return tuple(found)


def is_product(name: str) -> bool:
    return any(name == layer or name.startswith((f"{layer}.", f"{layer}_")) for layer in PRODUCT)


def package_of(name: str) -> str:
    return name.split(".")[0]


def test_the_walker_sees_every_kind_of_import():
    """The test of the tests: a form of import that the walker does not see would escape every rule below."""
    code = """
import a, a.b
from b import c as d, e
from .f import g
from ..h import i
from . import j
if TYPE_CHECKING:
    import k
    def later(): import k2
else:
    import l
try:
    import m
except ImportError:
    m = None
def f(x=import_module("default")):
    import n
    if typing.TYPE_CHECKING:
        from o import p
    async def inner():
        with q: from r import s
class C:
    import t
    def method(self):
        return importlib.import_module("u")
v = lambda: importlib.import_module("w")
importlib.import_module(variable)
"""
    found = list(imports(ast.parse(code), "top.middle"))
    kinds = {kind: [each.name for each in found if each.kind == kind] for kind in ("top", "late", "types")}
    assert kinds == {
        "top": ["a", "a.b", "b.c", "b.e", "top.middle.f.g", "top.h.i", "top.middle.j", "l", "m", "t"],
        "late": ["default", "n", "r.s", "u", "w"],
        "types": ["k", "k2", "o.p"],
    }
    assert [is_product(n) for n in ("patchbank.cli.app", "patchbank.evaluation.tune", "patchbank.model")] == [
        True,
        True,
        False,
    ]


def test_all_modules_are_looked_at():
    """Rules that look at nothing would hold."""
    names = {module.name for module in modules()}
    assert {"patchbank", "patchbank.__main__", "patchbank.model", "patchbank.cli", "patchbank.cli.app"} <= names
    assert any(each.kind == "late" for module in modules() for each in module.imports)


def test_the_core_never_imports_a_product_layer():
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        if not is_product(module.name) and module.name not in ("patchbank", "patchbank.__main__")
        for each in module.imports
        if each.kind != "types" and is_product(each.name)
    ] == []


def test_only_the_command_line_imports_the_command_line():
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        if not module.name.startswith("patchbank.cli") and module.name != "patchbank.__main__"
        for each in module.imports
        if package_of(each.name) in ("typer", "rich", "click") or each.name.startswith("patchbank.cli")
    ] == []


def test_heavy_packages_are_imported_where_they_are_used():
    """So that `import patchbank`, `--help` and completion stay quick, and an extra is missed by its users only."""
    light = {*sys.stdlib_module_names, "patchbank"}
    assert [
        f"{module.name} imports {each.name} at its top"
        for module in modules()
        for each in module.imports
        if each.kind == "top"
        and (package := package_of(each.name)) not in light
        and AT_THE_TOP.get(package, "nowhere") not in ("", module.folders[0])
    ] == []


def test_only_its_hook_imports_pyinstaller():
    """PyInstaller runs the hook; nothing that users run needs PyInstaller."""
    found = {
        module.path.name for module in modules() for each in module.imports if package_of(each.name) == "PyInstaller"
    }
    assert found == {"hook-patchbank.py"}


def test_no_pickle_no_eval():
    """Model files and checkpoints are untrusted: nothing that could run their contents is even imported."""
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    found = [
        f"{module.name} imports {each.name}"
        for module in modules()
        for each in module.imports
        if package_of(each.name) in unsafe
    ]
    found += [
        f"{module.name} calls {node.func.id}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec", "compile", "__import__")
    ]
    assert found == []


def test_imports_name_their_module_in_full():
    assert [
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ] == []


def test_dataclasses_over_arrays_are_compared_by_identity():
    """The equality that dataclasses generate asks an array for its truth, which raises."""
    found = []
    for each in modules():
        if each.path.name == "__main__.py" or "hook-" in each.path.name:  # these run when they are imported
            continue
        module = importlib.import_module(each.name)
        found += [
            f"{each.name}: {cls.__name__}.{field.name}"
            for cls in vars(module).values()
            if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
            for field in dataclasses.fields(cls)
            if cls.__dataclass_params__.eq and field.compare and re.search(r"Array\b", str(field.type))
        ]
    assert found == []


def test_no_other_module_has_a_plural_rule_of_its_own():
    """`wording.counted` and `wording.plural` are the one rule."""
    rule = re.compile(r"""(['"])(s|ies|s are)\1 if """)
    assert [
        module.name
        for module in modules()
        if module.path.name != "wording.py" and rule.search(module.path.read_text(encoding="utf-8"))
    ] == []


def declared() -> set[str]:
    """The packages that the dependencies and extras of pyproject.toml bring, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = [str(re.match(r"[A-Za-z0-9._-]+", line)[0]).lower() for line in lines]
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_dependencies_are_declared():
    """Every third-party package that is imported anywhere is a dependency or an extra."""
    known = {*sys.stdlib_module_names, *declared()}
    assert "cv2" in known
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        for each in module.imports
        if package_of(each.name) not in known
    ] == []
