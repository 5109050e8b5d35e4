"""What guides people: help in groups with examples that can be copied, and progress in words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import patchbank
from patchbank.cli.app import app
from patchbank.cli.examples import GROUPS, OF_GROUPS
from patchbank.cli.options import STAGES, in_words

from .conftest import run

ROOT = typer.main.get_command(app)
ALONE = {name: each for name, each in ROOT.commands.items() if not hasattr(each, "commands")}
IN_GROUPS = {
    f"{group} {name}": each
    for group, found in ROOT.commands.items()
    if hasattr(found, "commands")
    for name, each in found.commands.items()
}
COMMANDS = ALONE | IN_GROUPS


def test_every_command_has_a_group_and_every_group_its_commands():
    grouped = [name for group in GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(ROOT.commands)
    assert sorted(OF_GROUPS) == sorted(IN_GROUPS)
    text = run("--help").stdout
    assert all(group in text for group in GROUPS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_example_of_each_command_is_valid_and_shown(name):
    """It is parsed as the command would, so an example cannot outlive a flag."""
    command = COMMANDS[name]
    words = shlex.split(command.epilog.removeprefix("Example: "))
    prefix = ["patchbank", *name.split()]
    assert words[: len(prefix)] == prefix
    with command.make_context(name, words[len(prefix) :]):
        pass
    shown = " ".join(run(*prefix[1:], "--help").stdout.split())
    assert "Example: patchbank" in shown


def test_every_stage_of_the_source_has_words():
    stages = set()
    for path in Path(patchbank.__file__).parent.rglob("*.py"):
        stages |= set(re.findall(r'progress\("([^"{]+)"', path.read_text("utf-8")))
    assert stages <= set(STAGES)
    assert {"embed", "coreset", "calibrate"} <= stages
    assert in_words("bottle: embed") == "bottle: reading and embedding images"
    assert in_words("download x.pth") == "download x.pth"
