"""What is put in the place of sound values, whatever the format."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

# In the text of JSON or TOML, where Python's writer has no word for it.
RAW = {"<NaN>": "NaN", "<inf>": "Infinity", "<-inf>": "-Infinity", "<1e400>": "1e400", "<huge>": "9" * 4000}
TEXTS = (
    "", "a" * 70_000, "\x1b]0;title\x07", "line\nline", "../../etc/passwd", "\ud800", "NaN", "image 0", "\x00", "=1+1"
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 31, 32, 255, 1000, 4096, 16384, 65536, 2**31 - 1, 2**31, 2**53, 2**63, 2**70, -(2**31), 0.5, -0.5,
    1e-320, 1e-9, 1e9, 1e38, 1e39, 1e308, -1e308, 0.999999, 1.0,
)  # fmt: skip


def value(rng: np.random.Generator, old: Any = None) -> Any:
    """Something else than `old`."""
    kind = rng.integers(8)
    if kind == 0:
        return TEXTS[rng.integers(len(TEXTS))]
    if kind <= 3:
        return NUMBERS[rng.integers(len(NUMBERS))]
    if kind == 4:
        return [None, True, False, [], {}, [[]], [None], {"a": 1}][rng.integers(8)]
    if kind == 5:
        return list(RAW)[rng.integers(len(RAW))]
    if kind == 6 and isinstance(old, (int, float)):
        return type(old)(old * float(rng.choice([-1, 0.1, 2, 10, 1000])))
    if isinstance(old, list) and old:
        return [old * 2, old[:-1], old[::-1], [old], [*old, value(rng)], [value(rng), *old[1:]]][rng.integers(6)]
    return nested(int(rng.choice([3, 20, 900, 20_000])))


def name(rng: np.random.Generator) -> str:
    """What is no sound name."""
    return [*TEXTS, "slope", "images", "1", "é" * 40][rng.integers(len(TEXTS) + 4)][:50]


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value of a tree, the root excepted."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in pairs:
        yield (*at, key)
        if len(at) < 8:
            yield from places(inner, (*at, key))


def changed(tree: Any, rng: np.random.Generator) -> Any:
    """The tree with one to three of its values replaced, removed, or given another name. Keys near the root are chosen
    as often as those of long lists."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        known = list(places(tree))
        kinds = sorted({tuple("*" if isinstance(key, int) else key for key in place) for place in known})
        kind = kinds[rng.integers(len(kinds))]
        alike = [p for p in known if tuple("*" if isinstance(key, int) else key for key in p) == kind]
        *way, last = alike[rng.integers(len(alike))]
        inner = tree
        for key in way:
            inner = inner[key]
        what = rng.integers(12)
        if what == 0:
            del inner[last]
        elif what == 1 and isinstance(inner, dict):
            inner[name(rng)] = inner.pop(last)
        elif what == 2:
            other = known[rng.integers(len(known))]
            found = tree
            try:
                for key in other:
                    found = found[key]
            except (KeyError, IndexError, TypeError):
                continue
            inner[last] = copy.deepcopy(found)
        else:
            inner[last] = value(rng, inner[last])
    return tree


def as_json(tree: Any) -> bytes:
    """JSON, with words that Python's writer does not know; nesting of any depth."""
    text = json.dumps(tree) if _shallow(tree) else "[" * 100_000
    for word, raw in RAW.items():
        text = text.replace(json.dumps(word), raw)
    return text.encode()


def _shallow(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except RecursionError:
        return False
    return True


def bytes_changed(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut out, doubled, overwritten with special numbers, or cut off."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at, n = int(rng.integers(len(found) + 1)), int(rng.choice([1, 2, 4, 8, 64, 1000]))
        what = rng.integers(6)
        if what == 0:
            found[at : at + 1] = bytes([rng.integers(256)])
        elif what == 1:
            del found[at : at + n]
        elif what == 2:
            found[at:at] = found[at : at + n] * int(rng.integers(1, 4))
        elif what == 3:
            number = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            found[at : at + 4] = number.to_bytes(4, "little" if rng.integers(2) else "big")
        elif what == 4:
            found[at : at + n] = rng.bytes(n)
        elif rng.integers(4) == 0:
            del found[at:]
    return bytes(found)
