"""The options of a model as a form: one field for each option of `Config`, with its help, choices and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass
from typing import Any

from patchbank.config import PRESETS, Config, options

PREFIX = "option."


@dataclass(frozen=True, slots=True)
class Input:
    """A field of the form. choices: what it may be; empty: anything. default: what it is if nothing is given."""

    name: str
    help: str
    choices: tuple[str, ...]
    default: str

    @property
    def key(self) -> str:
        """Returns the field's name in the form."""
        return PREFIX + self.name


def groups() -> dict[str, list[Input]]:
    """All options, by the subject that they belong to."""
    found: dict[str, list[Input]] = {}
    for each in options(Config):
        choices = ("true", "false") if each.type == "bool" else each.metadata["choices"]
        made = Input(each.name, each.metadata["help"], choices, _shown(each.default))
        found.setdefault(each.metadata["group"], []).append(made)
    return found


def presets() -> list[str]:
    """The names of the presets; the first is what nothing means."""
    return sorted(PRESETS, key=lambda name: (name != "balanced", name))


def chosen(fields: Mapping[str, str]) -> dict[str, Any]:
    """The options that a form has set; what is no value is left as it is, for `Config` to refuse."""
    known = {each.name: each for each in options(Config)}
    given = {name.removeprefix(PREFIX): text.strip() for name, text in fields.items() if name.startswith(PREFIX)}
    return {name: _value(known.get(name), text) for name, text in given.items() if text}


def _value(option: Field[Any] | None, text: str) -> Any:
    kind = str(option.type).split(" |")[0] if option else "str"
    if kind == "tuple[str, ...]":
        return [part.strip() for part in text.split(",")]
    if kind == "bool":
        return {"true": True, "false": False}.get(text, text)
    for number in {"int": (int,), "float": (float,)}.get(kind, ()):
        try:
            return number(text.replace(",", "."))
        except ValueError:
            pass
    return text


def _shown(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return "x".join(str(each) for each in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
