"""Results as a table, for notebooks and statistics: one row an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from patchbank.errors import MissingExtraError
from patchbank.imaging.images import Skipped
from patchbank.results.result import Result

if TYPE_CHECKING:
    from pandas import DataFrame


# Types that have a place for "not known", which would make objects of numbers and truth values.
_TYPES = {
    **dict.fromkeys(("score", "threshold", "p_value"), "float64"),
    **dict.fromkeys(("is_anomalous", "in_scene"), "boolean"),
    "regions": "Int64",
}


def to_frame(results: Iterable[Result | Skipped]) -> DataFrame:
    """A pandas DataFrame with one row an image, in order: what `predict` or `predict_each` gives.

    Its columns are the keys of `Result.to_dict`, but plain: `regions` counts them, `scene` says why the image is not of
    the scene that the model knows (empty if it is), `model` is the digest of the model's file. An image that could not
    be inspected has a row too: it says why in the last column, `error`, and its figures are missing. Raises
    MissingExtraError without pandas.
    """
    rows = [_row(result) for result in results]
    columns = dict.fromkeys(("path", "score", "threshold", "is_anomalous"))
    columns |= dict.fromkeys(name for row in rows for name in row if name != "error")
    return frame_of(rows, (*columns, "error"))


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> DataFrame:
    """Rows as a DataFrame with these columns. Raises MissingExtraError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("tables need pandas; run: pip install 'patchbank[frame]'") from error
    frame = pandas.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns))
    return frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})


def _row(result: Result | Skipped) -> dict[str, Any]:
    if isinstance(result, Skipped):
        return {"path": result.name, "error": result.reason}
    about = result.to_dict()
    model = about["model"]
    return {
        **about,
        "score": result.score,
        "regions": len(about["regions"]),
        "scene": "; ".join(result.scene_reasons),
        "model": model["sha256"] if model else None,
        "error": "",
    }
