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

import patchbank

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "patchbank"
# The floors of the house, bottom up: the modules and folders of the package's root. Imports go down only, or stay on
# their floor; those in functions and under TYPE_CHECKING count. `__init__` is the façade.
FLOORS = (
    "errors",
    "version",
    "arrays",
    "util",
    "validation",
    "config",
    "native",
    "imaging",
    "backbones",
    "search",
    "features",
    "scoring",
    "bank",
    "calibration",
    "fitted",
    "results",
    "reports",
    "fit",
    "inspection",
    "update",
    "model_file",
    "model",
    "evaluation",
    "monitoring",
    "export",
    "__init__",
    "store",
    "line",
    "server",
    "cli",
    "__main__",
    "_pyinstaller",
)
MOST_AT_THE_ROOT = 12  # modules beside the folders
# Who builds on the library as a user does: by its public names, and what lies on these floors, which know no models.
USERS = {
    "store": ("util", "version", "errors"),
    "line": ("util", "version", "reports", "config", "validation", "imaging"),
    "server": ("util", "version", "reports", "store", "config", "validation", "errors", "imaging"),
}
# What a module may import at its top, beside the standard library and patchbank. Everything else is imported in the
# functions that use it.
# Package -> the folder that may import it at the top of a module, "" = all.
AT_THE_TOP = {
    "numpy": "",
    "typer": "cli",
    "jinja2": "reports",
    "sqlalchemy": "store",  # store/__init__.py says so where it is missing
    "alembic": "store",
    "PyInstaller": "_pyinstaller",
    # `patchbank serve` imports the server when it starts it; FastAPI reads the types of a module's top.
    "fastapi": "server",
    "pydantic": "server",
    "starlette": "server",
    "uvicorn": "server",
    "prometheus_client": "server",
}
# Distributions whose package has another name.
IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "faiss-cpu": "faiss",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "pyinstaller": "PyInstaller",
    "argon2-cffi": "argon2",
    "paho-mqtt": "paho",
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


@cache
def by_name() -> dict[str, Module]:
    return {module.name: module for module in modules()}


def imported(name: str) -> Module | None:
    """The module of the package that an import of this name loads; None for another package's. Without one, a name of
    the package itself (`from patchbank import PatchCore`) is the façade's."""
    while name and name not in by_name():
        name = name.rpartition(".")[0]
    return by_name().get(name)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for node in graph[waiting.pop()] - seen:
                seen.add(node)
                waiting.append(node)
        return seen

    reach = {node: reached(node) for node in graph}
    inside = [node for node in graph if node in reach[node]]
    found = {tuple(sorted(each for each in reach[node] if node in reach[each])) for node in inside}
    return sorted(map(list, found))


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


def test_all_modules_are_looked_at():
    """Rules that look at nothing would hold."""
    names = {module.name for module in modules()}
    assert {"patchbank", "patchbank.__main__", "patchbank.model", "patchbank.cli", "patchbank.cli.app"} <= names
    assert any(each.kind == "late" for module in modules() for each in module.imports)


def test_every_module_stands_on_a_floor():
    homeless = sorted({module.folders[0] for module in modules()} - set(FLOORS))
    assert homeless == [], "place these on a floor: FLOORS in tests/test_architecture.py"


def test_imports_go_down():
    up = [
        f"{module.name} imports {each.name} ({each.kind})"
        for module in modules()
        for each in module.imports
        if (target := imported(each.name))
        and {module.folders[0], target.folders[0]} <= set(FLOORS)  # the test above tells of others
        and FLOORS.index(target.folders[0]) > FLOORS.index(module.folders[0])
    ]
    assert up == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module.name: {target.name for each in module.imports if (target := imported(each.name))} - {module.name}
        for module in modules()
    }
    assert circles(graph) == []


def test_circles_are_found():
    """The test of the test above."""
    graph = {"a": {"b"}, "b": {"c", "e"}, "c": {"a"}, "d": {"a", "e"}, "e": {"f"}, "f": {"e"}, "g": set()}
    assert circles(graph) == [["a", "b", "c"], ["e", "f"]]


def test_few_modules_lie_beside_the_folders():
    assert len([module.name for module in modules() if len(module.folders) == 1]) <= MOST_AT_THE_ROOT


def test_only_the_command_line_talks_to_the_terminal():
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        if module.folders[0] != "cli"
        for each in module.imports
        if package_of(each.name) in ("typer", "rich", "click")
    ] == []


def not_for(user: str, name: str) -> bool:
    """Whether a module of this folder reaches past what the library offers to everybody."""
    target = imported(name)
    if target is None or target.folders[0] == user:
        return False
    last = name.removeprefix(target.name).lstrip(".")
    if target.folders[0] in USERS[user]:
        return last.startswith("_") and last != "__version__"
    return target.name != "patchbank" or last not in patchbank.__all__


def test_the_service_and_the_line_use_public_names():
    """What they need and cannot have so is missing in the public interface; and the line runs without the service."""
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        if module.folders[0] in USERS
        for each in module.imports
        if not_for(module.folders[0], each.name)
    ] == []


def test_private_names_would_be_found():
    """The test of the test above."""
    names = ["numpy", "patchbank.PatchCore", "patchbank._LAZY", "patchbank.model.PatchCore", "patchbank.cli.app"]
    assert [name for name in names if not_for("line", name)] == names[2:]


def test_ray_is_for_the_distributed_fit_only():
    assert [
        f"{module.name} imports {each.name}"
        for module in modules()
        if module.name != "patchbank.fit.distributed"
        for each in module.imports
        if package_of(each.name) == "ray"
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
