"""What is paid before any work starts: `--help` and completion load no numerical library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("onnxruntime", "onnx", "cv2", "faiss", "torch", "scipy", "sklearn", "PIL", "matplotlib", "safetensors")


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "args", [["--help"], ["fit", "--help"], ["predict", "--help"], ["explain", "--help"], ["backbones", "list", "-h"]]
)
def test_help_loads_nothing_heavy(args):
    code = (
        "import sys; from patchbank.cli.app import app\n"
        f"app({args!r}, standalone_mode=False)\n"
        f"loaded = sorted(set({(*HEAVY, 'numpy')!r}) & set(sys.modules))\n"
        "print(); print('loaded:', loaded)"
    )
    assert python(code).splitlines()[-1] == "loaded: []"


def test_import_loads_nothing_heavy():
    code = f"import sys, patchbank; patchbank.Config(); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_each_shell(shell):
    code = "import sys; sys.argv = ['patchbank', '--show-completion', %r]\n" % shell  # noqa: UP031
    code += "from patchbank.cli import main\ntry:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code"
    script = python(code, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "patchbank" in script
    assert "_PATCHBANK_COMPLETE" in script


def test_completion_knows_commands_and_choices():
    def complete(line: str) -> list[str]:
        code = "import sys; sys.argv = ['patchbank']\nfrom patchbank.cli import main\nmain()"
        words = line.split(" ")
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ
            | {"_PATCHBANK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
            timeout=60,
        )
        return done.stdout.split()

    assert "predict" in complete("patchbank pre")
    assert complete("patchbank fit --sampler gree") == ["greedy_coreset"]
