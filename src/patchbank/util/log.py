"""What the library has to say beside results and errors: `logging.getLogger("patchbank")`, silent unless a program
asks for it. The command line prints it on stderr."""

from __future__ import annotations

import logging

LOG = logging.getLogger("patchbank")
LOG.addHandler(logging.NullHandler())
