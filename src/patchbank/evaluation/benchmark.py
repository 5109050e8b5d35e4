"""Fit and evaluate every category of an MVTec-style folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from patchbank.config import Config, Runtime
from patchbank.errors import DatasetError, ImageError
from patchbank.evaluation.datasets import read_categories, read_dataset
from patchbank.evaluation.evaluate import KEYS, Evaluation, Inspector, evaluate
from patchbank.util.log import quiet
from patchbank.util.progress import Progress, silent

# A mean threshold or a mean number of images says nothing.
MEANS = tuple(key for key in ("fit_seconds", *KEYS) if key not in ("n_test", "n_unreadable", "threshold"))


class SkippedImage(Protocol):
    """A training image that could not be read; the reason names it."""

    @property
    def reason(self) -> str: ...


class Fitted(Inspector, Protocol):
    """The part of a fitted model that the benchmark needs. `PatchCore` has it."""

    @property
    def bank(self) -> Sized: ...
    @property
    def skipped(self) -> Sequence[SkippedImage]: ...


Fit = Callable[[Sequence[Path], Config, Runtime, Progress], Fitted]


@dataclass(frozen=True)
class CategoryReport:
    """One category. fit_seconds: wall time of the fit; bank_size: vectors in the memory bank; skipped: for each
    training image that could not be read, its path and the reason."""

    name: str
    n_train: int
    fit_seconds: float
    bank_size: int
    evaluation: Evaluation
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: n_train, fit_seconds, bank_size, then the keys of `Evaluation.to_dict`."""
        own = {"n_train": self.n_train, "fit_seconds": self.fit_seconds, "bank_size": self.bank_size}
        return own | self.evaluation.to_dict()


@dataclass(frozen=True)
class BenchmarkReport:
    """All categories; `failed` names those whose data could not be used, with the reason."""

    categories: tuple[CategoryReport, ...]
    failed: dict[str, str]

    @property
    def means(self) -> dict[str, float | None]:
        """Unweighted means over the categories that have the figure; None where none has."""
        return {key: _mean([category.to_dict()[key] for category in self.categories]) for key in MEANS}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: categories (by name), mean, failed."""
        categories = {category.name: category.to_dict() for category in self.categories}
        return {"categories": categories, "mean": self.means, "failed": dict(self.failed)}

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row for each category and, last, the means. All rows have the same keys, "category" first;
        `verdicts` is not among them."""
        rows = [{"category": category.name, **category.to_dict()} for category in self.categories]
        for row in rows:
            del row["verdicts"]  # no figure, but tables of their own
        return [*rows, dict.fromkeys(rows[0]) | {"category": "mean"} | self.means]


def benchmark(
    root: str | os.PathLike[str],
    config: Config | None = None,
    runtime: Runtime | None = None,
    progress: Progress = silent,
    *,
    fit: Fit | None = None,
) -> BenchmarkReport:
    """Fits on each category's train/good and evaluates on its test. `fit` takes the place of `PatchCore.fit`.

    A category whose data cannot be used is named in `failed`, and the others go on. Raises DatasetError if there is no
    category, or none can be used.
    """
    categories, failed = [], {}
    for name, folder in read_categories(root).items():
        try:
            categories.append(
                _category(name, folder, config or Config(), runtime or Runtime(), progress, fit or _fit_patchcore)
            )
        except (DatasetError, ImageError) as error:
            failed[name] = str(error)
    if not categories:
        raise DatasetError(f"{root}: none of its categories can be used: {'; '.join(failed.values())}")
    return BenchmarkReport(tuple(categories), failed)


def _category(
    name: str, folder: Path, config: Config, runtime: Runtime, progress: Progress, fit: Fit
) -> CategoryReport:
    def named(stage: str, done: int, total: int) -> None:
        progress(f"{name}: {stage}", done, total)

    dataset = read_dataset(folder)
    start = time.perf_counter()
    model = fit(dataset.train_paths, config, runtime, named)
    seconds = time.perf_counter() - start
    evaluation = evaluate(model, dataset, named)
    skipped = tuple(image.reason for image in model.skipped)
    return CategoryReport(name, len(dataset.train) - len(skipped), seconds, len(model.bank), evaluation, skipped)


def _fit_patchcore(paths: Sequence[Path], config: Config, runtime: Runtime, progress: Progress) -> Fitted:
    from patchbank.model import PatchCore

    with quiet():
        return PatchCore.fit(paths, config, runtime=runtime, skip_unreadable=True, progress=progress)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
