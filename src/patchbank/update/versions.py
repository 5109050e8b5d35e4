"""Versions that need no image: the way back, other thresholds, and a look at an earlier version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.thresholds import Calibration, promising
from patchbank.errors import ConfigError
from patchbank.fit.self_test import renewed
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import State, Version, VersionHistory, guarantee_fields, rows_of
from patchbank.search.searcher import build_searcher

M = TypeVar("M", bound=FittedModel)  # whoever calls with a PatchCore gets a PatchCore

LONGEST_TEXT = 100_000  # characters, of a note; a model file takes a million


@dataclass(frozen=True)
class Reason:
    """Who changes a model, when (UTC, ISO 8601), and why."""

    time: str
    author: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("time", "author", "note"):
            if len(getattr(self, name)) > LONGEST_TEXT:
                raise ConfigError(f"{name}: expected at most {LONGEST_TEXT:,} characters")


def rolled_back(model: M, to: int | None, reason: Reason) -> M:
    """The model with the bank, calibration and threshold of an earlier version; None: the one before the present.

    A rollback is a version of its own, so that it can be undone. Raises ConfigError for a version that there is not.
    """
    history = model.history
    present = len(history.versions)
    number = present - 1 if to is None else to
    if number == present:
        raise ConfigError(f"version {number} is the present one; expected an earlier one (patchbank history)")
    was = as_it_was(model, number)
    version = _followed(was.versions[-1], present + 1, reason, action="rollback", restored=number)
    _, archived, past = changed(model, none_of(model.bank), model.state(number).members)
    history = VersionHistory((*history.versions, version), past, archived)
    back = dataclasses.replace(was, history=history, self_test_images=model.self_test_images)
    return dataclasses.replace(back, self_test_images=renewed(back, ()))


def as_it_was(model: M, number: int) -> M:
    """The model with the bank, calibration and threshold of version `number`, as if the later ones had not been: its
    scores are that version's, to the bit. Its self-test is the later ones', and so it has none. Raises ConfigError for
    a version that there is not."""
    state, history = model.state(number), model.history
    then = history.versions[number - 1]
    rows, archived, past = changed(model, none_of(model.bank), state.members)
    bank = dataclasses.replace(model.bank, **vars(rows), covering_radius=then.covering_radius)
    promise = _options_of(state.calibration) if state.calibration else {}
    return dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, **promise),
        bank=bank,
        searcher=build_searcher(bank.vectors, model.config),
        calibration=state.calibration,
        history=VersionHistory(history.versions[:number], past[: number - 1], archived),
        normal=state.normal,
        scene=state.scene,
        self_test_images=(),
    )


def _options_of(calibration: Calibration) -> dict[str, Any]:
    """The options that say what a calibration promises."""
    return {
        "max_false_alarms": calibration.max_false_alarms,
        "confidence": calibration.confidence,
        "review_rate": calibration.review_rate,
        "calibrate_on_suspects": calibration.with_suspects,
    }


def with_guarantee(model: M, changes: Mapping[str, Any], reason: Reason) -> M:
    """The model with thresholds for another promise, from the same held-out scores. changes: of the options that say
    what is promised, by name; None keeps what it is.

    Raises ConfigError for an impossible value, or if the model was fitted without calibration.
    """
    if model.calibration is None:
        raise ConfigError("the model was fitted with calibration = 'none': it has no held-out scores; fit it again")
    config = dataclasses.replace(model.config, **{name: each for name, each in changes.items() if each is not None})
    if config == model.config:
        return model
    calibration = promising(model.calibration, config)
    _, archived, past = changed(model, none_of(model.bank), np.arange(len(model.bank)))
    last = model.history.versions[-1]
    version = _followed(
        last, last.number + 1, reason, action="threshold", restored=None, **guarantee_fields(calibration)
    )
    history = VersionHistory((*model.history.versions, version), past, archived)
    return dataclasses.replace(model, config=config, calibration=calibration, history=history)


def changed(
    model: FittedModel, learned: ArchivedVectors, members: npt.NDArray[np.integer]
) -> tuple[ArchivedVectors, ArchivedVectors, tuple[State, ...]]:
    """The vectors of the next version's bank, its archived, and the past, which then includes the present version.

    learned: new vectors. members: (M',) the next version's vectors, numbered through the bank, the reserve and
    `learned`, in this order.
    """
    everything = ArchivedVectors.joined([rows_of(model.bank), model.history.archived, learned])
    others = np.setdiff1d(np.arange(len(everything)), members)
    place = np.empty(len(everything), np.int32)  # each vector's number from now on
    place[np.concatenate([members, others])] = np.arange(len(everything), dtype=np.int32)
    states = (*model.history.past, model.state(len(model.versions)))
    past = tuple(dataclasses.replace(state, members=place[state.members]) for state in states)
    return everything.take(members), everything.take(others), past


def _followed(version: Version, number: int, reason: Reason, **changes: Any) -> Version:
    """The version that takes over what another one was made of: no image came or went."""
    nothing: dict[str, Any] = {"added": (), "removed": (), "refilled": 0}
    return dataclasses.replace(version, number=number, **nothing, **changes, **dataclasses.asdict(reason))


def none_of(bank: MemoryBank) -> ArchivedVectors:
    return rows_of(bank).take(np.empty(0, np.int64))
