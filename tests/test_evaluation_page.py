"""The page of an evaluation: a table that adds up, and exactly the mistakes as pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages import Page
from patchbank.reports.evaluation import EvaluationReport
from patchbank.results.verdict import Verdict
from test_report import row


def cells(page: Page) -> list[list[str]]:
    """The table's body, without the shares."""
    body = re.search(r"<tbody>(.*?)</tbody>", page.source, re.DOTALL)
    assert body is not None
    text = re.sub(r"<small>.*?</small>|<wbr>", "", body[1])
    return [
        [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line, re.DOTALL)]
        for line in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    ]


def test_each_kind_is_counted_and_mistakes_are_shown(tmp_path: Path) -> None:
    """Threshold 2. Of good images one is NG; of dents one is OK, one in review and one NG; holes are all found."""
    ok, ng = Verdict.OK, Verdict.NG
    rows = [
        row("dent/ok.png", 0.5, label="dent", defective=True, pixel_threshold=7.5, verdict=ok),
        row("good/a.png", 1.0, label="good", verdict=ok),
        row("good/alarm.png", 3.0, label="good", verdict=ng),
        row("dent/odd.png", 1.5, label="dent", defective=True, verdict=Verdict.REVIEW, scene=["darker"]),
        row("dent/ng.png", 4.0, label="dent", defective=True, verdict=ng),
        row("hole/ng.png", 5.0, label="hole", defective=True, verdict=ng),
        row("dent/near.png", 1.9, label="dent", defective=True, verdict=ok),
    ]
    with EvaluationReport(tmp_path / "e.html") as report:
        for one in rows:
            report.add(one)
        report.write_evaluation(title="E", figures={"AUPRO": "0.9000"}, areas={"dent": 0.75, "hole": None})
    page = Page(tmp_path / "e.html")
    assert page.open == []
    assert cells(page) == [
        ["good", "2", "1", "0", "1", "0", "–"],
        ["dent", "4", "2", "1", "1", "1", "0.7500"],
        ["hole", "1", "0", "0", "1", "0", "–"],
    ]
    figures = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))
    assert figures == {"false alarms": "1 of 2", "missed defects": "2 of 5", "AUPRO": "0.9000"}
    assert len(page.all("img")) == 2 * 3
    named = [part.replace("<wbr>", "") for part in re.findall(r'class="name muted">(.*?)</span>', page.source)]
    assert named == ["dent/ok.png", "dent/near.png", "good/alarm.png"]  # the worst miss first
    assert "pixel threshold (7.5)" in page.text["section"]


def test_a_model_without_mistakes_is_said_to_have_none(tmp_path: Path) -> None:
    with EvaluationReport(tmp_path / "e.html") as report:
        report.add(row("good/a.png", 1.0, label="good"))
        report.write_evaluation(title="E", figures={}, areas={})
    text = Page(tmp_path / "e.html").text["main"]
    assert "No defect comes out OK." in text
    assert "No good image is NG." in text


@pytest.mark.parametrize(("review", "drawn"), [(1.5, True), (0.1, False), (None, False)])
def test_the_limit_of_review_is_in_the_picture(tmp_path: Path, review: float | None, drawn: bool) -> None:
    """Without it, all bars left of the threshold look missed. A limit below all scores has no place on the axis."""
    with EvaluationReport(tmp_path / "e.html") as report:
        report.add(row("good/a.png", 1.0, label="good"))
        report.add(row("dent/b.png", 4.0, label="dent", defective=True))
        report.write_evaluation(title="E", figures={}, areas={}, review=review)
    assert ("review 1.5" in Page(tmp_path / "e.html").text["section"]) is drawn
