"""Records to `patchbank serve`: POST /api/v1/inspections:ingest, with images, as docs/reference/http-api.md says it.

The service keeps a record once, however often it comes, and answers for each one. What it refuses is set aside. States
of stations go to /api/v1/streams/NAME:report, on a thread of their own: the newest one, while the service answers.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from patchbank import ConfigError, ImageError
from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome, Unreachable
from patchbank.line.sinks.http_client import HttpClient, Reply, secret_of

logger = logging.getLogger("patchbank.line")
_INGEST = "/api/v1/inspections:ingest"
_MOST_IMAGES = 16_000_000  # bytes in one request
_WRONG = (400, 413, 415, 422)  # what is wrong with the request itself
_NAME, _TEXT = 200, 9000  # characters that the service keeps of a name and of a reason
_REPORT_EACH, _REPORT_AGAIN = 1.0, 10.0  # seconds: at most, and at least


class ServerSink:
    """Implements `Sink`. url: of the service, without a path. token_file: a token with the scope `ingest`. stream: of
    all records; '' = the stream that has the station's name. with_images: 'all', 'rejected' or 'none'."""

    batch = 50

    def __init__(
        self,
        *,
        name: str,
        url: str,
        token_file: str,
        stream: str = "",
        with_images: str = "all",
        ca_file: str = "",
        timeout_s: float = 30.0,
    ) -> None:
        self.name, self._stream, self._with_images = name, stream, with_images
        self._clients = [HttpClient(url, timeout=timeout_s, ca_file=ca_file) for _ in range(2)]
        self._client, reporting = self._clients
        if not self._client.tls and not self._client.is_local:
            raise ConfigError(f"url: expected https://, because the token goes with every request; got {url}")
        token = secret_of(token_file, "token_file").decode("ascii", errors="replace")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._reporter = _Reporter(reporting, self._headers, stream)

    def check(self) -> str:
        """Asks the service whether it takes this token. Raises Unreachable."""
        reply = self._client.post(b'{"records": []}', {**self._headers, "Content-Type": "application/json"}, _INGEST)
        if reply.status != 422:  # no records: that is all that is wrong with it
            raise _refusal(reply)
        return f"{self._client.host} takes the token"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:
        """Delivers as many records as one request holds; their rows are on the service's disk when this returns."""
        some, files = self._fitting(records, images)
        reply = self._post(some, files)
        if reply.status in _WRONG and len(some) > 1:
            some = some[:1]
            files = {digest: content for digest, content in files.items() if digest == some[0].image_sha256}
            reply = self._post(some, files)
        if reply.status == 413 and files:
            logger.warning("sink %s: the image of record %s is too large for the service", self.name, some[0].id)
            reply = self._post(some, {})
        if reply.status in _WRONG:
            return Outcome(refused={some[0].id: str(_refusal(reply))})
        if reply.status != 200:
            raise _refusal(reply)
        return _outcome(reply, some)

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """Reports it, soon."""
        self._reporter.tell(station, state)

    def close(self) -> None:
        """Ends requests that are under way."""
        self._reporter.close()
        for client in self._clients:
            client.close()

    def _fitting(self, records: Sequence[Record], images: Images) -> tuple[Sequence[Record], dict[str, bytes]]:
        """The first records, at least one, and the images that are wanted and still there."""
        files: dict[str, bytes] = {}
        size = 0
        for number, record in enumerate(records):
            content = self._image(record, images)
            if content is not None and record.image_sha256 and record.image_sha256 not in files:
                if number and size + len(content) > _MOST_IMAGES:
                    return records[:number], files
                size += len(content)
                files[record.image_sha256] = content
        return records, files

    def _image(self, record: Record, images: Images) -> bytes | None:
        wanted = self._with_images == "all" or (self._with_images == "rejected" and record.output != "ok")
        if not wanted or not record.image_sha256 or not record.image_format:
            return None
        try:
            return images.get(record.image_sha256)
        except ImageError:
            return None

    def _post(self, records: Sequence[Record], files: Mapping[str, bytes]) -> Reply:
        told = {"records": [delivered(record, self._stream, files) for record in records]}
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        kind, body = ("application/json", text) if not files else _form(text, files)
        return self._client.post(body, {**self._headers, "Content-Type": kind}, _INGEST)


def delivered(record: Record, stream: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """A record as the service takes it. stream: its name; '' = the station's. files: images that come with it.

    An OK that came after the deadline is told as ERROR, which is what the machine had.
    """
    verdict, reason = record.verdict, record.reason
    if record.late and verdict == "ok":
        verdict, reason = "error", f"after the deadline: {reason}"
    image = None
    if record.width and record.height:
        digest = record.image_sha256 if record.image_sha256 in files else None
        image = {"sha256": digest, "width": record.width, "height": record.height}
    model = {"sha256": record.model_sha256, "version": record.model_version}
    return {
        "id": record.id,
        "at": record.at.isoformat(),
        "stream": stream or record.station,
        "serial": record.part_id[:_NAME] or None,
        "batch": record.batch[:_NAME] or None,
        "source": record.source[:_NAME] or "line",
        "verdict": verdict,
        "reason": reason[:_TEXT],
        "score": record.score,
        "threshold": record.threshold,
        "p_value": record.p_value,
        "in_scene": record.in_scene,
        "scene": record.scene,
        "latency_ms": record.latency_ms,
        "late": record.late,
        "model": model if record.model_sha256 and record.model_version else None,
        "image": image,
        "regions": [_region(each) for each in record.regions],
        "heat": record.heat,
    }


def _region(region: Mapping[str, Any]) -> dict[str, Any]:
    """contour: (n, 2) points -> one polygon, x and y in turn."""
    flat = [number for point in region.get("contour") or () for number in point]
    told = {name: region[name] for name in ("box", "area", "peak", "peak_score")}
    return {**told, "peak_score": told["peak_score"] or 0.0, "contour": [flat] if flat else None}


def _form(records: bytes, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """multipart/form-data: its type, with the boundary, and its bytes."""
    boundary = f"patchbank-{secrets.token_hex(16)}"  # too long to be in an image by chance
    parts = [_part(boundary, "records", "application/json", records)]
    parts += [_part(boundary, digest, "application/octet-stream", content) for digest, content in files.items()]
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


def _part(boundary: str, name: str, kind: str, content: bytes) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{name}"'
    return f"--{boundary}\r\n{disposition}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


def _outcome(reply: Reply, records: Sequence[Record]) -> Outcome:
    """What the service says of each record. Raises Unreachable if that cannot be understood: nothing is struck out."""
    try:
        told = {str(each["id"]): each for each in json.loads(reply.body)["records"]}
        confirmed = [each.id for each in records if told[each.id]["outcome"] in ("created", "known")]
        refused = {each.id: told[each.id] for each in records if told[each.id]["outcome"] == "refused"}
        reasons = {id: str((each["problem"] or {}).get("detail", "no reason")) for id, each in refused.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"the answer is not that of patchbank serve: {error!r}") from error
    return Outcome(confirmed, reasons)


def _refusal(reply: Reply) -> Unreachable:
    try:
        detail = str(json.loads(reply.body)["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        detail = reply.body[:300].decode(errors="replace")
    hint = {401: " (is the token right, and not revoked?)", 403: " (the token needs the scope ingest)"}
    return Unreachable(f"answered {reply.status}{hint.get(reply.status, '')}: {detail}", reply.retry_after)


class _Reporter:
    """Tells the newest state of each station, and again every ten seconds."""

    def __init__(self, client: HttpClient, headers: Mapping[str, str], stream: str) -> None:
        self._client, self._headers, self._stream = client, {**headers, "Content-Type": "application/json"}, stream
        self._newest: dict[str, Mapping[str, Any]] = {}
        self._changed: set[str] = set()
        self._condition, self._ending = threading.Condition(), False
        self._thread: threading.Thread | None = None

    def tell(self, station: str, state: Mapping[str, Any]) -> None:
        with self._condition:
            self._newest[station] = dict(state)
            self._changed.add(station)
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._run, name="patchbank-report", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._ending = True
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._ending, _REPORT_AGAIN)
                if self._ending:
                    return
                stations = self._changed or set(self._newest)
                told = {station: self._newest[station] for station in stations}
                self._changed = set()
            for station, state in told.items():
                self._report(station, state)
            with self._condition:
                self._condition.wait_for(lambda: self._ending, _REPORT_EACH)

    def _report(self, station: str, state: Mapping[str, Any]) -> None:
        said = str(state.get("state"))
        body = {"state": said if said in ("start", "ready", "busy") else "fault", "about": state}
        path = f"/api/v1/streams/{quote(self._stream or station, safe='')}:report"
        try:
            reply = self._client.post(json.dumps(body, allow_nan=False).encode(), self._headers, path)
            if reply.status != 200:
                logger.info("the state of %s was not taken: %s", station, _refusal(reply))
        except (Unreachable, ValueError) as error:
            logger.info("the state of %s was not taken: %s", station, error)
