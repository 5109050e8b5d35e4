"""The exception tree. Every message says what was expected, what was got and what to do.

    PatchbankError                exit code
    ├── ConfigError               2   an option has an unknown name or an impossible value
    ├── ImageError                3   an image cannot be read or used
    ├── DatasetError              3   a folder or CSV holds no usable images, or is laid out unexpectedly
    ├── BackboneError             4   a network cannot be built, loaded or run
    │   ├── CheckpointError       4   a checkpoint file is damaged, or asks for something that is not allowed
    │   └── WeightsNotFoundError  4   the weights are not on this machine; the message says how to get them
    ├── ModelFileError            5   a .patchbank file is damaged, too new, or not one at all
    ├── MissingExtraError         6   an optional dependency is missing; the message holds the install command
    ├── OutputError               7   a result cannot be written (full disk, no permission)
    ├── CameraError              10   a camera does not answer, or gives no usable picture
    ├── SelfTestError             9   a model does not score its own images as it did: it must not judge parts here
    ├── Busy                     70   an inspector takes no more images at the moment; no command meets it
    └── StoreError                8   the service's data folder or database cannot be used
        ├── StoreBusyError        8   more is waiting to be written than may wait: try again in a moment
        ├── StoreFullError        8   the disk is full; nothing of this request was kept
        ├── StoreUnavailableError 8   the database does not answer, or went away meanwhile: try again
        ├── StoreNotFoundError    8   there is no such row
        ├── StoreConflictError    8   what is there already forbids it
        └── StoreValueError       2   a value that the store does not keep

The exit codes are those of the command line. Code 1 is kept for `predict --fail-on-anomaly`, `drift --fail-on-drift`
and `audit-log verify`, 130 for Ctrl-C, 70 for what nobody foresaw. A batch goes on after an error of one image or one
file; then its code is 1 if an anomaly was asked for and found, else the largest one of the errors that it met, else 0.
"""

from __future__ import annotations


class PatchbankError(Exception):
    """Base of every error that patchbank raises on purpose."""

    exit_code = 70


class ConfigError(PatchbankError, ValueError):
    """An option has an unknown name or an impossible value."""

    exit_code = 2


class ImageError(PatchbankError, ValueError):
    """An image cannot be read or used."""

    exit_code = 3


class DatasetError(PatchbankError, ValueError):
    """A folder or CSV holds no usable images, or is laid out unexpectedly."""

    exit_code = 3


class BackboneError(PatchbankError):
    """A network cannot be built, loaded or run."""

    exit_code = 4


class CheckpointError(BackboneError):
    """A checkpoint file is damaged, or asks for something that is not allowed."""


class WeightsNotFoundError(BackboneError):
    """The weights are not on this machine; the message says how to get them."""


class ModelFileError(PatchbankError):
    """A .patchbank file is damaged, too new, or not one at all."""

    exit_code = 5


class MissingExtraError(PatchbankError, ImportError):
    """An optional dependency is missing; the message holds the command that installs it."""

    exit_code = 6


class OutputError(PatchbankError, OSError):
    """A result cannot be written."""

    exit_code = 7


class Busy(PatchbankError):  # noqa: N818  (what a service answers; nothing has gone wrong)
    """An inspector takes no more images at the moment; try again when it has finished some."""


class SelfTestError(PatchbankError):
    """A model does not score its own images as it did when it was made, or has none to prove it with."""

    exit_code = 9


class CameraError(PatchbankError):
    """A camera of a line does not answer, or gives no usable picture."""

    exit_code = 10


class StoreError(PatchbankError):
    """The service's data folder or database cannot be used."""

    exit_code = 8
    retry = False  # whether the same request may succeed a moment later; a write that raised was not acknowledged


class StoreBusyError(StoreError):
    """More is waiting to be written than may wait; try again in a moment."""

    retry = True


class StoreFullError(StoreError):
    """The disk is full, and nothing of the request was kept."""

    retry = True


class StoreUnavailableError(StoreError):
    """The database does not answer, or went away before it had confirmed a write; try again."""

    retry = True


class StoreNotFoundError(StoreError):
    """There is no such row in the store."""


class StoreConflictError(StoreError):
    """What is in the store already forbids it: a name that is taken, another state, the last administrator."""


class StoreValueError(StoreError, ValueError):
    """A value that the store does not keep: too long, unknown, or not allowed there."""

    exit_code = 2
