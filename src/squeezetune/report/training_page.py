"""The report of a training run: one self-contained HTML page, and plots for papers."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from itertools import chain
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.events import name_stage
from squeezetune.foreign_settings import FOREIGN_ONLY, TIMM, is_foreign
from squeezetune.quantities import UNKNOWN
from squeezetune.report.curves import Curve, Span, lay_out, trace_curves, write_csv
from squeezetune.report.rendering import Json, render_page

GALLERY_LIMIT = 24  # pictures in each gallery; a thumbnail is some 10 kB
MATRIX_LIMIT = 25  # classes; a wider matrix is no longer read, only scrolled
PICKED_CLASSES = 20  # rows of the matrix where there are more classes than that
# A picture of the whole matrix is about so wide; its colours are seen on light and on dark paper.
PAINTED_PX, PAINT_RIGHT, PAINT_WRONG = 800, (62, 132, 186), (208, 98, 48)
SHADES = 6  # steps of a cell's colour, each with a text colour of enough contrast
LEAST_TOLD_S = 0.05


def render_report(report: Json, thumbnails: Mapping[str, bytes]) -> str:
    """Render a training report as one HTML page that needs no network.

    `report` is the content of `report.json`; `thumbnails` maps image names to JPEG bytes, which are
    embedded. At most `GALLERY_LIMIT` mistakes and as many unsure images are shown.
    """
    return render_page(
        "report/report.html.jinja",
        report=report,
        matrix=_view_matrix(report),
        classes=_sort_classes(report["test"]["per_class"]),
        mistakes=report["mistakes"][:GALLERY_LIMIT],
        thumbnails=thumbnails,
        unsure=report["unsure"][:GALLERY_LIMIT],
        calibration=_describe_calibration(report["test"]),
        usual=report["test"].get("usual"),
        used_classes=sum(1 for item in report["test"]["per_class"] if item["test"]),
        folds=report["test"].get("cross_validation"),
        scale_start=_choose_scale(report["test"]["interval"][0]),
        stages=report.get("stages", ()),
        charts=_draw_charts(report["history"]),
        timings=list_times(report),
        settings=describe_settings(report),
        resized=RESIZED.get(report["model"]["resize"], report["model"]["resize"]),
    )


def make_plots(report: Json) -> dict[str, bytes]:
    """Make what papers need, by file name: plots where matplotlib is installed, and the training
    curve as a table.
    """
    tables = {"training.csv": write_csv(report["history"])} if report["history"] else {}
    if find_spec("matplotlib") is None:
        return tables
    from squeezetune.report.plots import draw_plots  # an extra, and slow to load

    return draw_plots(report) | tables


# ---- the settings and times in words ----

RESIZED = {
    "squash": "squashed to a square",
    "crop": "the middle of the photo",
    "pad": "with black edges",
}
# How an empty setting reads.
EMPTY = {
    "budget": "none",
    "max_ram": "no ceiling",
    "max_model_size": "no limit",
    "weights": "the published ones",
    "group_by": "nothing",
}


def describe_settings(report: Json) -> dict[str, str]:
    """Write the settings for people: what was left open with what was taken for it; what meant
    nothing is left out.
    """
    settings, taken = report["settings"], _list_taken(report)
    return {
        name: _describe_setting(value, taken.get(name, ""), EMPTY.get(name, UNKNOWN))
        for name, value in settings.items()
        if _means_something(name, settings, report)
    }


def _describe_setting(value: object, taken: str, empty: str) -> str:
    if value == "auto" or (taken and not value):
        return f"automatic: {taken}" if taken else "automatic"
    if isinstance(value, float) and 0 < value < 1:
        return f"{100 * value:g}\u00a0%"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else empty


def _list_taken(report: Json) -> dict[str, str]:
    """Say what was taken for settings that were left open."""
    model, folds = report["model"], report["test"].get("cross_validation")
    engine, _, precision = model["engine"].partition(" ")
    layers = [stage["name"] for stage in report.get("stages", ())][1:]  # behind the frozen layers
    return {
        "backbone": model["weights"]["network"],
        "image_side": f"{model['image_side']} px",
        "head": model["head"],
        "views": model["views"],
        "engine": engine,
        "precision": precision,
        "folds": folds["name"] if folds else "a test part",
        "layers": ", ".join(layers) or "the head alone",
        "epochs": "by the number of images",
        "threads": "one for each physical core",
        "last_blocks": ", ".join(layers),
    }


def _means_something(name: str, settings: Json, report: Json) -> bool:
    """Say whether a setting had any bearing on the run."""
    is_original = settings.get("recipe") == "original"
    backbone = settings.get("backbone", "")
    bearings = {
        **{item: settings.get(item) for item in FOREIGN_ONLY},
        "licenses": backbone.startswith(TIMM),
        "weights": not is_foreign(backbone),
        "recipe": is_original,
        "classifier_norm": is_original,
        "last_blocks": settings.get("layers") == "last"
        or (is_original and settings.get("last_blocks")),
        "epochs": is_original or report.get("stages"),
        "repeats": report["test"].get("cross_validation"),
    }
    return bool(bearings.get(name, True))


def list_times(report: Json) -> list[dict[str, Any]]:
    """List how long each stage took, in words, and what is left over, so that they add up to the
    whole.
    """
    times = [
        {"stage": name_stage(item["stage"]), "seconds": item["seconds"]}
        for item in report["timings"]
    ]
    rest = report["total_seconds"] - sum(item["seconds"] for item in times)
    return [*times, {"stage": "All else", "seconds": rest}] if rest >= LEAST_TOLD_S else times


def _describe_calibration(test: Json) -> str:
    """Say what the calibration error means for somebody who reads a confidence."""
    error, bins = test["calibration_error"], [item for item in test["reliability"] if item["count"]]
    if error is None or not bins:
        return ""
    if error < 0.02:
        return "A stated confidence can be taken at its word."
    excess = sum(item["count"] * (item["confidence"] - item["accuracy"]) for item in bins)
    degree = "a little" if error < 0.05 else "clearly"
    if abs(excess) < error / 2 * sum(item["count"] for item in bins):
        return "It is too sure in some cases and too modest in others."
    return f"It is {degree} too {'sure of itself' if excess > 0 else 'modest'}."


def _choose_scale(low: float) -> float:
    """Choose where the bar of the accuracy starts, so that its interval can be seen."""
    return max(
        start for start in (0.0, 0.5, 0.9, 0.99) if start == 0 or low >= start + (1 - start) / 4
    )


# ---- the confusion matrix and the classes ----


def _view_matrix(report: Json) -> Json:
    """Choose the part of the confusion matrix that is shown in figures, and paint the whole where
    that is not all.
    """
    names, confusion = report["class_names"], report["test"]["confusion"]
    is_whole = len(names) <= MATRIX_LIMIT
    shown = range(len(names)) if is_whole else _pick_classes(report)
    return {
        "names": [names[index] for index in shown],
        "rows": [_view_row(names[true], true, confusion[true], shown) for true in shown],
        "is_whole": is_whole,
        "picture": None if is_whole else _paint_matrix(np.asarray(confusion, float)),
    }


def _paint_matrix(counts: NDArray[np.float64]) -> bytes:
    """Paint all cells (classes, classes) as squares, in PNG; what is empty is left clear, for light
    and dark pages.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = np.full((*shares.shape, 4), (*PAINT_WRONG, 0), np.uint8)
    cells[np.diag_indices(len(cells))] = (*PAINT_RIGHT, 0)
    # rare confusions are to be seen beside a strong diagonal: by the square root, and none weaker
    # than a third
    cells[..., 3] = np.where(shares > 0, np.round(85 + 170 * np.sqrt(shares)), 0)
    edge = max(1, PAINTED_PX // len(cells))
    stream = BytesIO()
    Image.fromarray(cells.repeat(edge, axis=0).repeat(edge, axis=1)).save(
        stream, "PNG", optimize=True
    )
    return stream.getvalue()


def _view_row(name: str, true: int, counts: Sequence[int], shown: Sequence[int]) -> Json:
    """Say how often each class that is shown was named, and all others together."""
    total = sum(counts)
    cells = [_view_cell(counts[index], total, true == index) for index in shown]
    others = total - sum(cell["count"] for cell in cells)
    return {"name": name, "cells": cells, "others": others, "total": total}


def _view_cell(count: int, total: int, is_right: bool) -> Json:
    """Give a cell its share of the row, and a class of the style sheet."""
    share = count / total if total else 0.0
    shade = f"{'right' if is_right else 'wrong'} s{ceil(share * SHADES)}"
    return {"count": count, "share": share, "shade": shade}


def _pick_classes(report: Json) -> list[int]:
    """Pick the classes of the most confused pairs, then those of lowest recall, in their usual
    order.
    """
    test = report["test"]
    indices = {name: index for index, name in enumerate(report["class_names"])}
    confused = chain.from_iterable(
        (pair["true"], pair["predicted"]) for pair in test["confused_pairs"]
    )
    weakest = (item["name"] for item in _sort_classes(test["per_class"]))
    picked = list(dict.fromkeys(indices[name] for name in chain(confused, weakest)))
    return sorted(picked[:PICKED_CLASSES])


def _sort_classes(per_class: Sequence[Json]) -> list[Json]:
    """Leave a short table in its order; begin a long one with the lowest recall."""
    if len(per_class) <= MATRIX_LIMIT:
        return list(per_class)
    return sorted(per_class, key=lambda item: 2.0 if item["recall"] is None else item["recall"])


# ---- the curves ----


def _draw_charts(history: Sequence[Json]) -> list[Json]:
    """Draw accuracies into one chart and losses into another; one of which nothing is known is left
    out.
    """
    traced = {quantity: trace_curves(history, quantity) for quantity in ("accuracy", "loss")}
    return [
        _draw_chart(quantity, curves, lay_out(history))
        for quantity, curves in traced.items()
        if curves
    ]


def _draw_chart(quantity: str, curves: Sequence[Curve], spans: tuple[Span, ...]) -> Json:
    """Draw a chart as SVG, 300 wide and 100 high: the dots (x, y), y downwards, of each stage of
    each curve, and its last value.
    """
    values = [value for curve in curves for value in curve.values]
    low, high = floor(min(values) * 10) / 10, ceil(max(values) * 10) / 10
    scale = 100 / ((high - low) or 1)

    def draw_piece(piece: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(round(300 * x, 1), round(100 - (y - low) * scale, 1)) for x, y in piece]

    drawn = [
        {
            "name": curve.name,
            "pieces": [draw_piece(piece) for piece in curve.pieces],
            "last": curve.values[-1],
        }
        for curve in curves
    ]
    return {"quantity": quantity, "low": low, "high": high, "curves": drawn, "spans": spans}
