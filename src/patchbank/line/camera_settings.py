"""The options of [station.NAME.camera], by kind."""

from __future__ import annotations

from dataclasses import dataclass

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
