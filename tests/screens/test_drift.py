"""The page of drift: a stream whose good parts have changed, seen with its threshold, its deployments and advice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import update

from patchbank.server import drifting
from patchbank.server.api.drift import PointTold, Series, Shifted, Step
from patchbank.server.api.shown import Model
from patchbank.server.web.drift_chart import chart_of
from patchbank.store import inspections, streams
from patchbank.store.schema import deployments
from patchbank.store.values import Actor
from screens.sites import PHONE, serious
from store import made

AT = datetime(2026, 3, 1, 6, tzinfo=UTC)


def point(hour: int, median: float) -> PointTold:
    at = AT + timedelta(hours=hour)
    until = at + timedelta(minutes=59)
    return PointTold(at=at, until=until, n=50, median=median, low=median - 1, high=median + 1, ng=0, out_of_scene=0)


def series(**rest) -> Series:
    steps = [
        Step(at=AT - timedelta(days=3), model=Model(name="part", version=1), threshold=5.0),
        Step(at=AT + timedelta(hours=2), model=Model(name="part", version=2), threshold=6.0),
    ]
    points = [point(hour, 2 + (hour > 2)) for hour in range(4)]
    return Series(**({"stream": "part", "points": points, "deployments": steps, "shifts": []} | rest))


@pytest.fixture(scope="module")
def shifted(site, model) -> Iterator[str]:
    """A stream whose parts score as those of the fit, and then three times as high; it is counted at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drifting, "PAUSE_S", 0.05)
        patch.setattr(drifting, "SETTLED", timedelta(0))
        store, by = site.service.store, Actor("test")
        stream = store.write(streams.ensure, "press (left)", by=by)
        version = site.known.model_version_id
        made_now = store.write(streams.deploy, stream.id, version, by=by, reason="test")
        earlier = update(deployments).where(deployments.c.id == made_now.id).values(from_at=AT - timedelta(hours=1))
        store.write(lambda connection: connection.execute(earlier) and None)
        usual = np.random.default_rng(0).choice(model.calibration.scores, 250)
        scores = [float(score) * (1 if number < 150 else 3) for number, score in enumerate(usual)]
        rows = [
            made.inspection(stream.id, at=AT + timedelta(minutes=number), score=score, model_version_id=version)
            for number, score in enumerate(scores)
        ]
        for begin in range(0, len(rows), 100):
            store.write(inspections.insert_many, rows[begin : begin + 100])
        yield stream.name


def test_a_shift_is_seen_with_its_test_and_advice(visit, shifted):
    tab = visit("viewer").open("/drift")
    tab.select_option("[name=stream]", shifted)
    tab.locator("button:has-text('Show')").click()
    for _ in range(50):
        if tab.locator(".label:has-text('drift')").count() and "250 parts" in tab.inner_text("main"):
            break
        tab.wait_for_timeout(200)
        tab.reload()
    said = tab.inner_text("main")
    assert "Good parts look other than they did" in said
    assert "Scores have risen" in said
    assert "250 parts counted" in said
    assert tab.locator(".chart .shift").count() >= 1
    assert tab.locator(".chart .now").count() == 1
    assert tab.inner_text(".foot").startswith("patchbank ")
    assert "Macro" not in tab.inner_text("body")
    german = visit("viewer", locale="de", java_script_enabled=False).open(f"/drift?stream={shifted}&span=day")
    assert "In dieser Zeit gibt es keine Werte" in german.inner_text("main")


def test_what_is_drawn_where():
    chart = chart_of(series())
    assert chart is not None
    assert [each.x for each in chart.thresholds] == [chart.left, chart.thresholds[0].x + chart.thresholds[0].width]
    assert chart.thresholds[0].y > chart.thresholds[1].y  # 6 is higher than 5
    assert chart.thresholds[1].x + chart.thresholds[1].width == chart.right
    assert [each.model.version for each in chart.began] == [1, 2]
    assert (chart.times[0].at, chart.times[-1].end) == (AT, True)
    assert chart.dots[3][1] < chart.dots[0][1]  # the median has risen
    begin, end = AT + timedelta(hours=3), AT + timedelta(hours=3, minutes=59)
    of = Model(name="part", version=2)
    shift = Shifted(test="level", direction="up", model=of, since=begin, until=end, detected=end)
    (span,) = chart_of(series(shifts=[shift])).shifts
    assert span.x > chart.dots[2][0]
    assert span.x + span.width == chart.right
    assert chart_of(series(points=[])) is None
    assert chart_of(series(points=[point(0, 2.0)], deployments=[])).dots  # one point, no deployment


@pytest.mark.parametrize(("scheme", "size"), [("light", (1280, 800)), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(visit, shifted, scheme, size):
    assert serious(visit("viewer", color_scheme=scheme, size=size), [f"/drift?stream={shifted}"]) == []
