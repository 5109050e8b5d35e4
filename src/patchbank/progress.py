"""How long work reports that it advances: a callable (stage, done, total), called often and cheap to ignore."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:  # noqa: ARG001  (the signature is the protocol)
    """The default: reports nothing."""
