"""The service: `patchbank serve`. An HTTP interface over the library and the store, in one process.

`run.py` starts and stops it, `app.py` puts it together. What a request passes, from outside in: `protocol.py` (limits
of the connection), `edge.py` (request id, log, metrics, security headers), `access.py` (who may), and then an endpoint
of `health.py`, `oip/` (the Open Inference Protocol), `api/` or `web/`. `import patchbank` imports nothing of it.
"""
