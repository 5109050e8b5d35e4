"""Examples on the pages about PLCs and sinks: each table is one that a line takes, each snippet does what it says."""

from __future__ import annotations

import base64
import re
import tomllib
from pathlib import Path

import pytest
from tests.line.made import record

from patchbank.line.config import parsed
from patchbank.line.sinks.webhook import signature

DOCS = Path(__file__).parents[2] / "docs" / "operate"
CAP = {"model": "cap.patchbank", "camera": {"kind": "folder", "path": "inbox"}}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["plc.md", "sinks.md"])
def test_every_table_is_taken(page, tmp_path):
    found = blocks(page, "toml")
    assert len(found) >= 3
    for text in found:
        tables = tomllib.loads(text)
        station = {**CAP, **tables.pop("station", {}).get("cap", {})}
        config = parsed({"data": "data", "station": {"cap": station}, **tables}, tmp_path / "line.toml")
        assert config.sinks or config.stations[0].plc or config.stations[0].output


def test_the_receiver_of_a_webhook_checks_it_with_the_snippet():
    (snippet,) = blocks("sinks.md", "python")
    key, made = b"0123456789abcdef0123456789abcdef", record()
    body = b'{"type": "inspection"}'
    headers = {
        "webhook-id": made.id,
        "webhook-timestamp": "1700000000",
        "webhook-signature": signature(key, made.id, 1_700_000_000, body),
    }
    secret = "whsec_" + base64.b64encode(key).decode()
    names = {"headers": headers, "body": body, "secret": secret}
    exec(snippet, names)
    assert names["genuine"] is True
    names["body"] = body + b" "
    exec(snippet, names)
    assert names["genuine"] is False
