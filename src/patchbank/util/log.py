"""patchbank's logger: what the command line prints as warnings is said here, and nowhere by default, as in libraries.

logging.basicConfig(level=logging.WARNING)  # or logging.getLogger("patchbank").addHandler(...)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("patchbank")
logger.addHandler(logging.NullHandler())  # else Python prints warnings of who has set up no logging


@contextmanager
def quiet() -> Iterator[None]:
    """While the block runs, nothing is said: for work that fits many models, and says itself what came out."""

    def nothing(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)
