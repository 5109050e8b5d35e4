"""Inspects a recorded part once more, and says whether its score is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patchbank import ConfigError, PatchCore, Runtime
from patchbank.line.config import LineConfig
from patchbank.line.journal_reader import JournalReader
from patchbank.line.record import Record


@dataclass(frozen=True)
class Replayed:
    """A part, then and now. model: where the model was found."""

    record: Record
    score: float
    model: str

    @property
    def identical(self) -> bool:
        """Whether the score is the same to the last bit."""
        return self.record.score == self.score

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        about = {name: getattr(self.record, name) for name in ("id", "station", "part_id", "source", "verdict")}
        return {**about, "score": self.record.score, "score_now": self.score, "identical": self.identical}


def replay(config: LineConfig, id: str, runtime: Runtime) -> Replayed:
    """Inspects a part of the journal again, with the model that has inspected it. Raises ConfigError if there is no
    such part, result or model any more, ImageError if its image is gone."""
    reader = JournalReader(config.data)
    try:
        record = reader.find(id)
        if record is None:
            raise ConfigError(f"replay: expected the id of a record in {config.data}; got {id!r}, which is none")
        if record.score is None:
            raise ConfigError(f"replay: part {id} has no score: {record.reason}")
        if record.image_sha256 is None:
            raise ConfigError(f"replay: the image of part {id} was not kept; [retain] says which are")
        image = reader.images.get(record.image_sha256)
    finally:
        reader.close()
    model, found = _model_of(config, record, runtime)
    return Replayed(record, model.predict(image).score, found)


def _model_of(config: LineConfig, record: Record, runtime: Runtime) -> tuple[PatchCore, str]:
    """The model that made a record: one of the line's files, or an earlier version that one of them holds."""
    paths = dict.fromkeys(path for each in config.stations for path in (each.model, *each.recipes.values()))
    earlier = None
    for path in paths:
        model = PatchCore.load(path, runtime=runtime)
        if model.made_by.sha256 == record.model_sha256:
            return model, str(path)
        if path.stem == record.model_name and record.model_version < model.made_by.version:
            earlier = model.at(record.model_version), f"{path}, version {record.model_version}"
    if earlier is None:
        raise ConfigError(
            f"replay: expected the model with the digest {record.model_sha256} among the line's models; got others: "
            "put its file back"
        )
    return earlier
