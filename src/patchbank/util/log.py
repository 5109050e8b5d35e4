"""patchbank's logger: what the command line prints as warnings is said here, and nowhere by default, as in libraries.

logging.basicConfig(level=logging.WARNING)  # or logging.getLogger("patchbank").addHandler(...)
"""

from __future__ import annotations

import logging

logger = logging.getLogger("patchbank")
logger.addHandler(logging.NullHandler())  # else Python prints warnings of who has set up no logging
