"""Results read back: what `predict --json` prints comes back as it was, and anything else is an error with its line."""

from __future__ import annotations

import io
import json

import pytest

from patchbank.errors import DatasetError
from patchbank.monitoring.results_file import MAX_LINE_BYTES, read_results, text_lines

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"score": 1' + "0" * 400 + "}", "has no score that is a finite number"),
        ('{"score": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"score": 1, "threshold": 1' + "0" * 400 + "}", "threshold that is no finite number"),
        ('{"score": ' + "[" * 800 + "]" * 800 + "}", r"has no score .*\(score: list\)"),
        ('{"score": -Infinity, "threshold": 2.0}', "has no score"),
        ('{"score": "' + "x" * 10**6 + '"}', r"\(score: \"x{39}\)"),
    ],
)
def test_hostile_lines_are_named(text, message):
    with pytest.raises(DatasetError, match=f"line 2: .*{message}"):
        read_results([LINE, text], "r.jsonl", 2.0)


def test_lines_of_a_file_are_ended_by_line_feeds_only():
    """Names may hold what else ends a line for Python; JSON does not escape it by itself."""
    data = LINE.replace("a.png", "a\u2028b\x85c.png").encode()
    (reading,) = read_results(text_lines(io.BytesIO(b"\xef\xbb\xbf" + data + b"\r\n"), "r"), "r", 2.0)
    assert reading.path == "a\u2028b\x85c.png"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LINE.encode() + b"\n\xff\xfe", "r.jsonl, line 2: is not UTF-8 text"),
        (LINE.encode("utf-16"), "r.jsonl, line 1: is not UTF-8 text .*Out-File"),
        (b"x" * (MAX_LINE_BYTES + 1), "line 1: is longer than"),
    ],
)
def test_bytes_that_are_no_lines_of_text_are_named(data, says):
    with pytest.raises(DatasetError, match=says):
        read_results(text_lines(io.BytesIO(data), "r.jsonl"), "r.jsonl", 2.0)


def test_a_line_without_an_end_is_not_read_whole():
    class Endless(io.RawIOBase):
        def readline(self, size=-1):
            assert 0 < size <= MAX_LINE_BYTES + 1
            return b"1" * size

    with pytest.raises(DatasetError, match="line 1: is longer than"):
        list(text_lines(Endless(), "r"))


def test_lines_of_another_model_are_refused_whatever_its_threshold():
    """Two models may have the same threshold; one that was given another threshold is another file."""
    line = json.dumps({"score": 1, "threshold": 2.0, "model": {"sha256": "ab" * 32, "version": 1}})
    assert read_results([line], "r.jsonl", 3.0, "ab" * 32)[0].sha256 == "ab" * 32
    with pytest.raises(DatasetError, match=r"line 1: .* SHA-256 cdcdcdcdcdcd\.\.\.; got those of abababababab"):
        read_results([line], "r.jsonl", 2.0, "cd" * 32)
    assert read_results([LINE], "r.jsonl", 2.0, "cd" * 32)  # an older version's line
    with pytest.raises(DatasetError, match="sha256 is no text"):
        read_results(['{"score": 1, "threshold": 2.0, "model": {"sha256": 5}}'], "r.jsonl", 2.0, "cd" * 32)
