"""What a notebook shows of a model, a result and an explanation, in place of their `repr`: small pieces of HTML that
load nothing and run nothing. Every value is escaped, as on the pages."""

from __future__ import annotations

from typing import Any

from patchbank.arrays import ByteArray
from patchbank.errors import ImageError
from patchbank.fitted.model import FittedModel
from patchbank.reports import explanation_text as text
from patchbank.reports.explanation_pictures import decoded, inspected_crop, normal_crop, overview
from patchbank.reports.html import Picture, picture, render, small_jpeg, verdict_of
from patchbank.results.explanation import ExplanationFacts, Finding
from patchbank.results.result import Result
from patchbank.util.wording import counted

WHOLE, CROP, THUMBNAIL = 420, 200, 96  # pixels, the longer side
# Bytes of a picture; in base64 they are a third more. All of a view stays under 200 kB.
_WHOLE_BYTES, _CROP_BYTES, _THUMBNAIL_BYTES = 45_000, 10_000, 6_000
_REGIONS, _FINDINGS, _NEIGHBOURS, _THUMBNAILS, _NAMES = 5, 3, 2, 6, 5
_LONGEST = 1000  # characters of a text from outside


def model_view(model: FittedModel) -> str:
    """A model: what it was fitted on, its threshold and what that promises, and a few of its training images."""
    config, bank, calibration = model.config, model.bank, model.calibration
    height, width = config.image_size[0], config.image_size[-1]
    size = f"{'' if len(config.image_size) > 1 else 'about '}{width} x {height} pixels"
    facts: dict[str, Any] = {
        "network": f"{_short(model.backbone.info.name)}, images of {size}",
        "bank": f"{len(bank):,} vectors of {bank.vectors.shape[1]:,} numbers",
    }
    if calibration is None:
        facts["threshold"] = "none: the model was fitted without calibration"
    else:
        promise = f"at most {100 * config.max_false_alarms:g} % of good images flagged"
        sure = f", {100 * config.confidence:g} % sure" if config.confidence else ", on average"
        facts["threshold"] = f"{calibration.threshold:.4g} ({promise}{sure})"
        facts["pixel threshold"] = f"{calibration.pixel_threshold:.4g}"
        facts["calibration"] = f"{calibration.method}, {counted(len(calibration.images), 'image')}"
    present = model.versions[-1]
    facts["version"] = f"{present.number}, {present.action}" + (f", {present.time}" if present.time else "")
    named = {
        "looking defective": [each.name for each in model.suspects],
        "dropped": [each.name for each in model.dropped],
        "unreadable": [each.name for each in model.skipped],
    }
    facts |= {what: _listed(names) for what, names in named.items() if names}
    small = {n: _thumbnail(model.thumbnails[n]) for n in sorted(model.thumbnails)[:_THUMBNAILS]}
    pictures = [_picture(data, bank.images[number]) for number, data in small.items() if data]
    images = counted(len(model.training_images), "image")
    return _view("notebook_model.html", images=images, facts=facts, pictures=pictures)


def result_view(result: Result) -> str:
    """A result: verdict, score and threshold, regions, and the heat map over the image, if the image is still there."""
    about, shown, missing = result.to_dict(), None, ""
    try:
        drawn = result.overlay()
    except ImageError as error:
        missing = _short(str(error))
    else:
        shown = _picture(small_jpeg(drawn, WHOLE, _WHOLE_BYTES), "heat map and regions")
    facts: dict[str, Any] = {"score": f"{result.score:.4g}"}
    if result.threshold is not None:
        facts["threshold"] = f"{result.threshold:.4g}"
    if result.p_value is not None:
        facts["p-value"] = f"{result.p_value:.3g}: the share of good images that look at least this odd"
    if result.scene_reasons:
        facts["not as in training"] = "; ".join(result.scene_reasons)
    facts["image"] = f"{result.image_size[1]} x {result.image_size[0]} pixels"
    regions = [
        (number, *region.box, f"{region.area:,}", f"{region.peak_score:.4g}")
        for number, region in enumerate(result.regions[:_REGIONS], 1)
    ]
    more = len(result.regions) - len(regions)
    return _view(
        "notebook_result.html",
        name=_short(result.path),
        word=str(about.get("verdict") or verdict_of(result.is_anomalous)),
        reason=str(about.get("reason", "")),
        facts=facts,
        regions=regions,
        more=counted(more, "more region") if more else "",
        picture=shown,
        missing=missing,
    )


def explanation_view(explanation: ExplanationFacts) -> str:
    """An explanation: the whole image with its findings numbered, and each beside the nearest normal patches."""
    whole = _picture(small_jpeg(overview(explanation, True, WHOLE), WHOLE, _WHOLE_BYTES), "the image and its findings")
    notes = list(explanation.notes)
    if (more := len(explanation.findings) - _FINDINGS) > 0:
        notes.append(f"{counted(more, 'more finding')}: explanation.save('why.html') shows all of them.")
    return _view(
        "notebook_explanation.html",
        name=_short(explanation.path),
        verdict=text.verdict(explanation),
        overview=whole,
        findings=[
            {
                "title": text.title(number, finding),
                "distance": text.distance(finding),
                "comparisons": text.comparisons(finding),
                "pictures": list(_compared(explanation, finding)),
            }
            for number, finding in enumerate(explanation.findings[:_FINDINGS], 1)
        ],
        notes=notes,
    )


def _compared(explanation: ExplanationFacts, finding: Finding) -> list[Picture]:
    """The patch in the inspected image, and the normal patches that come closest, where the model holds pictures."""
    normal = [
        _crop(crop, f"nearest normal, distance {patch.distance:.3g}: {patch.image}")
        for patch in finding.neighbours[:_NEIGHBOURS]
        if (crop := normal_crop(patch)) is not None
    ]
    return [_crop(inspected_crop(explanation, finding), "this image"), *normal]


def _crop(image: ByteArray, alt: str) -> Picture:
    return _picture(small_jpeg(image, CROP, _CROP_BYTES), alt)


def _thumbnail(data: bytes) -> bytes:
    """A training image's thumbnail, smaller; b"" for one that cannot be read."""
    image = decoded(data)
    return b"" if image is None else small_jpeg(image, THUMBNAIL, _THUMBNAIL_BYTES)


def _picture(jpeg: bytes, alt: str) -> Picture:
    return picture(jpeg, _short(alt))


def _view(template: str, **values: Any) -> str:
    return "".join(render(template, **values))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(map(_short, names[:_NAMES])) + more


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
