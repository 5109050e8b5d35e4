"""Records to a web address: one POST each, signed as Standard Webhooks does it (https://www.standardwebhooks.com).

The receiver computes HMAC-SHA256 over "ID.TIMESTAMP.BODY" with the shared secret and compares it with the header
`webhook-signature`; it refuses timestamps that are older than some minutes, and takes one `webhook-id` once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from patchbank import ConfigError
from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome, Unreachable
from patchbank.line.sinks.http_client import HttpClient, Reply, secret_of

_SHORTEST_SECRET = 16  # bytes
_REFUSALS = (400, 409, 413, 415, 422)  # this record will never be taken; other errors may pass
_MOST_SHOWN = 200  # characters of an answer in a reason


class WebhookSink:
    """Implements `Sink`. The options are those of `WebhookOptions`."""

    batch = 20

    def __init__(
        self,
        *,
        name: str,
        url: str,
        secret_file: str,
        ca_file: str = "",
        hosts: Sequence[str] = (),
        timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self._key = signing_key(secret_of(secret_file, "secret_file"))
        self._client = HttpClient(url, timeout=timeout_s, ca_file=ca_file, hosts=hosts)

    def check(self) -> str:
        """Posts a message of type `ping`. Raises Unreachable unless the answer is 200 to 299."""
        now = int(time.time())
        reply = self._post(f"ping-{now}", {"type": "ping", "schema": 1})
        if not 200 <= reply.status < 300:
            raise _refusal(reply)
        return f"{self._client.host} answers {reply.status}"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:  # noqa: ARG002  (texts only)
        """Posts one record after the other; 200 to 299 is the acknowledgement."""
        delivered: list[str] = []
        refused: dict[str, str] = {}
        for record in records:
            values = record.to_dict()
            del values["heat"]
            try:
                reply = self._post(record.id, {"type": "inspection", **values})
                if 200 <= reply.status < 300:
                    delivered.append(record.id)
                elif reply.status in _REFUSALS:
                    refused[record.id] = str(_refusal(reply))
                else:
                    raise _refusal(reply)
            except Unreachable:
                if delivered or refused:
                    break
                raise
        return Outcome(delivered, refused)

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """Nothing is posted for a state."""

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _post(self, id: str, message: Mapping[str, Any]) -> Reply:
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._key, id, timestamp, body),
        }
        return self._client.post(body, headers)


def signing_key(secret: bytes) -> bytes:
    """The key in a secret file: what follows `whsec_` as base64, else the bytes themselves. Raises ConfigError."""
    key = secret
    if secret.startswith(b"whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
        except binascii.Error as error:
            raise ConfigError("secret_file: expected base64 after whsec_; got something else") from error
    if len(key) < _SHORTEST_SECRET:
        raise ConfigError(f"secret_file: expected a secret of at least {_SHORTEST_SECRET} bytes; got {len(key)}")
    return key


def signature(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _refusal(reply: Reply) -> Unreachable:
    text = reply.body[: 4 * _MOST_SHOWN].decode(errors="replace")[:_MOST_SHOWN]
    redirect = " (redirects are not followed: write the final address)" if 300 <= reply.status < 400 else ""
    return Unreachable(f"answered {reply.status}{redirect}: {text}" if text else f"answered {reply.status}{redirect}",
                       reply.retry_after)  # fmt: skip
