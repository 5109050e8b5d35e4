"""Progress: long work reports that it advances, by calling (stage, done, total) often; it is cheap to ignore."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The default: reports nothing."""
