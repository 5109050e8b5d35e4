"""What all pages have in common: whatever a name holds, the page stays whole, and nothing in it is hidden."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pages import Page
from patchbank import Audit, reports
from patchbank.errors import OutputError
from patchbank.reports import html as page
from patchbank.reports.audit import write_page as write_audit
from patchbank.reports.evaluation import EvaluationReport
from patchbank.reports.explanation_page import write_page as write_explanation
from patchbank.reports.inspection import InspectionReport, ReportRow, write_report
from patchbank.results.audit import AuditedImage, Outlier
from test_explain_page import explanation, finding, patch
from test_report import row

TEMPLATES = sorted((Path(reports.__file__).parent / "templates").iterdir())
NASTY = (
    "a'b\"c<script>alert(1)</script>&amp;{{ 7*7 }}{% raw %}--><!--]]>"
    "\x1b]0;owned\x07\x1b[2J\0\n\r\t\x7f\x85\x9b31m\u202egnp.\u2066\u200b\ufeff\u2028\udce9\ud800.png"
)
SHOWN = "a'b\"c<script>alert(1)</script>&amp;{{ 7*7 }}{% raw %}--><!--]]>␛]0;owned␇␛[2J␀␊␍␉␡��31m�gnp.����??.png"


def inspection_page(path: Path, text: str) -> None:
    rows = [row(text, label=text, scene=[text])]
    write_report(path, rows, title=text, summary={text: text}, skipped=[text], calibration_scores=[1.0])


def explanation_page(path: Path, text: str) -> None:
    one = explanation(path=text.replace("/", "⁄"), notes=(text,), findings=(finding(neighbours=(patch(text),)),))
    write_explanation(path, one, text)


def audit_page(path: Path, text: str) -> None:
    odd = AuditedImage(text, 1.0, 9.0, (Outlier("defect", 9.0, 9.0, 3.0, text),), None, b"")
    write_audit(path, Audit((odd,), ((text, text),), (text,)), text)


def evaluation_page(path: Path, text: str) -> None:
    with EvaluationReport(path) as page:
        page.add(row(text, 1.0, label=text, defective=True))
        page.write_evaluation(title=text, figures={text: text}, areas={text: 0.5}, skipped=[text])


PAGES = {
    "inspection": inspection_page,
    "evaluation": evaluation_page,
    "explanation": explanation_page,
    "audit": audit_page,
}


@pytest.mark.parametrize("write", PAGES.values(), ids=PAGES)
def test_nothing_in_a_name_breaks_or_hides(tmp_path: Path, write: object) -> None:
    """Quotes, markup, template marks, terminal codes, line ends, marks of direction, halves of surrogate pairs."""
    write(tmp_path / "nasty.html", NASTY)  # type: ignore[operator]
    write(tmp_path / "plain.html", "plain.png")  # type: ignore[operator]
    nasty, plain = Page(tmp_path / "nasty.html"), Page(tmp_path / "plain.html")
    assert nasty.open == []
    assert [(tag, list(names)) for tag, names in nasty.elements if tag != "wbr"] == [
        (tag, list(names)) for tag, names in plain.elements if tag != "wbr"
    ]
    hidden = {c for c in nasty.source if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert hidden == set()
    for tag in ("h1", "main"):
        assert SHOWN.replace("/", "⁄") in nasty.text[tag].replace("/", "⁄")
    assert "49" not in nasty.text["h1"]


@pytest.mark.parametrize("write", PAGES.values(), ids=PAGES)
def test_the_policy_forbids_what_the_page_does_not_need(tmp_path: Path, write: object) -> None:
    write(tmp_path / "a.html", "a.png")  # type: ignore[operator]
    found = Page(tmp_path / "a.html")
    (policy,) = (m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert {name: rules[name] for name in ("default-src", "base-uri", "form-action")} == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert rules["img-src"] == "data:"
    assert set(rules) - {"default-src", "base-uri", "form-action", "img-src", "style-src", "script-src"} == set()
    # The policy stands before anything that it is for.
    assert [tag for tag, _ in found.elements][:4] == ["html", "head", "meta", "meta"]


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(), max_size=60))
def test_any_text_becomes_itself_or_a_sign(text: str) -> None:
    """One sign for each letter, so that two names do not become one by what is left out; and always UTF-8."""
    shown = page.visible(text)
    assert len(shown) == len(text)
    odd = {unicodedata.category(sign) for sign in shown if not sign.isprintable() and sign not in "\u200c\u200d"}
    assert odd <= {"Zs"}  # spaces of other widths
    shown.encode("utf-8")
    assert all(b == a or not a.isprintable() for a, b in zip(text, shown, strict=True))
    assert page.visible(shown) == shown
    assert "".join(page.pieces(text)) == text


def test_templates_exempt_nothing_from_escaping() -> None:
    """What a value's markup could hide behind: filters that trust, blocks without escaping, markup joined by `~`."""
    assert {path.name for path in TEMPLATES} >= {"base.html", "inspection.html", "explanation.html", "audit.html"}
    for path in TEMPLATES:
        text = path.read_text("utf-8")
        for tag in re.findall(r"\{[{%](.*?)[%}]\}", text, re.DOTALL):
            assert not re.search(r"\bsafe\b|autoescape|\bMarkup\b|~|xmlattr", tag), f"{path.name}: {tag}"
        assert not re.search(r"""=\s*\{\{|\bon\w+=|javascript:""", text), f"{path.name}: an attribute without quotes"


def test_a_value_that_is_missing_or_none_is_an_error_and_no_empty_place() -> None:
    from jinja2 import UndefinedError

    environment = page.environment()
    assert environment is page.environment()
    with pytest.raises(UndefinedError):
        environment.from_string("{{ nothing }}").render()
    with pytest.raises(TypeError, match="None"):
        environment.from_string("{{ value }}").render(value=None)
    assert environment.from_string("<{{ value }}>").render(value="<b>\x1b") == "<&lt;b&gt;␛>"


def test_importing_patchbank_does_not_load_the_templates() -> None:
    code = "import sys, patchbank, patchbank.reports.html, patchbank.reports.inspection; print('jinja2' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


# --- a report that streams ---


def test_a_stream_of_images_takes_no_memory_for_its_pictures(tmp_path: Path, rng: np.random.Generator) -> None:
    """The pictures were in memory until the report was written: 31 kB an image."""
    noise = rng.integers(0, 256, (90, 90, 3), np.uint8)
    one = row(image=noise, overlay=noise)
    size = len(one.picture) + len(one.overlay)
    with InspectionReport(tmp_path / "r.html") as report:
        report.add(one)
        report.write(title="Report")  # so that the templates are loaded
        tracemalloc.start()
        for number in range(500):
            report.add(dataclasses.replace(one, score=float(number)))
        report.write(title="Report")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "r.html").stat().st_size > 500 * size
    assert peak < 0.1 * 500 * size


def test_a_report_can_be_written_more_than_once(tmp_path: Path) -> None:
    """A run that goes on shows what it has so far; the rows are those of one that was written at the end."""
    with InspectionReport(tmp_path / "r.html") as report:
        report.add(row("a.png", 1.0))
        report.write(title="Report")
        assert "b.png" not in (tmp_path / "r.html").read_text("utf-8")
        report.add(row("b.png", 5.0))
        report.write(title="Report")
    write_report(tmp_path / "all.html", [row("a.png", 1.0), row("b.png", 5.0)], title="Report")
    found, wanted = Page(tmp_path / "r.html"), Page(tmp_path / "all.html")
    assert found.text["tbody"] == wanted.text["tbody"]


def test_a_killed_run_leaves_neither_half_a_page_nor_its_pictures(tmp_path: Path) -> None:
    """It dies while rows come in: nothing under the report's name, and no file beside it."""
    code = (
        "import os, sys\n"
        "from patchbank.reports.inspection import InspectionReport\n"
        "from test_report import row\n"
        "report = InspectionReport(sys.argv[1])\n"
        "for _ in range(40): report.add(row())\n"
        "os._exit(9)\n"
    )
    path = tmp_path / "r.html"
    run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parent)
    assert run.returncode == 9
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with InspectionReport(tmp_path / "r.html") as report:
        report.add(row("a.png"))

        def full(data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(report, "_spool", Spool(report._spool, full))
        with pytest.raises(OutputError, match=r"r\.html: No space left"):
            report.add(row("b.png"))
        monkeypatch.undo()
        report.write(title="Report")  # what was taken before is still good
    assert "a.png" in (tmp_path / "r.html").read_text("utf-8")
    with pytest.raises(OutputError):
        InspectionReport(tmp_path / "no" / "r.html")


class Spool:
    """A file that fails to write."""

    def __init__(self, file: object, write: object) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def test_numbers_of_any_type_make_a_row(tmp_path: Path) -> None:
    """Scores come as NumPy scalars as well as floats."""
    one = row(score=np.float32(3), threshold=np.float32(2), is_anomalous=np.bool_(True), defective=np.bool_(True))  # type: ignore[arg-type]
    assert isinstance(one, ReportRow)
    write_report(tmp_path / "r.html", [one], title="Report")
    assert "1.50×" in Page(tmp_path / "r.html").text["tbody"]
