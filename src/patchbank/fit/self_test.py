"""Which training images a model keeps for its self-test, and how they are scored.

The pictures are kept as the network gets them, and scored on the way of any image: network, embedding, search, score.
A fit meets each image once, so it keeps a small sample of them until their scores are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from patchbank.arrays import Array, FloatArray
from patchbank.features.extract import Keep, patches_of_resized
from patchbank.fitted.model import FittedModel
from patchbank.fitted.self_test import SelfTestImage, fits
from patchbank.fitted.versions import images_of
from patchbank.imaging import lossless
from patchbank.imaging.images import fingerprint
from patchbank.scoring.scores import judged
from patchbank.util.parallel import one_blas_thread, one_image

IMAGES = 4  # that a model keeps
FILE_BYTES = 8 << 20  # that their pictures may take in the model file, but for the first
_CANDIDATES = 16  # that a fit keeps, of which the scores then choose
_BYTES, _SHARE = 32 << 20, 0.02  # that these may take beyond IMAGES, at most, and of the memory budget
_LAST = 2**63 - 1


class Kept(NamedTuple):
    """A picture as the network gets it, (H', W', 3 G), and a number that follows from the image and the seed."""

    key: int
    picture: Array


class ImageSample:
    """A seeded sample of at most `most` of the images that are offered: those with the smallest keys. It depends on the
    pictures alone, not on their order, and equal ones are in it once.

    budget: bytes that a fit may take; pictures beyond the first IMAGES are held only while they fit a small share.
    """

    def __init__(self, seed: int, budget: int, most: int = _CANDIDATES) -> None:
        self._seed, self._most, self._bytes = seed, most, min(_BYTES, int(_SHARE * budget))
        self._held: dict[int, tuple[int, Array]] = {}  # key -> number and picture
        self._limit = _LAST if most else 0

    def keeping(self, resize: Callable[[Array], Array]) -> Keep:
        """Returns what `described` asks of an image: what `offer` takes, or None for one that will not be kept."""
        seed = self._seed.to_bytes(8, "little", signed=True)

        def keep(image: Array) -> Kept | None:
            digest = hashlib.blake2b(fingerprint(image), digest_size=8, key=seed).digest()
            key = int.from_bytes(digest, "little") >> 1
            return Kept(key, resize(image)) if key < self._limit else None

        return keep

    def offer(self, number: int, kept: Kept | None) -> None:
        """Takes image number `number`, or not."""
        if kept is None or kept.key in self._held:
            return
        self._held[kept.key] = (number, kept.picture)
        while len(self._held) > self._most or (len(self._held) > IMAGES and self._size() > self._bytes):
            del self._held[max(self._held)]
            self._limit = max(self._held, default=0)

    def kept(self, number: int) -> Kept | None:
        """Returns what was offered as image `number`, if it is in the sample."""
        return next((Kept(key, picture) for key, (n, picture) in self._held.items() if n == number), None)

    def pictures(self) -> dict[int, Array]:
        """The pictures by their images' numbers, in the order of their keys."""
        return {number: picture for _, (number, picture) in sorted(self._held.items(), key=lambda each: each[0])}

    def state(self) -> dict[str, Array]:
        """All that `restore` needs."""
        about = [[key, number] for key, (number, _) in self._held.items()]
        pictures = {f"sampled_{number}": picture for number, picture in self._held.values()}
        return {"sampled": np.array([[self._limit, -1], *about], np.int64), **pictures}

    def restore(self, state: Mapping[str, Array], images: int) -> None:
        """Goes on from a state after so many images. Raises ValueError for one that cannot be."""
        (self._limit, _), *about = state["sampled"].tolist()
        for key, number in about:
            picture = state[f"sampled_{number}"]
            if picture.ndim != 3 or picture.dtype not in (np.uint8, np.float32) or not 0 <= number < images:
                raise ValueError("its sample of images cannot be")
            self._held[key] = (number, picture)

    def _size(self) -> int:
        return sum(picture.nbytes for _, picture in self._held.values())


class Measured(NamedTuple):
    """What a model makes of a picture; the fields of `SelfTestImage`."""

    score: float
    length: float
    distances: FloatArray


@one_image()
@one_blas_thread()
def measured(model: FittedModel, picture: Array) -> Measured:
    """The picture, (H', W', 3 G), on the way of every image that is inspected. What the score is re-weighted by jumps
    where two vectors are equally near, so the largest patch score stands for a re-weighted one."""
    config, bank = model.config, model.bank
    patches = patches_of_resized(picture, (picture.shape[0], picture.shape[1]), model.backbone, config, model.roi, {})
    found = judged(patches, bank.vectors, bank.expected, model.searcher, config, {})
    score = float(found.scores.max()) if config.image_score == "reweighted" else found.score
    squares = np.einsum("nd,nd->n", patches.features, patches.features)  # (n, D) -> (n,)
    return Measured(score, float(np.sqrt(squares.mean(dtype=np.float64))), patches.on_grid(found.distances))


def first_images(model: FittedModel, pictures: Mapping[int, Array]) -> tuple[SelfTestImage, ...]:
    """A fitted model's images: of the pictures, by number, those with the highest and the lowest left-out score, then
    others in their order."""
    calibration, names = model.calibration, model.bank.images
    known = dict(zip(calibration.images, calibration.scores.tolist(), strict=True)) if calibration else {}
    scored = sorted((n for n in pictures if names[n] in known), key=lambda n: (known[names[n]], n))
    order = dict.fromkeys([*scored[-1:], *scored[:1], *pictures])
    return _filled(model, (), ((number, pictures[number]) for number in order))


def renewed(model: FittedModel, more: Iterable[tuple[int, Array]]) -> tuple[SelfTestImage, ...]:
    """The images of a model whose bank has changed, with the scores that it gives them now: those of before that are
    still training images, and `more` (number and picture) while there is room."""
    current = images_of(model.versions)[-1]
    kept = []
    for each in model.self_test_images:
        if each.image in current:
            picture = lossless.decoded(each.picture, model.config.groups)
            kept.append(SelfTestImage(each.image, each.picture, *measured(model, picture)))
    return _filled(model, kept, ((number, picture) for number, picture in more if number in current))


def _filled(
    model: FittedModel, kept: Iterable[SelfTestImage], more: Iterable[tuple[int, Array]]
) -> tuple[SelfTestImage, ...]:
    images = {each.image: each for each in kept}
    size = sum(len(each.picture) for each in images.values())
    for number, picture in more if len(images) < IMAGES else ():
        if number not in images and picture.nbytes <= lossless.MAX_BYTES and fits(model.config, picture.shape[:2]):
            data = lossless.encoded(picture)
            if not images or size + len(data) <= FILE_BYTES:
                images[number] = SelfTestImage(number, data, *measured(model, picture))
                size += len(data)
        if len(images) == IMAGES:
            break
    return tuple(images[number] for number in sorted(images))
