"""Drift as a stream: one image at a time, in bounded memory, with a state that a service can keep.

The findings after every image are those of `find_drift` on all images so far. Its sums run forward, so that each bet is
a few numbers. Only what the level is compared with depends on how long the stream is, until it has twice as many images
as the reference: up to there the scores are kept, and `find_drift` is asked again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from patchbank.arrays import DoubleArray, IndexArray
from patchbank.calibration.image_check import ImageCheck
from patchbank.calibration.thresholds import Calibration
from patchbank.errors import ConfigError
from patchbank.monitoring.drift import (
    LEAST_REFERENCE,
    ODDS,
    PLACES,
    Drift,
    Question,
    Shift,
    advice_on,
    alternatives,
    check_promise,
    find_drift,
    flagged_question,
    gains_of,
    level_questions,
    scene_question,
)

MAX_REFERENCE = 10_000  # images; twice as many are kept
_FORMAT = 1


class DriftMonitor:
    """Tests a stream of inspections against a model's calibration, image by image.

    calibration, scene: the model's. confidence, defects, reference: as for `find_drift`. Raises ConfigError for an
    impossible value. Not for several threads at a time.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        scene: ImageCheck | None = None,
        confidence: float = 0.99,
        defects: float = 0.1,
        reference: int = 100,
    ) -> None:
        check_promise(confidence, defects, reference)
        if reference > MAX_REFERENCE:
            raise ConfigError(f"reference: expected at most {MAX_REFERENCE:,} images; got {reference!r}")
        self._calibration, self._scene = calibration, scene
        self._options = {"confidence": confidence, "defects": defects, "reference": reference}
        self._images = 0
        self._early: list[tuple[float, bool | None]] | None = []  # None once all runs forward
        self._tests: dict[str, _Test] = {}
        self._run_forward()

    @property
    def images(self) -> int:
        """Returns how many images it has seen."""
        return self._images

    @property
    def drift(self) -> Drift:
        """The findings so far. Images are numbered from 0, as they were added. A shift's `showing` is empty: it would
        grow with the stream."""
        if self._early is not None:
            found = self._again()
        else:
            tests = {name: test.shift(name, self._limit) for name, test in self._tests.items()}
            level, flagged, strange = tests["level"], tests["flagged"], tests.get("scene")
            found = Drift(self._images, level, flagged, strange, advice_on(level, flagged, strange))
        scene = replace(found.scene, showing=()) if found.scene else None
        shown = replace(found.level, showing=()), replace(found.flagged, showing=())
        return replace(found, level=shown[0], flagged=shown[1], scene=scene)

    def add(self, score: float, in_distribution: bool | None = None) -> Drift:
        """Takes the next image: its score, and `Result.in_distribution`. Returns `drift`. Raises ConfigError, and takes
        nothing, for a score that is no finite number."""
        return self.extend([(score, in_distribution)])

    def extend(self, images: Iterable[tuple[float, bool | None]]) -> Drift:
        """As `add`, for several images in their order: `drift` is computed once, after the last one."""
        taken = [(_finite_score(score), _known(in_distribution)) for score, in_distribution in images]
        for value, known in taken:
            if self._early is None:
                self._forward(self._images, value, known)
                self._images += 1
            else:
                self._early.append((value, known))
                self._images += 1
                self._run_forward()
        return self.drift

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as plain JSON values: some kilobytes, however long the stream is."""
        return {
            "format": _FORMAT,
            "model": _digest(self._calibration, self._scene),
            **self._options,
            "images": self._images,
            "early": None if self._early is None else [list(each) for each in self._early],
            "tests": {name: test.to_dict() for name, test in self._tests.items()},
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], calibration: Calibration, *, scene: ImageCheck | None = None
    ) -> DriftMonitor:
        """Goes on from a state of the same version of the same model. Raises ConfigError for another one's, and for
        what is no state."""
        try:
            if values["format"] != _FORMAT:
                raise ConfigError(f"state: expected format {_FORMAT}; got {values['format']!r}: begin a new one")
            if values["model"] != _digest(calibration, scene):
                raise ConfigError("state: expected one of this version of this model; got another's: begin a new one")
            options = {name: values[name] for name in ("confidence", "defects", "reference")}
            monitor = cls(calibration, scene=scene, **options)
            monitor._restore(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"state: is none that DriftMonitor.to_dict has made ({error!r:.100})") from error
        return monitor

    @property
    def _limit(self) -> float:
        return math.log(2 / self._error)

    @property
    def _error(self) -> float:
        return 1 - self._options["confidence"]

    def _again(self) -> Drift:
        early = self._early or []
        return find_drift(
            [score for score, _ in early],
            self._calibration,
            in_scene=[known for _, known in early],
            scene=self._scene,
            confidence=self._options["confidence"],
            defects=self._options["defects"],
            reference=int(self._options["reference"]),
        )

    def _run_forward(self) -> None:
        """Begins to, once the reference no longer depends on how long the stream is."""
        reference = int(self._options["reference"])
        early = self._early or []
        if reference >= LEAST_REFERENCE and len(early) < 2 * reference:
            return
        first = np.array([score for score, _ in early[:reference]], np.float32)
        asked = level_questions(self._calibration, self._error, self._options["defects"], first)
        self._tests = {
            "level": _Test([_Bet(each) for each in asked]),
            "flagged": _Test([_Bet(flagged_question(self._calibration, self._error))]),
        }
        for number, (score, known) in enumerate(early):
            self._forward(number, score, known)
        self._early = None

    def _forward(self, number: int, score: float, known: bool | None) -> None:
        value = np.float32(score)
        for name in ("level", "flagged"):
            test = self._tests[name]
            test.add(number, [bool(bet.question.sign * value > bet.question.middle) for bet in test.bets], self._limit)
        if self._scene and known is not None:
            if "scene" not in self._tests:
                self._tests["scene"] = _Test([_Bet(scene_question(self._scene, self._error))])
            self._tests["scene"].add(number, [not known], self._limit)

    def _restore(self, values: Mapping[str, Any]) -> None:
        images, early = values["images"], values["early"]
        self._images = images = _whole(images)
        if early is not None:
            self._early = [
                (float(np.float32(score)), known if known is None else bool(known)) for score, known in early
            ]
            if len(self._early) != images or not all(math.isfinite(score) for score, _ in self._early):
                raise ValueError("early")
            self._run_forward()
            return
        self._early = None
        self._tests = {name: _Test.from_dict(each) for name, each in values["tests"].items()}
        if not {"level", "flagged"} <= set(self._tests) <= {"level", "flagged", "scene"}:
            raise ValueError("tests")


@dataclass(eq=False)
class _Bet:
    """One question's bets so far, for each of the alternatives to its bound. after: (ODDS,) what has been won since the
    first image. begun: the same of bets that began on the way. spent: the share of the stake that has been bet. least,
    at: the smallest that `after` has been before an image, and which image: where a shift most likely begins. most: the
    largest capital. All but `spent` are logarithms."""

    question: Question
    asked: int = 0
    yes: int = 0
    spent: float = 0.0
    capital: float = 0.0
    most: float = -math.inf
    after: DoubleArray = field(default_factory=lambda: np.zeros(ODDS))
    begun: DoubleArray = field(default_factory=lambda: np.full(ODDS, -math.inf))
    least: DoubleArray = field(default_factory=lambda: np.full(ODDS, math.inf))
    at: IndexArray = field(default_factory=lambda: np.zeros(ODDS, np.int64))

    def __post_init__(self) -> None:
        odds, self._gains = alternatives(self.question.bound), {}
        for answer in (False, True):
            said = np.array([answer], np.bool_)
            self._gains[answer] = np.concatenate([gains_of(said, self.question.bound, q) for q in odds])

    def add(self, number: int, answer: bool) -> None:
        """Takes the next image's answer. The same steps as `drift.log_capital`, in the same order."""
        if number < self.question.begins:
            self.most = max(self.most, 0.0)
            return
        lower = self.after < self.least
        self.at[lower] = number
        self.least = np.minimum(self.after, self.least)
        place = np.array([self.asked + 2.0])
        weight = -np.log(PLACES * place * np.log(place) ** 2)
        self.spent += float(np.exp(weight)[0])
        self.after = self.after + self._gains[answer]
        self.begun = np.logaddexp(self.begun, weight - (self.after - self._gains[answer]))
        capital = np.log1p(-np.array([self.spent]))
        for each in self.begun + self.after - math.log(ODDS):
            capital = np.logaddexp(capital, each)
        self.capital = float(capital[0])
        self.most = max(self.most, self.capital)
        self.asked += 1
        self.yes += answer

    def begin(self) -> int:
        """The image at which a shift that lasts to the last one most likely begins, as `drift.begin_of_shift`."""
        best, begin = -math.inf, self.question.begins
        for won, image in zip((self.after - self.least).tolist(), self.at.tolist(), strict=True):
            if self.asked and won > best:
                best, begin = won, image
        return begin


@dataclass(eq=False)
class _Test:
    """One test: several bets, whose mean is held against the limit. most: the largest mean so far, a logarithm.
    detected: the image at which it was over the limit first. stop: the image after the one at which it was largest, and
    starts: where, for each bet, the shift began that ends there."""

    bets: list[_Bet]
    most: float = -math.inf
    detected: int | None = None
    stop: int = 0
    starts: list[int] = field(default_factory=list)

    def add(self, number: int, answers: Sequence[bool], limit: float) -> None:
        """Takes image number `number`'s answers, one for each bet."""
        for bet, answer in zip(self.bets, answers, strict=True):
            bet.add(number, answer)
        total = float(np.logaddexp.reduce([bet.capital for bet in self.bets]) - math.log(len(self.bets)))
        if self.detected is None and total >= limit:
            self.detected = number
        if total > self.most:
            self.most, self.stop = total, number + 1
            self.starts = [bet.begin() for bet in self.bets]

    def shift(self, name: str, limit: float) -> Shift:
        """The finding so far."""
        which = int(np.argmax([bet.most for bet in self.bets]))
        bet, found = self.bets[which], self.detected is not None
        return Shift(
            name,
            bet.question.direction,
            bet.question.reference,
            found,
            bet.question.begins + bet.asked if name != "scene" else bet.asked,
            bet.yes / bet.asked if bet.asked else 0.0,
            bet.question.bound,
            float(np.exp(min(max(self.most, 0.0), 690.0))),
            math.exp(limit),
            self.detected,
            self.starts[which] if found else None,
            self.stop if found else None,
            (),
        )

    def to_dict(self) -> dict[str, Any]:
        about = {"most": _finite(self.most), "detected": self.detected, "stop": self.stop, "starts": self.starts}
        return about | {"bets": [_plain(bet) for bet in self.bets]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> _Test:
        bets = [_bet_of(each) for each in values["bets"]]
        starts, detected = [_whole(start) for start in values["starts"]], values["detected"]
        if not bets or len(starts) not in (0, len(bets)):
            raise ValueError("bets")
        return cls(
            bets, _unbounded(values["most"], -math.inf), None if detected is None else _whole(detected),
            _whole(values["stop"]), starts,
        )  # fmt: skip


def _plain(bet: _Bet) -> dict[str, Any]:
    rows = {name: [_finite(each) for each in getattr(bet, name).tolist()] for name in ("after", "begun", "least")}
    numbers = {"asked": bet.asked, "yes": bet.yes, "spent": bet.spent, "capital": bet.capital}
    return {"question": asdict(bet.question), **numbers, "most": _finite(bet.most), **rows, "at": bet.at.tolist()}


def _bet_of(values: Mapping[str, Any]) -> _Bet:
    question = Question(**values["question"])
    _whole(question.begins)
    if not (0 < question.bound < 1 and math.isfinite(question.middle) and question.sign in (1, -1)):
        raise ValueError("question")
    rows = {
        name: np.array([_unbounded(each, empty) for each in values[name]])
        for name, empty in (("after", 0.0), ("begun", -math.inf), ("least", math.inf))
    }
    rows["at"] = np.array([_whole(each) for each in values["at"]], np.int64)
    if any(row.shape != (ODDS,) for row in rows.values()):
        raise ValueError("bets")
    asked, yes, spent = _whole(values["asked"]), _whole(values["yes"]), float(values["spent"])
    if not (0 <= yes <= asked and 0 <= spent < 1):
        raise ValueError("bets")
    return _Bet(question, asked, yes, spent, float(values["capital"]), _unbounded(values["most"], -math.inf), **rows)


def _finite_score(score: float) -> float:
    if not math.isfinite(value := _single(score)):
        raise ConfigError(f"score: expected a finite number; got {score!r}")
    return value


def _known(in_distribution: object) -> bool | None:
    if in_distribution is not None and not isinstance(in_distribution, (bool, np.bool_)):
        raise ConfigError(f"in_distribution: expected True, False or None; got {in_distribution!r}")
    return None if in_distribution is None else bool(in_distribution)


def _single(score: float) -> float:
    """The score as float32 has it, which all tests compare."""
    with np.errstate(over="ignore"):
        return float(np.float32(score))


def _whole(value: Any) -> int:
    """A count of a state. ValueError for anything else."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError("counts")
    return value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _unbounded(value: float | None, otherwise: float) -> float:
    """The inverse of `_finite`. ValueError for a number that JSON does not have."""
    number = otherwise if value is None else float(value)
    if value is not None and not math.isfinite(number):
        raise ValueError("numbers")
    return number


def _digest(calibration: Calibration, scene: ImageCheck | None) -> str:
    """What the questions depend on: the same for the same version of a model."""
    digest = hashlib.sha256(calibration.scores.astype("<f4").tobytes())
    digest.update(f"{calibration.threshold!r} {calibration.method}".encode())
    if scene:
        digest.update(scene.deviations.astype("<f4").tobytes() + f"{scene.max_false_alarms!r}".encode())
    return digest.hexdigest()
