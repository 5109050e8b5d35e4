"""Documentation that cannot lie: generated pages are current, links resolve, commands exist, snippets run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import patchbank
from parts import noisy
from patchbank.config import Config, Runtime, options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "patchbank"
TEXTS = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]}
# Snippets of these pages are run, each page's in one namespace, in a folder that has good/, new.png, part.patchbank.
RUN = (
    "README.md",
    "docs/operate/audit.md",
    "docs/reference/configuration.md",
    "docs/operate/drift.md",
    "docs/operate/explanations.md",
    "docs/operate/export.md",
    "docs/operate/python.md",
    "docs/reference/model-file.md",
    "docs/understand/paper.md",
    "docs/operate/services.md",
    "docs/operate/updates.md",
    "docs/operate/image-check.md",
    "docs/operate/thresholds.md",
)


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


make_docs = load_tool("make_docs")
make_pictures = load_tool("make_pictures")


def command_tree() -> dict[str, object]:
    from patchbank.cli.app import app

    return dict(make_docs.commands(typer.main.get_command(app), "patchbank"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_pages_are_current():
    old = [page for page, make in make_docs.PAGES.items() if (make_docs.DOCS / page).read_text("utf-8") != make()]
    assert old == [], "not current; run: python tools/make_docs.py"


def test_types_of_options_are_put_in_words():
    words = {option.name: make_docs.valid(option) for option in options(Config)}
    assert words["include"] == "path or polygons or nothing"
    assert words["image_size"] == "whole number, or two of them, >= 32, <= 16384"
    assert words["white"] == "number or nothing, > 0"


def test_internal_links_resolve():
    broken = []
    for name, page in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if target.startswith(("http://", "https://")):
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_every_page_is_in_the_index():
    linked = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.parent.name != "adr"]
    assert len(pages) > 15
    assert [page for page in pages if page != "index.md" and f"({page})" not in linked] == []
    decisions = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (DOCS / "adr").glob("0*.md") if f"({path.name})" not in decisions] == []


def test_pages_that_the_code_names_exist():
    """Comments, docstrings and messages say where to read on: `docs/...md`."""
    folders = ("src", "tests", "tools", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {(file, page) for file in files for page in re.findall(r"docs/[\w/-]+\.md", file.read_text("utf-8"))}
    assert len(named) > 10
    assert [f"{file.name}: {page}" for file, page in sorted(named) if not (ROOT / page).is_file()] == []


def defined_in(paths: list[str]) -> set[str]:
    """Names of these modules: functions, classes and constants of the top, and Class.member."""
    names = set()
    for path in paths:
        for node in ast.parse((PACKAGE / path).read_text("utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


def test_paths_and_functions_of_the_architecture_exist():
    """Its tables lead a newcomer to the code: every file and folder exists, and the flow's functions stand in them."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([\w./-]+(?:\.(?:py|md|h|html)|/))`", text))
    assert len(paths) > 50
    assert [path for path in sorted(paths) if not any((root / path).exists() for root in (ROOT, PACKAGE))] == []
    flow = text.split("## The flow")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in flow.splitlines() if re.match(r"\|.*`[\w/]+\.py`", line)]
    assert len(rows) > 20
    missing = []
    for _, files, functions, *_ in rows:
        known = defined_in(re.findall(r"`([\w/]+\.py)`", files))
        missing += [f"{files}: {name}" for name in re.findall(r"`([\w.]+)`", functions) if name not in known]
    assert missing == []


def test_every_command_and_option_is_documented():
    text = (make_docs.DOCS / "cli.md").read_text(encoding="utf-8")
    commands = command_tree()
    assert {"patchbank fit", "patchbank backbones fetch"} <= set(commands)
    for path, command in commands.items():
        section = re.search(rf"^## {path}\n(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
        assert section, path
        names = {parameter.name for parameter in command.params}
        shared = make_docs.CONFIG_NAMES if names >= make_docs.CONFIG_NAMES else set()
        own = [p for p in command.params if p.name not in shared | make_docs.RUNTIME_NAMES]
        for parameter in own:
            assert parameter.help or parameter.name == "help", f"{path}: {parameter.name} has no help"
            if parameter.name != "help":
                name = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[-1]
                assert f"{name}" in section[1], f"{path} {name}"
    for option in (*options(Config), *options(Runtime)):
        assert f"`--{option.name.replace('_', '-')}`" in text
        assert f"`{option.name}`" in (make_docs.DOCS / "configuration.md").read_text(encoding="utf-8")


def test_every_public_name_is_documented():
    text = (make_docs.DOCS / "python-api.md").read_text(encoding="utf-8")
    for name in patchbank.__all__:
        assert f"## {name}\n" in text or f"| `{name}` |" in text, name


def test_every_exit_code_is_documented():
    from patchbank import errors

    table = (make_docs.DOCS / "cli.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    for name in patchbank.__all__:
        if name.endswith("Error") and name != "PatchbankError":
            row = next(line for line in table.splitlines() if f"`{name}`" in line)
            assert row.startswith(f"| {getattr(errors, name).exit_code} |")


def shell_commands() -> list[tuple[str, list[str]]]:
    """The page and the words of every `patchbank ...` in a shell block."""
    return [
        (name, words)
        for name, page in TEXTS.items()
        for block in blocks(page.read_text(encoding="utf-8"), "(?:sh|bash|console)")
        for line in block.splitlines()
        for part in line.removeprefix("$ ").split("#")[0].split("&&")
        if (words := shlex.split(part))[:1] == ["patchbank"]
    ]


def wrong_with(words: list[str], commands: dict[str, object]) -> str:
    """What is wrong with a command line, or nothing."""
    if words[1].startswith("-"):
        known = {"--version", "--help", "--install-completion", "--show-completion"}
        return "" if words[1] in known else f"no flag {words[1]}"
    of_group = any(path.startswith(f"patchbank {words[1]} ") for path in commands)
    path = " ".join(words[:3] if of_group else words[:2])
    if path not in commands:
        return f"no command {path}"
    known = {opt for p in commands[path].params for opt in [*p.opts, *p.secondary_opts]}
    flags = [word.split("=")[0] for word in words if word.startswith("-") and word != "-"]  # "-" is stdout
    if unknown := set(flags) - known:
        return f"no flag {sorted(unknown)}"
    return "" if len(set(flags)) == len(flags) else "a flag given twice"


def test_commands_in_the_texts_exist():
    """Every `patchbank ...` line of a shell block names a command that exists, with flags that it has, given once."""
    commands, found = command_tree(), shell_commands()
    assert len(found) > 20
    wrong = [f"{name}: {shlex.join(words)}: {why}" for name, words in found if (why := wrong_with(words, commands))]
    assert wrong == []


def test_wrong_commands_would_be_found():
    """The test of the test above."""
    commands = command_tree()
    lines = {
        "patchbank fot": "no command patchbank fot",
        "patchbank --verzion": "no flag --verzion",
        "patchbank fit good --oops=3": "no flag ['--oops']",
        "patchbank backbones get": "no command patchbank backbones get",
        "patchbank predict a --json --json": "a flag given twice",
        "patchbank predict a --json": "",
    }
    assert {line: wrong_with(line.split(), commands) for line in lines} == lines


def test_snippets_are_python_with_names_that_exist():
    missing = []
    for name, page in TEXTS.items():
        for block in blocks(page.read_text(encoding="utf-8"), "python"):
            for node in ast.walk(ast.parse(block, name)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "patchbank":
                    module = importlib.import_module(node.module)
                    missing += [
                        f"{name}: from {node.module} import {alias.name}"
                        for alias in node.names
                        if not hasattr(module, alias.name)
                    ]
    assert missing == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the snippets find: eight good images, a new one, and a model of the good ones."""
    folder, rng = tmp_path_factory.mktemp("snippets"), np.random.default_rng(0)
    (folder / "good").mkdir()
    for number in range(8):
        picture = noisy(np.full((80, 80, 3), 150), rng, 6)
        assert cv2.imwrite(str(folder / "good" / f"{number}.png"), picture)
    picture[30:50, 30:50] = 0
    assert cv2.imwrite(str(folder / "new.png"), picture)
    small = Config(image_size=64)
    patchbank.PatchCore.fit(sorted((folder / "good").glob("*.png")), small).save(folder / "part.patchbank")
    return folder


@pytest.mark.parametrize("name", RUN)
def test_snippets_run(name, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    found = blocks(TEXTS[name].read_text(encoding="utf-8"), "python")
    assert found
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, name, "exec"), namespace)
    if name == "README.md":
        result = namespace["result"]
        assert result.is_anomalous is True
        assert result.regions
        assert namespace["picture"].shape == (80, 80, 3)
        assert namespace["image"].endswith(".png")
        assert "True" in capsys.readouterr().out


def masked(line: str) -> str:
    """A line of output without its numbers and the width of its columns: other machines round otherwise."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", line).split())


def run_in_the_tutorial(line: str) -> str:
    """What a command of the first day's page prints. It must end with 0."""
    from patchbank.cli.app import app

    words = shlex.split(line)
    if words[:2] == ["python", "tools/make_pictures.py"]:
        make_pictures.main(words[2:])
        return ""
    assert words[0] == "patchbank", f"the test cannot run: {line}"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result.output


def test_the_first_day_is_as_its_page_says(tmp_path, monkeypatch):
    """A newcomer types these commands. Each one runs, in this order, and prints the lines that the page shows."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "first-day.md").read_text(encoding="utf-8")
    output, commands = "", []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.M | re.S):
        if language == "sh":
            commands += [line for line in block.splitlines() if line.split()[0] != "pip"]
            output = "\n".join(run_in_the_tutorial(line) for line in block.splitlines() if line.split()[0] != "pip")
        else:
            printed = [masked(line) for line in output.splitlines()]
            assert [line for line in block.splitlines() if masked(line) not in printed] == [], output
    assert {word for line in commands for word in line.split()[1:2]} >= {"fit", "predict", "explain", "update", "audit"}
    assert (tmp_path / "inspected" / "scratch.png.overlay.png").is_file()
    assert (tmp_path / "inspected" / "scratch.png.mask.png").is_file()
    assert (tmp_path / "inspected" / "report.html").is_file()


def test_pictures_of_the_docs_are_small():
    sizes = {path.name: path.stat().st_size for path in make_pictures.PICTURES.iterdir()}
    assert len(sizes) >= 5
    assert max(sizes.values()) < 150_000
    assert sum(sizes.values()) < 1_000_000


def test_the_toml_page_is_the_defaults(tmp_path):
    (block,) = blocks((make_docs.DOCS / "configuration.md").read_text(encoding="utf-8"), "toml")
    runtime = {option.name for option in options(Runtime)}
    lines = [line for line in block.splitlines() if line.split(" = ")[0] not in runtime]
    file = tmp_path / "a.toml"
    file.write_text("\n".join(lines))
    assert Config.from_toml(file) == Config()


def test_the_format_page_names_what_the_file_has(workplace):
    from patchbank.model_file.archive import FORMAT, FORMAT_VERSION, ModelFile

    text = (make_docs.DOCS / "model-file.md").read_text(encoding="utf-8")
    file = ModelFile(workplace / "part.patchbank")
    for key, value in file.manifest.items():
        assert f"| `{key}` |" in text
        if isinstance(value, dict) and key in ("backbone", "bank", "calibration", "scene"):
            row = next(line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
            assert [name for name in value if f"`{name}`" not in row] == []
    assert f'| `format` | `"{FORMAT}"` |' in text
    assert f"| `format_version` | `{FORMAT_VERSION}` |" in text
    assert f"format version {FORMAT_VERSION}" in text
    for name in file.names():
        assert f"`{re.sub(r'[0-9]{6}', 'NNNNNN', name)}`" in text


def test_the_readme_installs_and_tests_in_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install '.[demo]' && patchbank demo\n" in text
    assert "pip install -e '.[dev]' && pytest\n" in text


def test_readme_figures_are_those_of_the_committed_results():
    """The table of the README, recomputed from what benchmarks/quality.py --presets wrote."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, marker, rest = text.partition("<!-- figures: benchmarks/results/presets.json -->\n")
    table, end, after = rest.partition("<!-- /figures -->")
    assert marker
    assert end
    assert not re.search(r"^\|.*\d\d\.\d \|", before + after, flags=re.MULTILINE), "a figure outside of its markers"
    rows = json.loads((ROOT / "benchmarks/results/presets.json").read_text())["rows"]
    measured = {row["set"]: row for row in rows if row["preset"] == "balanced"}
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    names = {"MVTec AD bottle": "bottle", "MVTec AD screw": "screw", "magnetic tiles": "mtd", "ELPV": "elpv"}
    assert len(lines) == len(measured) >= 3
    for line in lines:
        title, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        row = measured[next(name for start, name in names.items() if title.startswith(start))]
        expected = [row["image"], row["pixel"], row["aupro"]]
        assert cells == ["-" if value is None else f"{100 * value:.1f}" for value in expected]


def test_figures_of_the_how_to_pages_are_those_of_the_committed_results():
    """A how-to states at most the one number that its reader needs. The table that it links to has the same number."""

    def results(name: str) -> dict[str, list[dict]]:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))

    def page(name: str) -> str:
        return " ".join((DOCS / "operate" / name).read_text("utf-8").split())

    tiles = {row["step"]: row for row in results("update")["forget"] if row["set"] == "mtd"}
    before, after, never = (f"{100 * tiles[s]['image AUROC']:.1f}" for s in ("planted", "forgotten", "never there"))
    assert f"on magnetic tiles, image AUROC rises from {before} to {after} (" in page("updates.md")
    assert f"is {before} with the defective images, {after} after the removal, and {never} if" in " ".join(
        (DOCS / "results" / "updates.md").read_text("utf-8").split()
    )

    streams = [row["streams"] for row in results("drift")["rows"] if row["set"] in ("bottle", "screw")]
    changes = [
        cell for row in streams for what, cell in row.items() if what not in ("as they are", "a tenth defective")
    ]
    assert all(cell["alarms"] == 1 for cell in changes)
    assert f"found within {max(cell['delay'] for cell in changes):.0f} images." in page("drift.md")

    planted = [row for row in results("audit")["rows"] if row["planted"]]
    assert all(row["found"] == row["planted"] for row in planted if row["set"] == "bottle")
    assert all(row["found"] < row["planted"] / 2 for row in planted if row["set"] == "mtd")
    assert "all planted defective images are found; on magnetic tiles, most are *not* found (" in page("audit.md")


def test_the_licences_of_the_weights_are_in_the_notice():
    from patchbank.backbones.zoo import zoo

    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for row in zoo():
        assert row.licence in notice
    for needed in ("ELPV", "CC BY-NC-SA 4.0", "torchvision"):
        assert needed in notice
