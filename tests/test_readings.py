"""Results read back: what `predict --json` prints comes back as it was, and anything else is an error with its line."""

from __future__ import annotations

import json

import pytest

from patchbank.errors import DatasetError
from patchbank.monitoring.results_file import read_results

LINE = '{"path": "a.png", "score": 1.5, "threshold": 2.0, "is_anomalous": false, "regions": []}'


def test_lines_and_their_numbers():
    scene = {"sharpness": {"value": 1, "low": 2, "high": 3, "reason": "less sharp"}, "pixels": {"reason": None}}
    second = json.dumps({"score": 3, "threshold": 2.0, "in_scene": False, "scene": scene})
    first, other = read_results([LINE, "", "  \n", second], "r.jsonl", 2.0)
    assert (first.line, first.path, first.score, first.in_scene, first.outside) == (1, "a.png", 1.5, None, ())
    assert (other.line, other.path, other.score, other.in_scene) == (4, "line 4", 3.0, False)
    assert other.outside == ("sharpness",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,score,threshold", "line 2: is not JSON"),
        ('{"score": 1.5', "line 2: is not JSON"),
        ("[" * 100_000, "line 2: is not JSON"),
        ("[1]", "is no JSON object, but list"),
        ("7", "is no JSON object, but int"),
        ('{"path": "b.png", "threshold": 2.0}', r"has no score that is a finite number \(score: null\)"),
        ('{"score": "high", "threshold": 2.0}', "has no score"),
        ('{"score": true, "threshold": 2.0}', "has no score"),
        ('{"score": NaN, "threshold": 2.0}', "has no score"),
        ('{"score": 1e999, "threshold": 2.0}', "has no score"),
        ('{"score": 1, "threshold": "2"}', "threshold that is no finite number"),
        ('{"score": 1, "threshold": 2.0, "in_scene": "yes"}', "in_scene that is neither"),
        ('{"score": 1, "threshold": 2.1}', "line 2: expected results of this model, whose threshold is 2.0; got 2.1"),
        ('{"score": 1}', "line 2: expected results of this model, whose threshold is 2.0; got None"),
    ],
)
def test_what_is_no_result_is_an_error_with_its_line(text, message):
    with pytest.raises(DatasetError, match=message):
        read_results([LINE, text], "r.jsonl", 2.0)


@pytest.mark.parametrize("lines", [[], ["", "\n"]])
def test_nothing_to_read(lines):
    with pytest.raises(DatasetError, match=r"r\.jsonl: expected the lines .* got none"):
        read_results(lines, "r.jsonl", 2.0)
