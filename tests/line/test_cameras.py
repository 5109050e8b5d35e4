"""Cameras: pixels by the standards' closed forms, frames that are new, a real GigE Vision peer, cameras of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from parts import striped
from patchbank import CameraError, ConfigError
from patchbank.line.cameras.lag import Lag
from patchbank.line.cameras.opencv import OpenCvCamera
from patchbank.line.cameras.pixel_formats import FORMATS, image_of
from patchbank.line.kinds import CAMERAS, chosen

CODES = {each.name: each.code for each in FORMATS.values()}


@pytest.mark.parametrize(
    ("name", "data", "values"),
    [
        ("Mono8", [0, 255], [0, 255]),
        ("Mono10", [0xFF, 0x03, 0x01, 0x00], [1023, 1]),
        ("Mono12", [0xBC, 0x0A, 0xFF, 0x0F], [0xABC, 4095]),
        ("Mono16", [0x34, 0x12, 0xFF, 0xFF], [0x1234, 65535]),
        ("Mono12Packed", [0xAB, 0xFC, 0xDE], [0xABC, 0xDEF]),
        ("Mono10Packed", [0b10110011, 0b00100001, 0b11110000], [0b1011001101, 0b1111000010]),
        ("Mono12p", [0xBC, 0xFA, 0xDE], [0xABC, 0xDEF]),
        ("Mono10p", [0xFF, 0x07, 0x00, 0x00, 0xFF], [1023, 1, 0, 1020]),
    ],
)
def test_pixels_are_unpacked_as_the_standard_says(name, data, values):
    image, white = image_of(bytes(data), CODES[name], len(values), 1)
    assert image.tolist() == [values]
    assert white == {"8": 255, "10": 1023, "12": 4095, "16": 65535}["".join(c for c in name if c.isdigit())]


@pytest.mark.parametrize("name", ["Mono12Packed", "Mono12p", "Mono10Packed", "Mono10p"])
def test_an_odd_number_of_pixels_is_unpacked(name):
    form = FORMATS[CODES[name]]
    image, white = image_of(b"\xff" * form.size(9), form.code, 3, 3)
    assert (image == white).all()


@pytest.mark.parametrize("bits", ["8", "10", "12", "12Packed", "12p", "10p"])
@pytest.mark.parametrize(("pattern", "red"), [("RG", (0, 0)), ("GR", (0, 1)), ("GB", (1, 0)), ("BG", (1, 1))])
def test_bayer_patterns_are_named_by_their_first_row(pattern, red, bits):
    """A scene of red alone: only the red pixels have light."""
    form = FORMATS[CODES[f"Bayer{pattern}{bits}"]]
    values = np.zeros((8, 8), np.uint64)
    values[red[0] :: 2, red[1] :: 2] = form.white
    image, white = image_of(packed(values.reshape(-1), form), form.code, 8, 8)
    assert image[4, 4].tolist() == [white, 0, 0]


def packed(values, form) -> bytes:
    if form.layout == "plain":
        return values.astype(np.uint8 if form.bits == 8 else "<u2").tobytes()
    if form.layout == "packed":
        low = form.bits - 8
        pairs = [(int(a), int(b)) for a, b in values.reshape(-1, 2)]
        mask = (1 << low) - 1
        return bytes(byte for a, b in pairs for byte in (a >> low, (a & mask) | (b & mask) << 4, b >> low))
    whole = sum(int(value) << form.bits * number for number, value in enumerate(values))
    return whole.to_bytes(form.size(len(values)), "little")


def test_colours_come_as_rgb_and_are_a_copy():
    data = bytearray([1, 2, 3])
    rgb, _ = image_of(memoryview(data), CODES["RGB8"], 1, 1)
    bgr, _ = image_of(memoryview(data), CODES["BGR8"], 1, 1)
    mono, _ = image_of(memoryview(data), CODES["Mono8"], 3, 1)
    data[:] = b"\0\0\0"  # the driver uses its buffer again
    assert (rgb.tolist(), bgr.tolist(), mono.tolist()) == ([[[1, 2, 3]]], [[[3, 2, 1]]], [[1, 2, 3]])


def test_what_a_camera_may_send_wrong_is_an_error():
    with pytest.raises(CameraError, match="the camera sends 0x00000001"):
        image_of(b"x" * 100, 1, 2, 2)
    with pytest.raises(CameraError, match="expected 4 bytes"):
        image_of(b"xyz", CODES["Mono8"], 2, 2)
    with pytest.raises(CameraError, match="0x5"):
        image_of(b"xyz", CODES["Mono8"], 0, 5)


def test_frames_after_a_stop_are_old_until_the_stream_has_caught_up():
    lag = Lag()
    assert [round(lag.of(10 + number / 10, number / 10), 6) for number in range(5)] == [0.0] * 5
    burst = [lag.of(12.5, position / 10) for position in (5, 6, 7)]  # two seconds of standing still
    assert [round(each, 6) for each in burst] == [2.0, 1.9, 1.8]
    assert lag.of(12.6, 2.6) == pytest.approx(0.0)
    assert lag.of(12.7, -1.0) == 0.0


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "parts.avi"
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for _ in range(5):
        writer.write(striped(rng)[:, :, ::-1])
    writer.release()
    return path


def test_each_frame_of_a_video_is_a_part(video):
    camera = OpenCvCamera(str(video), every_frame=True)
    assert "128x96" in camera.open()
    frames = [camera.grab(1.0) for _ in range(5)]
    assert camera.grab(0.0) is None
    assert camera.is_empty
    assert [each.number for each in frames] == [1, 2, 3, 4, 5]
    read, capture = [], cv2.VideoCapture(str(video))
    while (got := capture.read())[0]:
        read.append(got[1][:, :, ::-1])
    assert all((frame.image == each).all() for frame, each in zip(frames, read, strict=True))
    camera.close()
    camera.close()


def until_it_fails(camera) -> None:
    for _ in range(100):
        camera.grab(1.0)


class Live:
    """A capture that gives a frame each 10 ms, into the same buffer, until it is told to stop."""

    def __init__(self) -> None:
        self.buffer, self.count, self.stopped = np.zeros((8, 8, 3), np.uint8), 0, False

    def read(self):
        time.sleep(3600 if self.stopped == "hangs" else 0.01)
        self.count += 1
        self.buffer[:] = self.count % 256
        return (self.stopped is not True, self.buffer)

    def set(self, *_):
        return True

    def get(self, _):
        return 0.0

    def isOpened(self):  # noqa: N802
        return True

    def getBackendName(self):  # noqa: N802
        return "LIVE"

    def release(self):
        self.released = True


def test_a_trigger_gets_a_frame_of_after_it_and_a_camera_that_ends_is_an_error(monkeypatch):
    live = Live()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: live)
    camera = OpenCvCamera("0")
    camera.open()
    time.sleep(0.1)
    asked = time.monotonic()
    frame = camera.grab(5.0)
    kept = frame.image.copy()
    assert frame.taken >= asked
    assert camera.grab(5.0).number > frame.number
    assert (frame.image == kept).all(), "the driver's buffer is another one"
    live.stopped = True
    with pytest.raises(CameraError, match="no more frames"):
        until_it_fails(camera)
    camera.close()
    assert live.released


def test_a_camera_that_gives_nothing_any_more_is_an_error(monkeypatch):
    live = Live()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: live)
    monkeypatch.setattr("patchbank.line.cameras.opencv._SILENCE", 0.2)
    monkeypatch.setattr("patchbank.line.cameras.opencv._READ_MS", 1)
    camera = OpenCvCamera("0")
    camera.open()
    assert camera.grab(5.0)
    live.stopped = "hangs"
    with pytest.raises(CameraError, match="no frame has come"):
        until_it_fails(camera)
    camera.close()


def test_a_password_does_not_stand_in_the_file():
    table = {"kind": "opencv", "device": "rtsp://user:secret@10.0.0.5/stream"}
    with pytest.raises(ConfigError, match="use username_file") as error:
        chosen(table, CAMERAS, "station.cap.camera")
    assert "secret" not in str(error.value)


def test_a_device_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CameraError, match="cannot open it"):
        OpenCvCamera(str(tmp_path / "none.avi")).open()


# --- GigE Vision ---


@pytest.fixture
def gige():
    """Debian's fake GigE Vision camera, on this machine; a function that starts it, and one that ends it."""
    program = shutil.which("arv-fake-gv-camera-0.8")
    if program is None:
        pytest.skip("Debian's arv-fake-gv-camera is not installed: apt install aravis-tools")
    running: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        running.append(subprocess.Popen([program, "-i", "127.0.0.1", "-s", "GV7"], stdout=subprocess.DEVNULL))
        time.sleep(0.5)
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.wait()


def opened(camera, patience: float = 15.0):
    end = time.monotonic() + patience
    while True:
        try:
            return camera.open()
        except CameraError:
            camera.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def whole(camera):
    """A frame of which nothing was lost on the way, as happens on a machine that is busy."""
    for _ in range(30):
        asked = time.monotonic()
        frame = camera.grab(5.0)
        assert frame.taken >= asked
        if frame.complete:
            return frame
    raise AssertionError("no frame was whole")


def test_a_gige_camera_is_triggered_and_comes_back_after_it_was_gone(gige):
    from patchbank.line.cameras.aravis import AravisCamera

    peer = gige()
    camera = AravisCamera("127.0.0.1", exposure_us=2000.0)
    assert "software trigger" in opened(camera)
    frames = [whole(camera) for _ in range(3)]
    assert all(each.image.dtype == np.uint8 and each.white == 255 for each in frames)
    assert len({each.image.tobytes() for each in frames}) == 3
    peer.kill()
    peer.wait()
    with pytest.raises(CameraError):
        until_it_fails(camera)
    leaving = threading.Thread(target=camera.close, daemon=True)  # Aravis asks the one that is gone for seconds
    leaving.start()
    gige()
    again = AravisCamera("127.0.0.1")
    opened(again)
    assert whole(again)
    again.close()


def test_a_gige_camera_runs_free_and_a_trigger_gets_a_picture_of_after_it(gige):
    from patchbank.line.cameras.aravis import AravisCamera

    gige()
    camera = AravisCamera("127.0.0.1", trigger="free", frame_rate=20.0)
    opened(camera)
    time.sleep(0.3)
    for _ in range(2):
        asked = time.monotonic()
        frame = camera.grab(5.0)
        assert frame.taken >= asked
    camera.close()


def test_a_format_that_the_gige_camera_does_not_have_is_an_error(gige):
    from patchbank.line.cameras.aravis import AravisCamera

    gige()
    camera = AravisCamera("127.0.0.1", pixel_format="Mono77")
    with pytest.raises(CameraError, match="set pixel format"):
        opened(camera, 0.0)
    camera.close()


# --- cameras of others ---


def test_the_example_of_a_vendors_camera_is_found_and_gives_frames(tmp_path):
    """In a process of its own, with the example on its path as if it were installed."""
    example = Path(__file__).parents[2] / "examples" / "camera_plugin"
    shutil.copytree(example, tmp_path / "site")
    about = tmp_path / "site" / "example_camera-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: example-camera\nVersion: 1.0\n")
    points = "[patchbank.cameras]\nexample = example_camera:ExampleCamera\n"
    assert 'example = "example_camera:ExampleCamera"' in (example / "pyproject.toml").read_text()
    (about / "entry_points.txt").write_text(points)
    code = """
from patchbank.line.kinds import CAMERAS, chosen
camera = chosen({"kind": "example", "serial": "A1"}, CAMERAS, "station.cap.camera", others=True).make()
print(camera.open())
first, second = camera.grab(1.0), camera.grab(1.0)
assert second.number == first.number + 1 and (first.image != second.image).any()
camera.close()
try:
    chosen({"kind": "none"}, CAMERAS, "station.cap.camera", others=True)
except Exception as error:
    print(error)
"""
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tmp_path / 'site'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "A1" in done.stdout
    assert "expected one of folder, opencv, aravis, fake, example; got 'none'" in done.stdout
