"""The options of [station.NAME.camera], by kind."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from patchbank import ConfigError
from patchbank.config import option
from patchbank.validation import names_checked, validate


@names_checked
@dataclass(frozen=True, kw_only=True)
class FolderCameraOptions:
    """kind = "folder": every file that comes into a folder is a part, and its name without the ending the part's id."""

    path: str = option("", "The folder that is watched", group="camera")
    settle_ms: int = option(
        500,
        "A file is taken when it was renamed into the folder, or when nobody has changed it for so long",
        group="camera",
        low=50,
        high=60_000,
    )
    done: str = option(
        "done", "Folder for files whose record is on the disk; inside of path, unless it is absolute", group="camera"
    )
    bad: str = option("bad", "The same for files that could not be inspected", group="camera")

    def __post_init__(self) -> None:
        validate(self)
        if not self.path:
            raise ConfigError('path: expected the folder that is watched, as path = "inbox"; got none')


@names_checked
@dataclass(frozen=True, kw_only=True)
class FakeCameraOptions:
    """kind = "fake": shows the images of a folder in turn, and fails as cameras do, to try a line out."""

    images: str = option("", "Folder of at least two images", group="camera")
    faults: tuple[str, ...] = option(
        (),
        "What goes wrong: some of hang, exception, frozen, stale, black, torn, incomplete, dies",
        group="camera",
    )
    fault_rate: float = option(
        0.0, "With so large a share of the pictures, one of the faults happens", group="camera", low=0.0, high=1.0
    )
    hang_ms: int = option(5000, "How long it hangs, or is dead", group="camera", low=1, high=3_600_000)
    seed: int = option(0, "Seed of the faults", group="camera", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        validate(self)
        known = ("hang", "exception", "frozen", "stale", "black", "torn", "incomplete", "dies")
        for each in self.faults:
            if each not in known:
                raise ConfigError(f"faults: expected some of {', '.join(known)}; got {each!r}")
        if not self.images:
            raise ConfigError('images: expected a folder of images, as images = "parts"; got none')


@names_checked
@dataclass(frozen=True, kw_only=True)
class OpenCvOptions:
    """kind = "opencv": USB cameras, RTSP streams and video files. A trigger gets the first frame that was taken after
    it; frames of before are never judged."""

    device: str = option("", "Number of a USB camera, as 0; rtsp:// address; or path of a video file", group="camera")
    every_frame: bool = option(False, "Each frame is a part, and none is left out: for video files", group="camera")
    width: int | None = option(None, "Width to ask the camera for, in pixels", group="camera", low=1, high=100_000)
    height: int | None = option(None, "Height to ask the camera for, in pixels", group="camera", low=1, high=100_000)
    frame_rate: float | None = option(
        None, "Frames a second to ask the camera for", group="camera", low=0.0, low_open=True, high=10_000.0
    )
    username_file: str = option("", "File of two lines: name and password of an RTSP stream", group="camera")

    def __post_init__(self) -> None:
        validate(self)
        if not self.device:
            raise ConfigError(
                'device: expected a camera\'s number, an address or a video file, as device = "0"; got none'
            )
        if "@" in urlsplit(self.device).netloc:
            raise ConfigError("device: expected an address without a password, which many can read; use username_file")


@names_checked
@dataclass(frozen=True, kw_only=True)
class AravisOptions:
    """kind = "aravis": GigE Vision and USB3 Vision cameras, by Aravis 0.8 (Debian: libaravis-0.8-0)."""

    device: str = option("", "Address, serial number or name of the camera; empty = the first one", group="camera")
    trigger: str = option(
        "software",
        "What takes a picture: the station's trigger, the camera's own input, or the camera by itself all the time",
        group="camera",
        choices=("software", "hardware", "free"),
    )
    trigger_source: str = option("Line1", "The camera's input, for hardware", group="camera")
    exposure_us: float | None = option(
        None, "Exposure in microseconds; unset = the camera's own", group="camera", low=0.0, low_open=True, high=1e9
    )
    gain: float | None = option(None, "Gain; unset = the camera's own", group="camera", low=-1e6, high=1e6)
    frame_rate: float | None = option(
        None, "Pictures a second, for free", group="camera", low=0.0, low_open=True, high=10_000.0
    )
    pixel_format: str = option(
        "", "As the standard names it: Mono8, Mono12p, BayerRG8, RGB8, ...; empty = the camera's own", group="camera"
    )

    def __post_init__(self) -> None:
        validate(self)
