"""A fit in 8 bits begins here: the network's activations are measured on some of the training images, as the network
will see them, and the network is quantised. Everything after (bank, calibration, inspection) uses the quantised one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np

from patchbank.arrays import FloatArray
from patchbank.backbones import Backbone, precision_of
from patchbank.backbones.quantisation import Meter, network_of, quantised
from patchbank.backbones.session import OnnxBackbone
from patchbank.config import Config
from patchbank.errors import ConfigError, DatasetError, ImageError, PatchbankError
from patchbank.features.extract import patches_of, taken
from patchbank.imaging.images import read_image
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource, unnamed
from patchbank.util.parallel import in_order
from patchbank.util.progress import Progress

IMAGES = 32  # that are measured; docs/adr/0016 has what more would change
SHARE = 0.1  # of the memory budget, for images of an iterator, which are kept until they are embedded

Measured = list[list[FloatArray]]


def at_precision(
    network: Backbone,
    images: Iterable[ImageSource],
    config: Config,
    roi: Roi | None,
    budget: int,
    skip_unreadable: bool,
    progress: Progress,
) -> tuple[Backbone, Iterable[ImageSource]]:
    """The network as `config.precision` says, and all the images. Raises ConfigError for a precision that there is not,
    and what `in_eight_bits` raises."""
    if config.precision == precision_of(network):
        return network, images
    if config.precision == "int8" and isinstance(network, OnnxBackbone):
        return in_eight_bits(network, images, config, roi, budget, skip_unreadable, progress)
    raise ConfigError(f"precision: expected float32 or int8 (the fit resolves 'auto' first); got {config.precision!r}")


def in_eight_bits(
    network: OnnxBackbone,
    images: Iterable[ImageSource],
    config: Config,
    roi: Roi | None,
    budget: int,
    skip_unreadable: bool,
    progress: Progress,
) -> tuple[Backbone, Iterable[ImageSource]]:
    """The quantised network, and all the images. A list's are drawn by the config's seed; of an iterator the first ones
    are measured. Images that cannot be used are passed over: the fit will meet them again, and name them. Raises
    BackboneError for a network that cannot be quantised; DatasetError if none of an iterator's first images can be
    used, and the fit would go on without them."""
    import onnx

    parts = network_of(onnx.load_model_from_string(network.to_onnx()))
    meter = Meter(network, parts)
    drawn, images = _drawn(images, config.seed, SHARE * budget)
    measured: Measured = []
    found = 0
    for each in in_order(lambda source: _measured(source, meter, config, roi), drawn):
        progress("quantise", found, IMAGES)
        measured += each
        found += bool(each)
        if found == IMAGES:
            break
    progress("quantise", IMAGES, IMAGES)
    if not measured:  # the fit will end for this reason, too, and say which image it was
        if skip_unreadable and isinstance(images, chain):
            raise DatasetError("precision = 'int8': expected usable images first, to measure the network on; got none")
        return network, images
    return OnnxBackbone(quantised(parts, measured, network.info), network.info, network.runtime), images


def _measured(source: ImageSource, meter: Meter, config: Config, roi: Roi | None) -> Measured:
    """What a meter notes of an image; nothing of one that cannot be used."""
    mine = meter.for_image()
    try:
        patches_of(read_image(source, config.image_format), mine, config, roi)
    except ImageError:
        return []
    except (PatchbankError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (whatever one odd image raises: the fit will meet it again, and name it)
        return []
    return mine.measured


def _drawn(
    images: Iterable[ImageSource], seed: int, most_bytes: float
) -> tuple[Iterable[ImageSource], Iterable[ImageSource]]:
    """The images to measure, in order, as far as they are needed; and all the images, of which an iterator's are read
    once only."""
    if isinstance(images, (list, tuple)):
        order = np.random.default_rng([seed, 2]).permutation(len(images))
        return (images[n] for n in order.tolist()), images
    rest = iter(taken(images))
    first: list[ImageSource] = []
    held = 0
    for image in rest:
        first.append(image)
        held += _size(image)
        if held > most_bytes or len(first) == IMAGES:
            break
    return first, chain(first, rest)


def _size(image: ImageSource) -> int:
    """Bytes that an image takes until it is embedded; a path takes none."""
    content = unnamed(image)
    return int(getattr(content, "nbytes", 0)) or (len(content) if isinstance(content, bytes) else 0)
