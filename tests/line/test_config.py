"""A line's file: everything that is wrong is one clear error before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank import ConfigError
from patchbank.line.config import LineConfig, load
from patchbank.line.units import days, size

MINIMAL = """
data = "journal"
[station.cap]
model = "cap.patchbank"
[station.cap.camera]
kind = "folder"
path = "inbox"
"""


def of(tmp_path: Path, text: str) -> LineConfig:
    path = tmp_path / "line.toml"
    path.write_text(text)
    return load(path)


def test_six_lines_are_a_line_and_paths_are_the_files(tmp_path):
    config = of(tmp_path, MINIMAL)
    (station,) = config.stations
    assert (config.data, station.model) == (tmp_path / "journal", tmp_path / "cap.patchbank")
    assert station.camera.options.path == str(tmp_path / "inbox")
    assert (station.deadline, station.options.review, station.options.out_of_scene) == (60.0, "ng", "ng")
    assert (config.policy.days["ok"], config.policy.min_free) == (7.0, 10**9)


def test_the_designs_words_are_understood(tmp_path):
    config = of(
        tmp_path,
        MINIMAL
        + """
[station.cap.recipes]
2 = "blue.patchbank"
[station.cap.plc]
kind = "modbus"
listen = "0.0.0.0:1502"
peers = ["192.168.1.10"]
[retain]
ok = "12h"
ng = "2w"
min_free = "5GB"
""",
    )
    (station,) = config.stations
    assert station.recipes == {2: tmp_path / "blue.patchbank"}
    assert station.plc.options.peers == ("192.168.1.10",)
    assert (config.policy.days["ok"], config.policy.days["ng"], config.policy.min_free) == (0.5, 14.0, 5 * 10**9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("data =", "dat ="), "unknown option 'dat' at the top of the file; did you mean data?"),
        (('data = "journal"', ""), "data: expected the folder"),
        (("model =", "modle ="), "unknown option 'modle' in [station.cap]; did you mean model?"),
        (("path =", "folder ="), "unknown option 'folder' in [station.cap.camera]"),
        (("path =", "PATH ="), "unknown option 'PATH' in [station.cap.camera]"),
        (('kind = "folder"', 'kind = "floder"'), "[station.cap.camera] kind: expected one of folder"),
        (("cap.patchbank", "cap.onnx"), "[station.cap] model: expected a file that ends in .patchbank"),
        (("[station.cap", "[station.'a/b'"), "expected a name of up to 64 letters"),
        (("", '[retain]\nok = "7"\n'), '[retain] ok: expected a number of days, hours or weeks, as "7d"'),
        (("", '[retain]\nmin_free = "5"\n'), "[retain] min_free: expected a size with its unit"),
        (("", "[retain]\nok = 7\n"), "[retain] ok: expected str; got 7"),
        (("", '[station.cap.plc]\nkind = "modbus"\nlisten = "0.0.0.0:1502"\n'), "name who may connect"),
        (("", '[station.cap.plc]\nkind = "modbus"\npassword = "x"\n'), "a secret does not stand in this file"),
        (("", '[station.cap.plc]\nkind = "modbus"\npeers = ["10.0.0.300"]\n'), "expected addresses or networks"),
        (("", '[station.cap.recipes]\nblue = "b.patchbank"\n'), "expected a number from 1"),
        (('path = "inbox"', 'path = "inbox"\nsettle_ms = 1'), "settle_ms: expected at least 50"),
        (("", "[sink]\nkind = 'x'\n"), "expected [[sink]]"),
        (("[station.cap.camera]", "[station.cap.cam]"), "unknown option 'cam' in [station.cap]"),
        ((MINIMAL, 'data = "x"\n'), "station: expected at least one table"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, message):
    before, after = change
    text = MINIMAL.replace(before, after) if before else MINIMAL + after
    with pytest.raises(ConfigError) as error:
        of(tmp_path, text)
    assert message in str(error.value)


def test_units():
    assert [days(text, "x") for text in ("7d", "12h", "1.5 w")] == [7.0, 0.5, 10.5]
    assert [size(text, "x") for text in ("500MB", "1.5GB", "2 TB")] == [500 * 10**6, 1500 * 10**6, 2 * 10**12]
    for wrong in ("", "d", "-1d", "7 days", "1e3d", "7D", "inf d"):
        with pytest.raises(ConfigError, match="x: expected"):
            days(wrong, "x")
    for wrong in ("5", "5gb", "5GiB", "-5GB", "٥GB"):
        with pytest.raises(ConfigError, match="x: expected"):
            size(wrong, "x")
