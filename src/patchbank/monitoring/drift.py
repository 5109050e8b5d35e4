"""Have the scores of normal images shifted since the fit? Sequential tests over a stream of predictions, in order.

Each test asks one yes-or-no question of every image, to which images like the training images say yes with a
probability of at most a known bound: is the score over the median of normal scores (level, and likewise under it), over
the threshold (flagged), is the image out of distribution (scene)? It bets against that bound: its capital is
multiplied by q / bound after a yes and by (1 - q) / (1 - bound) after a no, for a mixture of q above the bound and of
places at which the shift may have begun. While the bound holds, the capital is a nonnegative supermartingale that
starts at 1, so it ever exceeds c with probability at most 1 / c, however long the stream (Ville 1939; for bets on
conformal p-values, Vovk et al. 2003).

The bound is not known exactly either: it is an upper confidence limit from the calibration scores. Half of the allowed
error goes to it, half to the bets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchbank.arrays import Array, BoolArray, DoubleArray, FloatArray, IndexArray
from patchbank.calibration.image_check import ImageCheck, widening
from patchbank.calibration.thresholds import Calibration, upper_bound
from patchbank.errors import ConfigError
from patchbank.util.wording import brief

LEAST_REFERENCE = 20  # images of the stream to compare with
ODDS = 16  # alternatives above the bound
_LARGEST = 0.995  # of their probabilities
PLACES = 2.12  # more than the sum of 1 / (k ln(k)^2) over k >= 2


@dataclass(frozen=True)
class Shift:
    """The finding of one test. Numbers of images count from 0.

    test: 'level', 'flagged' or 'scene'. direction: 'up' or 'down' (level only). reference: compared with the
    'calibration' or with the stream's 'start' (level only). found: whether it gave an alarm.
    images: how many it saw. share: of them, the share that said yes. bound: the largest share that good images explain.
    evidence: the largest capital; the alarm is at `limit`. detected: the image that brought the alarm, or None. start,
    stop: the images that show it best are start <= number < stop; None without an alarm. showing: those of them that
    said yes.
    """

    test: str
    direction: str
    reference: str
    found: bool
    images: int
    share: float
    bound: float
    evidence: float
    limit: float
    detected: int | None
    start: int | None
    stop: int | None
    showing: tuple[int, ...]

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without `showing`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "showing"}


@dataclass(frozen=True)
class Drift:
    """The findings of all tests, and advice. found: whether the level or the scene has shifted; more flagged images
    alone are no drift, but may be defects."""

    images: int
    level: Shift
    flagged: Shift
    scene: Shift | None
    advice: tuple[str, ...]

    __repr__ = brief

    @property
    def found(self) -> bool:
        """True if normal images have changed."""
        return self.level.found or (self.scene is not None and self.scene.found)

    @property
    def tests(self) -> tuple[Shift, ...]:
        """All tests that were made."""
        return (self.level, self.flagged, *((self.scene,) if self.scene else ()))


def find_drift(
    scores: Sequence[float] | Array,
    calibration: Calibration,
    *,
    in_scene: Sequence[bool | None] = (),
    scene: ImageCheck | None = None,
    confidence: float = 0.99,
    defects: float = 0.1,
    reference: int = 100,
) -> Drift:
    """Tests the image scores of a stream, in order, against a model's calibration, and `in_scene` against its scene.

    Without drift, each test stays silent with probability at least `confidence`, over the choice of the training images
    and the whole stream. defects: the share of images (0..0.8) that may be odd in either direction without being a
    shift of the level. reference: so many of the stream's first images (but at most half of them) are what the level of
    later ones is compared with, beside the calibration; 0 = none. Raises ConfigError for an impossible value.
    """
    values = np.asarray(scores, np.float32)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ConfigError("drift: expected a list of finite scores")
    check_promise(confidence, defects, reference)
    if in_scene and len(in_scene) != len(values):
        raise ConfigError(f"drift: expected in_scene for {len(values)} images; got {len(in_scene)}")
    error = 1 - confidence
    asked = level_questions(calibration, error, defects, values[: min(reference, len(values) // 2)])
    level = _shift("level", [_Side(each, each.of(values)) for each in asked], error)
    over = flagged_question(calibration, error)
    flagged = _shift("flagged", [_Side(over, over.of(values))], error)
    strange = None
    if scene and any(known is not None for known in in_scene):
        seen = np.flatnonzero([known is not None for known in in_scene])
        outside = np.array([known is False for known in in_scene])[seen]
        strange = _renumbered(_shift("scene", [_Side(scene_question(scene, error), outside)], error), seen)
    return Drift(len(values), level, flagged, strange, advice_on(level, flagged, strange))


def check_promise(confidence: float, defects: float, reference: int) -> None:
    """Raises ConfigError for an impossible value of what `find_drift` takes."""
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence: expected at least 0.5 and less than 1; got {confidence!r}")
    if not 0 <= defects <= 0.8:
        raise ConfigError(f"defects: expected a share between 0 and 0.8; got {defects!r}")
    if reference < 0:
        raise ConfigError(f"reference: expected a number of images; got {reference!r}")


def exceedance_bound(scores: Array, cut: float, error: float) -> float:
    """The share of all normal images that lie over `cut` is at most this, but for a probability of `error` over the
    draw of the (n,) normal scores: the upper limit of Clopper and Pearson (1934). cut: one of the scores, or larger."""
    return upper_bound(len(scores), int(np.count_nonzero(scores > np.float32(cut))), 1 - error)


@dataclass(frozen=True)
class Question:
    """Is an image's score, times `sign`, over `middle`? Asked of every image from number `begins` on. bound: on the
    probability of yes."""

    direction: str
    reference: str
    bound: float
    sign: int = 1
    middle: float = 0.0
    begins: int = 0

    def of(self, scores: FloatArray) -> BoolArray:
        """(N,) scores -> the answers."""
        answers: BoolArray = self.sign * scores > self.middle
        return answers


def level_questions(calibration: Calibration, error: float, defects: float, first: FloatArray) -> tuple[Question, ...]:
    """Over and under the median of the calibration scores, and of the stream's first images.

    A left-out image's own vectors, which its oddest patches put into the bank, are missing when it is scored: its score
    is too high. That makes the upward question deafer, and forbids the downward one.
    """
    known = [("up", "calibration", calibration.scores, 0)]
    if calibration.method != "leave_one_out":
        known.append(("down", "calibration", calibration.scores, 0))
    if len(first) >= LEAST_REFERENCE:
        known += [(direction, "start", first, len(first)) for direction in ("up", "down")]
    questions = []
    for direction, where, normal, begins in known:
        sign = 1 if direction == "up" else -1
        middle = float(np.sort(sign * normal)[math.ceil(len(normal) / 2) - 1])
        bound = exceedance_bound(sign * normal, middle, error / (2 * len(known)))
        spoilt = 1.0 if where == "start" else 1 - defects  # the stream's first images have defects among them too
        questions.append(Question(direction, where, min(defects + spoilt * bound, 0.999), sign, middle, begins))
    return tuple(questions)


def flagged_question(calibration: Calibration, error: float) -> Question:
    """Over the threshold? All scores bound it, those of suspects too: should these be good, they are good images over
    the threshold."""
    bound = exceedance_bound(calibration.scores, calibration.threshold, error / 2)
    return Question("up", "calibration", bound, 1, calibration.threshold)


def scene_question(scene: ImageCheck, error: float) -> Question:
    """Out of distribution?"""
    cut = widening(scene.deviations, scene.max_false_alarms)
    return Question("up", "calibration", exceedance_bound(scene.deviations, cut, error / 2))


@dataclass(frozen=True, eq=False)
class _Side:
    """A question, and all images' answers."""

    question: Question
    answers: BoolArray

    def log_capital(self) -> DoubleArray:
        begins, bound = self.question.begins, self.question.bound
        return np.concatenate([np.zeros(begins), log_capital(self.answers[begins:], bound)])


def _shift(test: str, sides: Sequence[_Side], error: float) -> Shift:
    """One test. The mean of several sides' capitals is one too; what is reported is the side that won most."""
    capitals = [side.log_capital() for side in sides]
    total = np.logaddexp.reduce(capitals, axis=0) - math.log(len(sides))  # (N,)
    limit = math.log(2 / error)
    side = sides[int(np.argmax([capital.max(initial=-np.inf) for capital in capitals]))]
    question = side.question
    asked = side.answers[question.begins :]
    start = stop = detected = None
    showing: tuple[int, ...] = ()
    if len(over := np.flatnonzero(total >= limit)):
        detected, stop = int(over[0]), int(np.argmax(total)) + 1
        start = question.begins + begin_of_shift(side.answers[question.begins : stop], question.bound)
        showing = tuple((start + np.flatnonzero(side.answers[start:stop])).tolist())
    return Shift(
        test,
        question.direction,
        question.reference,
        detected is not None,
        len(side.answers),
        float(asked.mean()) if len(asked) else 0.0,
        question.bound,
        float(np.exp(min(total.max(initial=0.0), 690.0))),
        math.exp(limit),
        detected,
        start,
        stop,
        showing,
    )


def log_capital(answers: BoolArray, bound: float) -> DoubleArray:
    """(N,) logarithm of the capital after each image. A bet that begins before image k (from 0) is one of the weights
    1 / ((k + 2) ln(k + 2)^2), which sum to less than 1 over all k; the rest is never bet."""
    k = np.arange(len(answers)) + 2.0
    weight = -np.log(PLACES * k * np.log(k) ** 2)  # (N,) log weights
    capital = np.log1p(-np.cumsum(np.exp(weight)))  # what has not been bet yet
    for q in alternatives(bound):
        gains = gains_of(answers, bound, q)
        after = np.cumsum(gains)
        begun = np.logaddexp.accumulate(weight - (after - gains))
        capital = np.logaddexp(capital, begun + after - math.log(ODDS))
    return np.asarray(capital)


def begin_of_shift(answers: BoolArray, bound: float) -> int:
    """The image at which a shift that lasts to the last one most likely begins (maximum likelihood)."""
    best, begin = -math.inf, 0
    for q in alternatives(bound):
        after = np.cumsum(gains_of(answers, bound, q))  # (N,) what an image to the last one gains: the last less before
        before = np.concatenate([[0.0], after[:-1]]) if len(after) else after
        if len(after) and after[-1] - before.min() > best:
            best, begin = float(after[-1] - before.min()), int(np.argmin(before))
    return begin


def alternatives(bound: float) -> list[float]:
    """Probabilities over the bound, evenly spread on the scale of log odds."""
    top = max(_LARGEST, (1 + bound) / 2)
    logit = np.linspace(math.log(bound / (1 - bound)), math.log(top / (1 - top)), ODDS + 1)[1:]
    return list((1 / (1 + np.exp(-logit))).tolist())


def gains_of(answers: BoolArray, bound: float, q: float) -> DoubleArray:
    """(N,) log of what the capital that bets on q is multiplied by after each image."""
    return np.where(answers, math.log(q / bound), math.log((1 - q) / (1 - bound)))


def _renumbered(shift: Shift, numbers: IndexArray) -> Shift:
    """The shift of a selection of images, with their numbers in the whole stream."""
    if shift.detected is None or shift.start is None or shift.stop is None:
        return shift
    return replace(
        shift,
        detected=int(numbers[shift.detected]),
        start=int(numbers[shift.start]),
        stop=int(numbers[shift.stop - 1]) + 1,
        showing=tuple(numbers[list(shift.showing)].tolist()),
    )


def advice_on(level: Shift, flagged: Shift, scene: Shift | None) -> tuple[str, ...]:
    """Returns advice in words: what to look at and what to do."""
    said = []
    if scene and scene.found:
        said.append(
            "the images are out of distribution now, another part or picture: see the measures outside of their "
            "ranges; check the scene first"
        )
    if level.found and level.direction == "up":
        said.append(
            "normal images look less normal: check lighting, camera, focus and dirt against the first images of the "
            "shift; if the parts are good as they are now, teach them (patchbank update), or fit again"
        )
    if level.found and level.direction == "down":
        said.append(
            "scores have fallen: the same image again and again, less light, or blur; defects may score lower too, so "
            "check the camera, and fit again if the images are to stay like this"
        )
    if flagged.found and not (level.found or (scene and scene.found)):
        said.append(
            "more images are flagged than good parts explain, while the others look as ever: defective parts, or good "
            "ones of a kind that the model was not shown; look at the flagged ones, and teach the good ones (patchbank "
            "update)"
        )
    return tuple(said) or ("nothing to do",)
