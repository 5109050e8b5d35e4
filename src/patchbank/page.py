"""What the HTML pages share: one self-contained file each, for screens light and dark and for paper.

A page loads nothing from anywhere, its pictures are small JPEGs inside it, and every text that comes from outside (file
names above all) is escaped; a content security policy forbids whatever would get past that.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]


def document_start(title: str, style: str = "", script: str = "", created: datetime | None = None) -> str:
    """Everything from the doctype to the open <main>. style: beside what all pages have. script: the only one that the
    policy admits, for `document_end`."""
    from patchbank import __version__

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"; script-src 'sha256-{digest}'" if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{scripts}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE.replace('@SCALE@', _heat_scale())}{style}</style>\n</head>\n"
        f"<body>\n<header><h1>{escape(title)}</h1>"
        f"<p class=muted>{escape(when(created))} · patchbank {escape(__version__)}</p></header>\n<main>\n"
    )


def when(created: datetime | None) -> str:
    """A moment for people; now, for None."""
    return (created or datetime.now(UTC).astimezone()).strftime("%Y-%m-%d %H:%M %Z").strip()


def document_end(script: str = "") -> str:
    """The rest of the page."""
    return f"</main>\n{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"


def small_jpeg(image: ByteArray, side: int, most_bytes: int) -> bytes:
    """(H, W, 3) uint8 RGB -> a JPEG of at most `side` pixels along its longer side, and `most_bytes` bytes."""
    from patchbank.images import thumbnail

    data = thumbnail(image, side)
    while len(data) > most_bytes and side > 32:  # noise needs bytes; a smaller picture loses less than a blocky one
        side = min(side - 8, int(side * math.sqrt(most_bytes / len(data))))
        data = thumbnail(image, side)
    return data


def picture(jpeg: bytes, alt: str) -> str:
    """An <img> with its size, so that the page does not jump while it loads."""
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None  # it is our own
    data = base64.b64encode(jpeg).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{image.shape[1]}" '
        f'height="{image.shape[0]}" loading="lazy" decoding="async">'
    )


def breakable(name: str) -> str:
    """A file name, escaped, that may break after a separator."""
    return re.sub(r"([/\\_-])", r"\1<wbr>", escape(name))


def verdict_of(is_anomalous: bool | None) -> str:
    """The verdict's word, which is its CSS class too."""
    return {True: "anomalous", False: "normal", None: "unjudged"}[is_anomalous]


def verdict_badge(is_anomalous: bool | None) -> str:
    """The verdict as a coloured word with a sign: not told by colour alone."""
    verdict = verdict_of(is_anomalous)
    return f'<span class="verdict {verdict}">{_ICONS[verdict]}{verdict}</span>'


def cards(figures: Mapping[str, str]) -> str:
    """Headline figures, {name: value}."""
    items = "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in figures.items())
    return f'<dl class="cards">{items}</dl>\n'


def heat_legend() -> str:
    """What the heat map's colours mean."""
    return (
        '<div class="legend muted">Heat map, in multiples of the threshold: '
        "<span>0.8×</span><i></i><span>2×</span></div>\n"
    )


def ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers in the range."""
    raw = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return [round(step * k, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _heat_scale() -> str:
    """The heat map's colours from 0.8 to 2 thresholds, as stops of a CSS gradient."""
    from patchbank.overlay import heatmap

    colours = heatmap(np.linspace(0.8, 2.0, 9, dtype=np.float32)[None], 1.0)[0]  # (9, 3)
    return ",".join("#" + bytes(colour).hex() for colour in colours)


_ICONS = {
    "anomalous": '<span aria-hidden="true">▲</span> ',
    "normal": '<span aria-hidden="true">✓</span> ',
    "unjudged": "",
}

_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b1f24;--muted:#5b6570;--line:#dfe3e8;
--bad:#b42318;--bad-back:#fdeceb;--good:#1f7a4d;--good-back:#e8f5ee;--calibration:#8a94a3;--other:#3567a8}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2126;--text:#e8ebef;--muted:#9aa5b1;
--line:#323942;--bad:#ff8a80;--bad-back:#43211f;--good:#6fd3a1;--good-back:#1a3529;--calibration:#7c8795;--other:#7fb0ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:28px}
h1{margin:0;font-size:26px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:0 0 4px;font-size:17px}
header p,section p{margin:4px 0 12px}
.muted,small{color:var(--muted)}
small{font-size:12.5px}
section,.cards div{background:var(--card);border:1px solid var(--line);border-radius:10px}
section{margin:16px 0;padding:18px 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(108px,1fr));gap:10px;margin:20px 0 0}
.cards div{padding:12px 14px;display:flex;flex-direction:column-reverse;justify-content:flex-end}
.cards dt{color:var(--muted);font-size:13px;overflow-wrap:anywhere}
.cards dd{margin:0;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.histogram{display:block;width:100%;height:auto;font-size:12.5px}
.histogram text{fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-linejoin:round}
.histogram .number{fill:var(--muted);text-anchor:middle}
.histogram .axis{stroke:var(--line)}
path.threshold{stroke:var(--text);stroke-width:1.5;stroke-dasharray:5 4}
text.threshold{font-weight:600}
rect.calibration{fill:var(--calibration)}rect.normal{fill:var(--good)}rect.anomalous{fill:var(--bad)}
rect.unjudged{fill:var(--other)}rect.track{fill:var(--line)}
.legend{display:flex;align-items:center;gap:8px;font-size:13px;margin-bottom:10px}
.legend i{width:140px;height:10px;border-radius:5px;border:1px solid var(--line);
background:linear-gradient(90deg,@SCALE@)}
.name{overflow-wrap:anywhere}
.verdict{display:inline-block;padding:2px 10px;border-radius:11px;font-size:13.5px;font-weight:600;white-space:nowrap}
.verdict.anomalous{color:var(--bad);background:var(--bad-back)}
.verdict.normal{color:var(--good);background:var(--good-back)}
.verdict.unjudged{color:var(--muted)}
@media (max-width:760px){header,main{padding-left:12px;padding-right:12px}section{padding:12px;overflow-x:auto}}
@media print{body{background:#fff;font-size:11px}header,main{max-width:none;padding:0}
section{border:0;padding:0;overflow:visible}.cards,.histogram{break-inside:avoid}
.cards{grid-template-columns:repeat(auto-fit,minmax(84px,1fr));gap:6px}.cards div{padding:8px}.cards dd{font-size:15px}
.cards dt,small,.verdict{font-size:10px}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
