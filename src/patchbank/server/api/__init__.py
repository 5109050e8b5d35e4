"""The HTTP API below /api/v1: one module for each kind of thing. `routing.py` has what all share."""
