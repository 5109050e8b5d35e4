"""Tells PyInstaller what a frozen application needs of patchbank beyond what its imports show.

PyInstaller finds `hook_dirs` through the entry point group `pyinstaller40`, and runs the hook itself: nothing else
imports it.
"""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folders in which PyInstaller looks for hooks."""
    return [str(Path(__file__).parent)]
