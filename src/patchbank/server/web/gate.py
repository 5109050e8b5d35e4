"""What a version's gate has found, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from patchbank.server.web.language import N_

# What a gate lists, in the order of its weight.
LISTS = {
    "lost": N_("Lost: defects that were found before, and pass now"),
    "missed": N_("Missed: all labelled defects that pass"),
    "weaker": N_("Weaker: defects that were NG, and are REVIEW now"),
    "gained": N_("Gained: defects that passed before, and are found now"),
    "newly_flagged": N_("Newly flagged: good parts that were OK, and are not any more"),
    "cleared": N_("Cleared: good parts that were flagged, and are OK now"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A labelled image. inspected: it is an inspection, whose id is its name; else it is an image of a dataset."""

    name: str
    inspected: bool
    before: tuple[str, float | None] | None
    after: tuple[str, float | None]


@dataclass(frozen=True, slots=True)
class Listed:
    """Parts that have something in common. number: how many; `parts` may be fewer."""

    key: str
    number: int
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Side:
    """A calibration image that is on the other side of the threshold now."""

    image: str
    before: float
    after: float
    over_after: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate has found. defects, goods: how many were inspected. None: there was no version before."""

    passed: bool
    thresholds: tuple[float | None, float | None]
    defects: int
    found: int
    found_before: int | None
    goods: int
    flagged: int
    flagged_before: int | None
    unreadable: int
    sides: list[Side] | None
    sides_number: int
    lists: list[Listed]
    warnings: list[str]


def gate_of(json: Any) -> Gate | None:
    """The gate's finding, of a version's `gate`; None: it was not asked."""
    if not isinstance(json, dict):
        return None
    defects, goods = json.get("defects", {}), json.get("goods", {})
    before, after = json.get("thresholds", (None, None))
    sides = json.get("changed_sides")
    every = {**defects, **goods}
    return Gate(
        passed=bool(json.get("passed")),
        thresholds=(before, after),
        defects=defects.get("inspected", 0),
        found=defects.get("found", 0),
        found_before=defects.get("found_before"),
        goods=goods.get("inspected", 0),
        flagged=goods.get("flagged", 0),
        flagged_before=goods.get("flagged_before"),
        unreadable=defects.get("unreadable", 0),
        sides=None if sides is None else [_side(each) for each in sides["first"]],
        sides_number=0 if sides is None else sides["number"],
        lists=[
            Listed(key, every[key]["number"], [_part(each) for each in every[key]["first"]])
            for key in LISTS
            if every.get(key, {}).get("number")
        ],
        warnings=[str(each) for each in json.get("warnings", ())],
    )


def _part(json: dict[str, Any]) -> Part:
    name, before = str(json["id"]), json.get("before")
    return Part(name, _is_id(name), before and _judged(before), _judged(json["after"]))


def _judged(json: dict[str, Any]) -> tuple[str, float | None]:
    return str(json["verdict"]), json.get("score")


def _side(json: dict[str, Any]) -> Side:
    return Side(str(json["image"]), json["before"], json["after"], bool(json["over_after"]))


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
