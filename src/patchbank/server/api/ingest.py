"""Finished results, as a line delivers them."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from patchbank.server.access import caller_of, needs
from patchbank.server.api.bodies import any_form, media_type
from patchbank.server.api.routing import Told, router
from patchbank.server.ingesting import MOST, Outcome, Record, ingest
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of

routes = router("inspections")

RECORDS = "records"  # the part, and the member of its object
_NAMED = re.compile("[0-9a-f]{64}")
_JSON = {"schema": {"$ref": "#/components/schemas/Records"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": _JSON,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [RECORDS],
                    "properties": {RECORDS: _JSON["schema"]},
                    "additionalProperties": {"type": "string", "format": "binary"},
                },
                "encoding": {RECORDS: {"contentType": "application/json"}},
            },
        },
    }
}


def schemas() -> dict[str, Any]:
    """What the endpoint takes, for the description: records are checked one by one, so FastAPI does not know them."""
    record = Record.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = record.pop("$defs", {})
    items = {"$ref": "#/components/schemas/Record"}
    records = {
        "type": "object",
        "required": [RECORDS],
        "additionalProperties": False,
        "properties": {RECORDS: {"type": "array", "minItems": 1, "maxItems": MOST, "items": items}},
    }
    return {**parts, "Record": record, "Records": records}


class Refusal(Told):
    """Why a record is refused: a problem (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = Field(default=[])


class Receipt(Told):
    """What became of a record. created: it is on the disk. known: it was there before. refused: it was not kept."""

    id: str | None
    outcome: Literal["created", "known", "refused"]
    problem: Refusal | None = Field(description="null, unless it was refused.")


class Receipts(Told):
    """What became of the records, in their order."""

    records: list[Receipt]


@routes.post(
    "/inspections:ingest",
    summary="Deliver finished results",
    response_model=Receipts,
    responses=responses(415),
    openapi_extra=_BODY,
)
@needs(None, "ingest", large_body=True)
async def post(request: Request) -> Receipts:
    """Keeps up to 100 results that a line has decided: each once, however often it is delivered. The images come with
    them, as files of a form, each named by its SHA-256. 503: nothing was kept; deliver all of them again."""
    service = service_of(request)
    given, images = await _delivery(request)
    found = await ingest(service, given, images, only=caller_of(request).stream_id)
    for each in found:
        service.metrics.delivered.labels(each.outcome).inc()
    return Receipts(records=[_receipt(each) for each in found])


async def _delivery(request: Request) -> tuple[list[Any], dict[str, bytes]]:
    """The records, as JSON has them, and the images by the names of their parts. Raises Problem."""
    kind = media_type(request)
    if kind == "application/json":
        return await run_in_threadpool(_records, await request.body()), {}
    if kind != "multipart/form-data":
        raise Problem(415, "media-type", f"expected application/json or multipart/form-data; got {kind!r}")
    size = service_of(request).settings.max_body
    async with any_form(request, files=MOST + 1, fields=1, field_size=size) as sent:
        return await _read_form(sent)


async def _read_form(sent: FormData) -> tuple[list[Any], dict[str, bytes]]:
    written, images = None, {}
    for name, part in sent.multi_items():
        content = await part.read() if isinstance(part, UploadFile) else part.encode()
        if name == RECORDS and written is None:
            written = content
        elif _NAMED.fullmatch(name) and name not in images and isinstance(part, UploadFile):
            images[name] = content
        else:
            raise Problem(
                422,
                "unknown-field",
                f"expected the part records, and files named by their SHA-256, each once; got {name[:100]!r}",
            )
    if written is None:
        raise Problem(422, "no-records", "expected a part records; got none")
    return await run_in_threadpool(_records, written), images


def _records(written: bytes) -> list[Any]:
    try:
        given = json.loads(written, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Problem(422, "invalid-request", f"records: expected JSON; {error}") from error
    if not isinstance(given, dict) or set(given) != {RECORDS} or not isinstance(given[RECORDS], list):
        raise Problem(422, "invalid-request", 'expected {"records": [...]}, and nothing beside it')
    if not 1 <= len(given[RECORDS]) <= MOST:
        raise Problem(422, "invalid-request", f"records: expected 1 to {MOST}; got {len(given[RECORDS])}")
    return given[RECORDS]


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON has")


def _receipt(outcome: Outcome) -> Receipt:
    problem = None if outcome.problem is None else Refusal.model_validate(outcome.problem.to_dict())
    return Receipt(id=outcome.id, outcome=outcome.outcome, problem=problem)
