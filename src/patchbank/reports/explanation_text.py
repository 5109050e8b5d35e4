"""An explanation in plain words: the same on the page, on the sheet and in the terminal."""

from __future__ import annotations

import math
from pathlib import PurePath

from patchbank.imaging.boxes import Box
from patchbank.reports import distributions
from patchbank.reports.distributions import Band, Chart, Mark
from patchbank.results.explanation import ExplanationFacts, Finding
from patchbank.results.verdict import Verdict
from patchbank.scoring.normal_distances import Distribution
from patchbank.util.wording import plural


def short_name(path: str) -> str:
    """A path's last folder and file: which image, and nothing about the machine."""
    parts = PurePath(path).parts
    return "/".join(part for part in parts[-2:] if part not in (PurePath(path).anchor, "..", "."))


def verdict(explanation: ExplanationFacts) -> str:
    """Returns what was decided, and how that compares with good images."""
    score, threshold = explanation.score, explanation.threshold
    if threshold is None:
        return f"Not judged: the model has no threshold. The image's score is {score:.4g}."
    ratio = f" ({score / threshold:.2f} times)" if threshold > 0 else ""
    if explanation.is_anomalous:
        said = f"Judged anomalous: its score {score:.4g} is over the threshold {threshold:.4g}{ratio}."
    elif explanation.verdict is Verdict.REVIEW:
        said = f"For review, a person decides: its score {score:.4g} is not over the threshold {threshold:.4g}{ratio}."
    else:
        said = f"Judged normal: its score {score:.4g} is not over the threshold {threshold:.4g}{ratio}."
    return f"{said} {_among_good(explanation)}".strip()


def _among_good(explanation: ExplanationFacts) -> str:
    if explanation.good_scores is None:
        return ""
    count, at_least = len(explanation.good_scores), explanation.good_at_least
    if not at_least:
        return f"None of the {count:,} left-out good images scores as high."
    return f"{at_least:,} of the {count:,} left-out good images {plural(at_least, 'scores', 'score')} at least as high."


def title(number: int, finding: Finding) -> str:
    """A finding's heading."""
    if finding.region is None:
        return "Most anomalous patch"
    x, y, width, height = finding.region.box
    return f"Region {number}: {width:,} × {height:,} px at ({x:,}, {y:,})"


def distance(finding: Finding) -> str:
    """Returns how far the patch is, in one sentence."""
    of = "Its most anomalous patch" if finding.region else "This patch"
    nearest = "the nearest normal patch that the model knows"
    return f"{of}, {percent(finding.mark)}, has a distance of {finding.score:.3g} to {nearest}."


def comparison(normal: Distribution, score: float, where: str) -> str:
    """A distance against those of normal patches. where: "around this place" or "anywhere"."""
    if score > normal.largest:
        ratio = score / normal.largest if normal.largest > 0 else 1.0
        times = f", {ratio:.1f} times the largest" if ratio > 1.05 else ""
        start = f"Farther than all {normal.count:,} normal patches {where}{times}"
    else:
        share = math.floor(1000 * normal.share_at_most(score)) / 10  # never rounded up to all
        start = f"At least as far as {share:g} % of the {normal.count:,} normal patches {where}"
    return (
        f"{start} (median {normal.median:.3g}, 99 % within {normal.quantile(0.99):.3g}, largest {normal.largest:.3g})."
    )


def comparisons(finding: Finding) -> list[str]:
    """The finding against normal patches around its place and overall, as far as the model knows them."""
    found = []
    if finding.here:
        found.append(comparison(finding.here, finding.score, "around this place"))
    elif finding.overall:
        found.append("No normal patch counted around this place.")
    if finding.overall:
        found.append(comparison(finding.overall, finding.score, "anywhere"))
    return found


def percent(box: Box) -> str:
    """Returns where the middle of a box is in its image."""
    return f"{100 * (box[0] + box[2] / 2):.0f} % across and {100 * (box[1] + box[3] / 2):.0f} % down"


def chart(finding: Finding) -> Chart | None:
    """The finding's distance against those of normal patches; None where the model knows none."""
    sets = (("Normal patches around this place", finding.here), ("Anywhere", finding.overall))
    bands = [Band(name, "calibration", normal) for name, normal in sets if normal]
    about = f"Distance {finding.score:.3g} against normal distances. " + " ".join(comparisons(finding))
    return distributions.chart(bands, Mark("this patch", "patch", finding.score), about, unit="distance", start=0.0)


HOW_TO_READ = (
    "The model knows good parts as a bank of patches of training images, described by a network's features. A distance "
    "says how different a patch of the inspected image is from the nearest patch in the bank: 0 is the same, there is "
    "no upper end.",
    "Three numbers have three names. The image score is held against the threshold. A patch's distance, here, is what "
    "the image score is made of: it is scaled by how far normal patches of its look are from the bank. The heat map "
    "shows plain local distances, which are held against the pixel threshold.",
    "Nearest normal: the patches of the bank that come closest, each from another training image where possible. If "
    "they look like the inspected patch, the model may be too strict here; if they do not, it has never seen anything "
    "like it.",
    "Normal distances: good images that the bank did not know when they were scored. The bars show how many patches "
    "have which distance; each band is scaled to its own tallest bar.",
)
