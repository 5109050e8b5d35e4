"""Rewrites the tables of the documentation from the results in benchmarks/results.

    python benchmarks/tables.py

Each table stands between `<!-- figures: benchmarks/results/NAME.json -->` and `<!-- /figures -->`; which of the tables
below it is follows from NAME and the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/adr/0005-defaults.md",
    *(f"docs/results/{page.name}" for page in sorted((ROOT / "docs" / "results").glob("*.md"))),
)
SETS = {"bottle": "MVTec AD bottle", "screw": "MVTec AD screw", "mtd": "magnetic tiles", "elpv": "ELPV solar cells"}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def summary(results: dict[str, Any]) -> str:
    """The README's: the defaults."""
    rows = [row for row in results["rows"] if row["preset"] == "balanced"]
    cells = [[SETS[row["set"]], *(percent(row[key]) for key in ("image", "pixel", "aupro"))] for row in rows]
    return table(["data set", "image AUROC", "pixel AUROC", "AUPRO"], cells)


def presets(results: dict[str, Any]) -> str:
    """Every preset on every set: what it finds, and what other image scores would have."""
    names = list(dict.fromkeys(row["preset"] for row in results["rows"]))
    rows = sorted(results["rows"], key=lambda row: (names.index(row["preset"]), list(SETS).index(row["set"])))
    keys = ("image", "not smoothed", "not scaled", "neither", "largest patch", "pixel", "aupro")
    header = ["preset", "data set", "image AUROC", *keys[1:-2], "pixel AUROC", "AUPRO", "bank"]
    return table(
        header,
        [[row["preset"], SETS[row["set"]], *(percent(row[key]) for key in keys), f"{row['bank']:,}"] for row in rows],
    )


def cost(results: dict[str, Any]) -> str:
    cells = [[row["preset"], f"{row['ms']:.0f}", f"{row['ratio']:.2f}", f"{row['bank']:,}"] for row in results["rows"]]
    return table(["preset", "ms an image", "times the default", "bank"], cells)


def quality(results: dict[str, Any]) -> str:
    """The study: image AUROC of each setting by set, the mean difference from the base, and the pixels' AUROC."""
    sets = [name for name in (*SETS, "tall") if any(row["set"] == name for row in results["rows"])]
    found = {(row["set"], row["setting"]): row for row in results["rows"]}
    with_masks = [name for name in sets if "pixel" in found[name, "base"]]

    def mean(setting: str) -> str:
        run = [name for name in sets if (name, setting) in found]
        gain = sum(found[name, setting]["top 1 %"] - found[name, "base"]["top 1 %"] for name in run) / len(run)
        return f"{100 * gain:+.1f}" + ("" if run == sets else f" ({len(run)} sets)")

    def cell(name: str, setting: str, key: str) -> str:
        return percent(found[name, setting][key]) if (name, setting) in found else "-"

    header = [
        "setting",
        *({**SETS, "tall": "tall stacks of tiles"}[name] for name in sets),
        "mean difference",
        *(f"pixel AUROC, {SETS[name]}" for name in with_masks),
    ]
    cells = [
        [
            setting,
            *(cell(name, setting, "top 1 %") for name in sets),
            mean(setting),
            *(cell(name, setting, "pixel") for name in with_masks),
        ]
        for setting in results["settings"]
        if any((name, setting) in found for name in sets)
    ]
    scores = ["max", "top 0.3 %", "top 1 %", "top 3 %", "top 10 %"]
    by_score = [
        [setting, {**SETS, "tall": "tall stacks of tiles"}[name], *(percent(found[name, setting][s]) for s in scores)]
        for setting in ("base", "distance_scaling 0")
        for name in sets
    ]
    return table(header, cells) + "\n\nBy image score:\n\n" + table(["setting", "data set", *scores], by_score)


def default_size(results: dict[str, Any]) -> str:
    scores = [key for key in results["rows"][0] if key.startswith("image AUROC, ")]
    header = ["data set", "size", *(score.removeprefix("image AUROC, ") for score in scores), "pixel AUROC", "AUPRO"]
    rows = sorted(results["rows"], key=lambda row: (list(SETS).index(row["set"]), row["size"]))
    cells = [
        [
            SETS[row["set"]],
            row["size"],
            *(percent(row[s]) for s in scores),
            percent(row.get("pixel AUROC")),
            percent(row.get("AUPRO")),
        ]
        for row in rows
    ]
    return table(header, cells)


def predict(results: dict[str, Any]) -> str:
    rows = [_as_models(row) for row in results["rows"]]
    lines = [
        [
            SETS.get(row["set"], row["set"]),
            row["files"],
            f"{row['bank']:,}",
            precision,
            row["unavoidable_ms"],
            *(cost[key] for key in ("ms", "ratio", "processor_ratio")),
            row["ratio_with_faiss_flat"] if precision == "float32" else "-",
            row["stream_unavoidable_ms"],
            *(cost[key] for key in ("stream_ms", "stream_ratio")),
        ]
        for row in rows
        for precision, cost in row["models"].items()
    ]
    header = ["data set", "files", "bank", "precision", "decode, resize, float network, ms", "whole, ms", "ratio"]
    header += ["ratio of processor time", "ratio with faiss' flat index", "stream: decode, resize, float network, ms"]
    header += ["stream: whole, ms", "ratio"]
    stages = list(rows[0]["models"]["float32"]["stages_ms"])
    by_stage = [
        [*line[:4], *(f"{row['models'][line[3]]['stages_ms'][stage]:.2f}" for stage in stages)]
        for line, row in zip(lines, [row for row in rows for _ in row["models"]], strict=True)
    ]
    cold = f"From the start of `patchbank predict` to its first line of JSON: {results['cold_start_s']:.2f} s."
    parts = table(header, lines), "By stage, ms:", table([*header[:4], *stages], by_stage), cold
    return "\n\n".join(parts)


def _as_models(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an earlier measurement, of one model and the files as they are, as one of today's."""
    if "models" in row:
        return row
    keys = ("ratio", "processor_ratio", "stream_ms", "stream_ratio", "stages_ms")
    cost = {"ms": row["whole_ms"], **{key: row[key] for key in keys}}
    return {**row, "files": "as they are", "models": {"float32": cost}}


def decoding(results: dict[str, Any]) -> str:
    """Processor time of each decoder as a multiple of OpenCV's; then what reading a PNG is made of."""
    names = list(dict.fromkeys(row["decoder"] for row in results["rows"]))
    found = {(row["format"], row["colours"], row["side"], row["decoder"]): row for row in results["rows"]}
    kinds = [kind for kind in dict.fromkeys(key[:3] for key in found) if kind[2] in (900, 5000)]
    kinds.sort(key=lambda kind: (not kind[0].startswith("PNG"), kind[0]))

    def cell(kind: tuple[str, str, int], name: str) -> str:
        row = found.get((*kind, name))
        return "-" if row is None else f"{row['ratio']:.2f}" + ("" if row["same"] else " (other pixels)")

    header = ["file", "colours", "pixels a side", "OpenCV, ms", *(name for name in names if name != "OpenCV")]
    lines = [
        [*kind, f"{found[*kind, 'OpenCV']['ms']:.1f}", *(cell(kind, name) for name in names if name != "OpenCV")]
        for kind in kinds
    ]
    locked = sorted({f"{row['decoder']} ({row['format'].split()[0]})" for row in results["rows"] if row["lock"]})
    steps = list(next(iter(results["parts"].values())))
    made_of = [[name, *(f"{parts[step]:.2f}" for step in steps)] for name, parts in results["parts"].items()]
    return "\n\n".join(
        (
            table(header, lines),
            f"Python's lock is held while these decode: {', '.join(locked) or 'none'}.",
            "What patchbank's reading of a PNG is made of, ms:",
            table(["PNG", *steps], made_of),
        )
    )


def devices(results: dict[str, Any]) -> str:
    """The network's device: what the stages take there, and by how much the scores differ."""
    header = [
        "data set",
        "device",
        "fit, s",
        "first image, ms",
        "network, ms",
        "whole, ms",
        "stream, ms",
        "scores differ by",
    ]
    cells = []
    for row in results["rows"]:
        name = results["gpu"] if row["device"] == "cuda" else f"CPU, {results['machine']['cores']} processors"
        times = [row["fit_s"], row["first_ms"], row["stages_ms"]["backbone"], row["whole_ms"], row["stream_ms"]]
        cells.append([SETS[row["set"]], name, *times, f"{row['largest_relative_difference']:.1e}"])
    return table(header, cells)


def self_test(results: dict[str, Any]) -> str:
    """A row for each way to compute and for each fault, and what the self-test costs."""
    sets = results["sets"]
    rounding, faults, cost = [], [], []
    for name in next(iter(sets.values()))["rounding"]:
        found = [each["rounding"][name] for each in sets.values()]
        rounding.append([name, *("did not run" if value is None else f"{value:.1e}" for value in found)])
    for name in next(iter(sets.values()))["faults"]:
        found = [each["faults"][name] for each in sets.values()]
        faults.append([name, *(f"{value:.1e}" for value in found)])
    for name, each in sets.items():
        more = (each["file_bytes"] - each["file_bytes_without"]) / 1e6
        cost.append([SETS[name], each["kept"], f"{more:.2f}", f"{each['file_bytes'] / 1e6:.1f}", each["self_test_s"]])
    names = [SETS[name] for name in sets]
    return "\n\n".join(
        (
            table(["computed with", *names], rounding),
            table(["fault", *names], faults),
            table(["data set", "images", "their MB in the file", "of", "self-test, s"], cost),
        )
    )


def vit(results: dict[str, Any]) -> str:
    header = [
        "network",
        "image_size",
        "input",
        "patches",
        "numbers a patch",
        "processors' time, ms",
        "by the clock, ms",
        "times the default network",
        "network, MB",
    ]
    keys = ("image_size", "input", "patches", "dimensions", "processor_ms", "ms", "ratio", "network_mb")
    return table(header, [[f"`{row['backbone']}`", *(row[key] for key in keys)] for row in results["rows"]])


def search(results: dict[str, Any]) -> str:
    columns = {
        "patchbank_ms": "patchbank, ms",
        "faiss_flat_ms": "faiss flat, ms",
        "product_ms": "plain product, ms",
        "speedup_over_faiss_flat": "faster than faiss by",
        "build_ms": "built in, ms",
    }
    rows = [
        [row["data"], f"{row['bank']:,}", row["d"], row["queries"], *(row[key] for key in columns)]
        for row in results["rows"]
    ]
    return table(["data", "bank", "D", "patches an image", *columns.values()], rows)


def native(results: dict[str, Any]) -> str:
    """A row a data set and way, in the order of the results."""
    columns = ["after the network, s", "coreset, s", "saves of the fit", "search, ms", "prediction, ms"]
    cells = []
    for row in results["rows"]:
        for way, saved in row["fit_saves"].items():
            fitted = (row["after_network_s"][way], row["coreset_s"][way], f"{100 * saved:.0f} %")
            cells.append(
                [SETS.get(row["set"], row["set"]), way, *fitted, row["search_ms"][way], row["predict_ms"][way]]
            )
    return table(["data set", "way", *columns], cells)


def fit(results: dict[str, Any]) -> str:
    columns = {
        "images": "images",
        "patches": "patches",
        "bank": "bank",
        "embed_s": "read and embed, s",
        "coreset_s": "coreset, s",
        "calibrate_s": "calibrate, s",
        "other_s": "other, s",
        "fit_s": "whole fit, s",
        "with_textbook_coreset_s": "with the textbook coreset, s",
    }
    rows = [[SETS.get(row["set"], row["set"]), *(row.get(key, "-") for key in columns)] for row in results["rows"]]
    return table(["data set", *columns.values()], rows)


def memory(results: dict[str, Any]) -> str:
    names = {"none": "import, load, run the network (the constant)", "64GB": "everything in memory"}
    rows = [
        [names.get(r["memory"], f"`--memory {r['memory']}`"), f"{r['images']:,}", r["peak_rss_mb"], r["seconds"]]
        for r in results["memory"]
    ]
    text = table(["fit", "images", "peak memory, MB", "seconds"], rows)
    if "quality" in results:
        text += "\n\n" + chunks(results)
    return text


def chunks(results: dict[str, Any]) -> str:
    header = ["data set", "budget", "covering radius", "against one shot", "stated bound", "image AUROC"]
    cells = [
        [
            SETS[r["set"]],
            r["memory"],
            f"{r['covering_radius']:.2f}",
            f"{r['radius_over_one_shot']:.3f}",
            f"{r['stated_bound']:.2f}",
            percent(r["image_auroc"]),
        ]
        for r in results["quality"]
    ]
    return table(header, cells) + ("\n\n" + by_seed(results) if "seeds" in results else "")


def update(results: dict[str, Any]) -> str:
    rows = [
        [
            SETS[r["set"]],
            f"{part}: {r['step']}",
            percent(r["image AUROC"]),
            f"{r['false alarms']} of {r['good']}",
            f"{r['misses']} of {r['defective']}",
            r.get("seconds", "-"),
        ]
        for part in ("learn", "forget")
        for r in results[part]
    ]
    return table(["data set", "step", "image AUROC", "false alarms", "misses", "update, s"], rows)


def by_seed(results: dict[str, Any]) -> str:
    """Image AUROC of each seed, that of `quality` being 0, in one chunk and in several."""
    found: dict[tuple[str, str], list[float]] = {}
    for r in [*results["quality"], *results["seeds"]]:
        found.setdefault((r["set"], r["memory"]), []).append(r["image_auroc"])
    seeds = [f"seed {number}" for number in range(max(map(len, found.values())))]
    rows = [
        [SETS[name], memory, *map(percent, values), percent(sum(values) / len(values))]
        for (name, memory), values in found.items()
    ]
    return table(["image AUROC of", "budget", *seeds, "mean"], rows)


def coreset(results: dict[str, Any]) -> str:
    columns = {
        "seconds": "patchbank, s",
        "textbook_seconds_extrapolated": "textbook loop, s",
        "speedup": "faster by",
        "speedup_over_direct": "than with direct differences",
    }
    rows = [[f"{r['n']:,}", f"{r['picks']:,}", *(r[key] for key in columns)] for r in results["rows"]]
    same = results["equality"]
    return "\n\n".join(
        (
            table(["points, D = 128", "picks", *columns.values()], rows),
            f"Picks that are the textbook loop's by direct differences, in a run of their own: "
            f"{same['equal_picks']:,} of {same['picks']:,}.",
        )
    )


def scene(results: dict[str, Any]) -> str:
    """Shares out of scene by what is seen, then the false alarms by the number of training images."""
    sets = results["rows"]

    def shares(rows: list[dict[str, Any] | None]) -> list[str]:
        return ["-" if row is None else percent(row["out_of_scene"]) for row in rows]

    def pooled(found: dict[str, Any]) -> dict[str, Any]:
        bad = [row for kind, row in found["test"].items() if kind != "good"]
        total = sum(row["images"] for row in bad)
        return {"out_of_scene": sum(row["images"] * row["out_of_scene"] for row in bad) / total}

    def worst(found: dict[str, Any]) -> str:
        kind, row = max(found["test"].items(), key=lambda item: (item[0] != "good", item[1]["out_of_scene"]))
        return f"{percent(row['out_of_scene'])} ({kind})"

    header = ["images", *(SETS[found["set"]] for found in sets)]
    cells = [
        ["good test images", *shares([found["test"]["good"] for found in sets])],
        ["defective test images", *shares([pooled(found) for found in sets])],
        ["- of the kind most often so", *map(worst, sets)],
    ]
    cells += [[what, *shares([found["distorted"][what] for found in sets])] for what in sets[0]["distorted"]]
    for name in SETS:
        cells.append([f"of {SETS[name]}", *shares([found["foreign"].get(name) for found in sets])])
    text = table(header, cells)
    sizes = sorted({row["training_images"] for found in sets for row in found["by_training_images"]})
    rates = [{row["training_images"]: row["false_alarms"] for row in found["by_training_images"]} for found in sets]
    about = (
        "\n\nFalse alarms in per cent, on training images that the scene was not learned from, by how many it was:\n\n"
    )
    header = ["training images", *header[1:]]
    return text + about + table(header, [[n, *(f"{100 * r[n]:.2f}" if n in r else "-" for r in rates)] for n in sizes])


def drift(results: dict[str, Any]) -> str:
    """Alarms, delay and error of place of each stream."""

    def cell(row: dict[str, Any]) -> str:
        place = f" ({row['delay']:.0f}, {row['place_error']:.0f})" if "delay" in row else ""
        return f"{100 * row['alarms']:.0f}{place}"

    rows = results["rows"]
    header = ["from the middle on", *(f"{SETS[row['set']]}, {row['calibration']}" for row in rows)]
    cells = [[what, *(cell(row["streams"][what]) for row in rows)] for what in rows[0]["streams"]]
    under = ["images over the calibration's median", *(f"{100 * row['over_calibration_median']:.0f}" for row in rows)]
    return table(header, [*cells, under])


def thresholds(results: dict[str, Any]) -> str:
    """Broken promises, mean false-alarm rates and small p-values by way to calibrate; then the sets' own splits."""
    ways = {"holdout": "hold-out", "leave_one_out": "leave-one-out", "cross_fit": "cross-fit"}
    order = list(SETS)
    sets = sorted(results["rows"], key=lambda row: (list(ways).index(row["calibration"]), order.index(row["set"])))
    rates = sorted({told["max_false_alarms"] for row in sets for told in row["promises"]})

    def cells(row: dict[str, Any], confidence: float, actual: str, expected: str) -> list[str]:
        told = {(p["what"], p["max_false_alarms"]): p for p in row["promises"] if p["confidence"] == confidence}
        return [
            f"{percent(told['images', r][actual])} / {percent(told['pixels', r][actual])} "
            f"({percent(told['images', r][expected])})"
            if ("images", r) in told
            else "-"
            for r in rates
        ]

    def block(confidence: float, actual: str, expected: str) -> str:
        header = [
            "calibration",
            "data set",
            "calibrated with",
            "tested on",
            "splits",
            *(f"{100 * r:g} %" for r in rates),
        ]
        lines = [
            [
                ways[row["calibration"]],
                SETS[row["set"]],
                *(row[key] for key in ("calibration_images", "new_images", "splits")),
                *cells(row, confidence, actual, expected),
            ]
            for row in sets
        ]
        return table(header, lines)

    p_values = table(
        ["calibration", "data set", *(f"p <= {p['level']:g}" for p in sets[0]["p_values"])],
        [
            [
                ways[row["calibration"]],
                SETS[row["set"]],
                *(f"{percent(p['share'])} ({percent(p['exchangeable'])})" for p in row["p_values"]),
            ]
            for row in sets
        ],
    )
    own = table(
        ["calibration", "data set", "trained on", "tested on", "at most", "flagged", "with a flagged pixel"],
        [
            [
                ways[row["calibration"]],
                SETS[row["set"]],
                row["training_images"],
                row["test_images"],
                f"{100 * row['max_false_alarms']:g} %" + ("" if row["supported"] else " (not supported)"),
                row["flagged"],
                row["with_a_flagged_pixel"],
            ]
            for row in sorted(
                results["own_split"], key=lambda r: (list(ways).index(r["calibration"]), order.index(r["set"]))
            )
        ],
    )
    return "\n\n".join(
        (
            "With 95 % confidence: splits in which more than the promised share was flagged, in per cent:",
            block(0.95, "exceeded", "exchangeable_exceeded"),
            "On average: share of the new good images that was flagged, in per cent:",
            block(0.0, "mean_rate", "exchangeable_mean"),
            "Share of the new good images with a small p-value, in per cent:",
            p_values,
            "The sets' own splits, with 95 % confidence: good test images (number) that were flagged:",
            own,
        )
    )


def verdicts(results: dict[str, Any]) -> str:
    """Verdicts of the sets with the defaults; then what random splits of good images made of the promises."""
    names = ("ok", "review", "ng")

    def shares(row: dict[str, Any], which: str) -> list[str]:
        counts = row["verdicts"][which]
        return [f"{100 * counts[name] / sum(counts.values()):.1f}" for name in names]

    header = ["data set", "trained on", "suspects", "good: OK", "REVIEW", "NG", "defective: OK", "REVIEW", "NG"]
    lines = [
        [
            SETS[row["set"]],
            row["training_images"],
            len(row["suspects"]),
            *shares(row, "good"),
            *shares(row, "defective"),
        ]
        for row in results["rows"]
    ]
    means = [f"{results['means'][which][name]:.1f}" for which in ("good", "defective") for name in names]
    whole = table(header, [*lines, ["mean", "", "", *means]])

    def row_of(images: int, source: str, counting: bool) -> list[str]:
        key = (images, source, counting)
        rows = [
            row
            for row in results["simulation"]
            if (row["images"], row["left_out_scores"], row["suspects_count"]) == key
        ]

        def mean(name: str) -> str:
            return percent(sum(row[name] for row in rows) / len(rows))

        def over(which: str) -> str:
            broken, chance = (sum(row[f"{start}_{which}"] for row in rows) for start in ("over_if", "expected_over_if"))
            return f"{broken} ({chance:.0f})"

        splits = sum(row["splits"] for row in rows)
        figures = [mean("ng"), mean("stated_if_bad"), over("bad"), mean("stated_if_good"), over("good")]
        return [images, source, "yes" if counting else "no", splits, *figures, mean("p_at_most_0.1")]

    keys = sorted({(r["images"], r["left_out_scores"], r["suspects_count"]) for r in results["simulation"]})
    header = ["images", "left-out scores by", "suspects count", "splits", "NG", "stated if bad", "splits over it"]
    header += ["stated if good", "splits over it", "p <= 0.1"]
    return "\n\n".join(
        (
            "Images by verdict, in per cent:",
            whole,
            "Random splits of the good images of the four sets, rates in per cent, splits as numbers:",
            table(header, [row_of(*key) for key in keys]),
        )
    )


def audit(results: dict[str, Any]) -> str:
    """What was planted, found and lost, and what became of the image AUROC."""
    header = ["data set", "good", "planted", "found", "good lost", "never seen", "learned", "dropped"]
    cells = [
        [
            SETS[row["set"]],
            row["good"],
            row["planted"],
            row.get("found", "-"),
            row["good_lost"],
            *(percent(row.get(key)) for key in ("auroc_clean", "auroc_contaminated", "auroc_dropped")),
        ]
        for row in results["rows"]
    ]
    return table(header, cells)


def export(results: dict[str, Any]) -> str:
    """Exported graphs beside the library, and what smaller banks cost."""
    header = [
        "data set", "bank", "MB", "same verdicts", "scores differ by", "maps differ by", "graph, ms", "library, ms",
        "good scores rise by", "good NG", "defective NG", "image AUROC",
    ]  # fmt: skip
    cells = [
        [
            SETS[row["set"]],
            f"{row['bank']:,}{', calibrated again' if row['recalibrated'] else ''}",
            f"{row['mb']:.1f}",
            f"{row['same_verdicts']} of {row['images']}",
            f"{row['score']:.0e}",
            f"{row['map']:.0e}",
            f"{row['ms']['graph']:.0f}",
            f"{row['ms']['library']:.0f}",
            f"{100 * row['good_rise']:.1f} %",
            f"{100 * row['good_ng']:.1f} %",
            f"{100 * row['bad_ng']:.1f} %",
            percent(row["auroc"]),
        ]
        for row in results["rows"]
    ]
    return table(header, cells)


def precision(results: dict[str, Any]) -> str:
    """Both precisions beside each other, means over the seeds; and what 8 bits change."""
    header = [
        "data set",
        "preset",
        "seeds",
        "image AUROC",
        "pixel AUROC",
        "AUPRO",
        "features apart",
        "network",
        "whole",
    ]
    rows = []
    for row in results["rows"]:
        pairs = [(row["float32"][key], row["int8"][key]) for key in ("image_auroc", "pixel_auroc", "aupro")]
        figures = ["-" if a is None else f"{a:.1f} / {b:.1f} ({b - a:+.2f})" for a, b in pairs]
        apart = " / ".join(f"{100 * share:.0f} %" for share in row["features_apart"])
        faster = [f"{row['faster'][part]:.2f} x" for part in ("network", "whole")]
        name = SETS.get(row["set"], "tall stacks of tiles")
        rows.append([name, row["preset"], row["seeds"], *figures, apart, *faster])
    lines = [table(header, rows)]
    words = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
    for preset, about in results["int8 minus float32"].items():
        found = [(word, about[key]) for key, word in words.items() if key in about]
        changes = [f"{word} {each['mean']:+.2f} on average, {each['least']:+.2f} at least" for word, each in found]
        lines.append(f"{preset}, int8 minus float32: {'; '.join(changes)}.")
    return "\n\n".join(lines)


def store(results: dict[str, Any]) -> str:
    """The slowest queries of each database, and how many were asked."""
    parts = []
    for name, found in results["databases"].items():
        word = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[name]
        key = "processor_ms" if name == "sqlite" else "ms"
        rows = sorted(found["queries"], key=lambda row: -row[key])
        over = sum(row[key] > results["limit_ms"] for row in rows)
        whole = sorted({each for row in rows for each in row["reads_all"]})
        opening = f"; the store opens in {found['open_s']:.1f} s" if "open_s" in found else ""
        about = (
            f"{word}, {found['rows']:,} inspections ({found['size_gb']:.1f} GB without anomaly maps): {len(rows)} "
            f"queries, {over} of them over {results['limit_ms']} ms. Large tables that a plan reads as a whole: "
            f"{', '.join(whole) or 'none'}. Half of the queries take less than {rows[len(rows) // 2][key]:.1f} ms. An "
            f"inspection is on the disk after {found['write_ms']:.0f} ms{opening}. The slowest queries:"
        )
        unit = "ms of processor time" if name == "sqlite" else "ms"
        parts += [about, table(["query", unit], [[row["query"], f"{row[key]:.1f}"] for row in rows[:12]])]
    return "\n\n".join(parts)


def kills(results: dict[str, Any]) -> str:
    names = {
        "kills": "SIGKILLs",
        "acknowledged": "acknowledged inspections",
        "repeated": "requests that were sent again",
        "lost": "acknowledged, and lost",
        "duplicates": "kept twice",
        "other": "kept, and never acknowledged",
        "orphans": "rows without what they belong to",
        "missing_images": "images that are missing or damaged",
    }
    rows = [[word, f"{results[name]:,}"] for name, word in names.items()]
    rows.append(
        ["PRAGMA integrity_check, audit log, counts by the hour", "whole" if not results["problems"] else "NOT whole"]
    )
    return table(["after the last start", ""], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "default_size": default_size,
    "presets": presets,
    "cost": cost,
    "quality": quality,
    "precision": precision,
    "predict": predict,
    "predict_16": predict,
    "decoding": decoding,
    "search": search,
    "self_test": self_test,
    "export": export,
    "native": native,
    "native_old": native,
    "devices": devices,
    "vit": vit,
    "fit": fit,
    "memory": memory,
    "chunks": chunks,
    "update": update,
    "coreset": coreset,
    "scene": scene,
    "drift": drift,
    "audit": audit,
    "thresholds": thresholds,
    "verdicts": verdicts,
    "store": store,
    "kills": kills,
}
BLOCK = re.compile(r"(<!-- figures: benchmarks/results/(\w+)\.json -->\n).*?(<!-- /figures -->)", re.DOTALL)


def refreshed(page: str, text: str) -> str:
    """The page with its tables as the results have them."""

    def fill(match: re.Match[str]) -> str:
        file = ROOT / "benchmarks" / "results" / f"{match[2]}.json"
        if not file.exists():
            print(f"{page}: {file.name} is not there yet; its table stays as it is")
            return match[0]
        results = json.loads(file.read_text())
        make = summary if (page, match[2]) == ("README.md", "presets") else TABLES[match[2]]
        return f"{match[1]}\n{make(results)}\n\n{match[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(refreshed(page, path.read_text()))


if __name__ == "__main__":
    main()
