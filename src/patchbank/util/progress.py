"""How long work reports that it advances: a callable (stage, done, total), called often and cheap to ignore."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The default: reports nothing."""
