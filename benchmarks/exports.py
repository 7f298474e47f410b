"""Measure every export: size, accuracy on the test part, agreement, images a second, first answer
and memory.

    python benchmarks/exports.py --data FOLDER [--models digits eth80 cifar10] [--formats onnx
        onnx-int8] [--rounds 5]

Three models: the demonstration's digits, ETH-80, and CIFAR-10 with all layers trained in five
minutes (torch). They are trained in the work folder unless they are there. Accuracy and agreement
are those of `squeezetune export`, on the photos that measured the model. Speed, first answer and
memory are of a process of its own for each format, which run in turn within each round; medians
over the rounds are printed, and ratios of images/s taken within a round, to the float32 ONNX file
in the same runtime (in LiteRT to `tflite`). `web` holds the file of `onnx-tiny`, and is left out
unless it is asked for.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figures import format_spread, print_machine, print_table
from ledger import add_ledger_options, open_ledger
from photos import BACKBONE, PHOTO_SETS, add_photo_options, prepare_photos

from squeezetune.data.datasets.digits import write_digits
from squeezetune.events import ignore_event
from squeezetune.exporting.attempt import open_bench
from squeezetune.exporting.export_index import Exports
from squeezetune.exporting.export_inputs import PhotoLocation, make_exam, open_material
from squeezetune.exporting.exports import export
from squeezetune.exporting.formats import FORMATS, list_formats
from squeezetune.exporting.runtimes import CALL_SIZES, benchmark_export
from squeezetune.exporting.scoring import score_export
from squeezetune.model.classifier import load
from squeezetune.settings import Settings
from squeezetune.training import train

MODELS = {
    "digits": "handwritten digits, frozen layers",
    "eth80": "ETH-80, frozen layers",
    "cifar10": "CIFAR-10, all layers trained, --budget 5m",
}
CHOICES: Mapping[str, Mapping[str, Any]] = {"cifar10": {"budget": "5m"}}
BASELINE, LITERT_BASELINE = "onnx", "tflite"
UNKNOWN = "–"


@dataclass(frozen=True)
class Contender:
    """A file in a runtime; `base` is the name of the contender that it is compared with, if there
    is one.
    """

    name: str
    runtime: str
    path: Path
    base: str


def prepare_model(name: str, options: argparse.Namespace) -> tuple[Path, PhotoLocation]:
    """Train a model unless it is there; return its folder, and where its photos are."""
    if name == "digits":
        photos, pattern, settings = options.work / "digits", "", Settings(backbone=BACKBONE)
        write_digits(photos)
    else:
        photos, pattern = prepare_photos(name, options), PHOTO_SETS[name].class_pattern
        settings = PHOTO_SETS[name].make_settings(**CHOICES.get(name, {}))
    folder = options.work / f"exports-{photos.name}-model"
    if not folder.exists():
        train(photos, folder, settings, class_pattern=pattern)
    return folder, PhotoLocation(photos, pattern)


def measure_model(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Export a model to all formats and measure them: by name of the format what is known of it."""
    model, request = prepare_model(name, options)
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        exports = export(model, options.formats, Path(scratch) / "exports", photos=request.photos,
                         class_pattern=request.class_pattern, measure=False)  # fmt: skip
        exam = make_exam(load(model), open_material(model, request, ignore_event), ignore_event)
        found: dict[str, Any] = {}
        for item in exports.items:
            form = FORMATS[item.format]
            run = form.open(exports.find_path(item.format))
            score = score_export(run, exam, ignore_event, item.format)
            found[item.format] = {"bytes": item.byte_count, "score": asdict(score)}
        sample = open_bench(exam, Path(scratch), None).sample
        contenders = list_contenders(exports)
        for contender in contenders:
            found.setdefault(contender.name, {}).update(base=contender.base, trials=[])
        for _ in range(options.rounds):
            for contender in contenders:
                trial = benchmark_export(contender.runtime, contender.path, sample)
                found[contender.name]["trials"].append(asdict(trial))
    return found


def list_contenders(exports: Exports) -> list[Contender]:
    """List the exports with their runtimes, and the float32 ONNX file in those others that read
    it.
    """
    found = []
    baselines = {
        "onnxruntime": BASELINE,
        "openvino": f"{BASELINE} in openvino",
        "ai_edge_litert": LITERT_BASELINE,
    }
    for item in exports.items:
        form = FORMATS[item.format]
        path = exports.find_path(item.format)
        found.append(Contender(item.format, form.runtime, path, baselines.get(form.runtime, "")))
    runtimes = {contender.runtime for contender in found}
    if BASELINE in {contender.name for contender in found} and "openvino" in runtimes:
        name = baselines["openvino"]
        found.append(Contender(name, "openvino", exports.find_path(BASELINE), name))
    return found


def print_model(name: str, found: Mapping[str, Any]) -> None:
    """Print the table of a model."""
    header = [
        "format",
        "MB",
        "accuracy (95 % interval)",
        "change, points (95 % interval)",
        "same answer",
    ]
    for size in CALL_SIZES:
        header += [f"images/s, {size} a call", "ratio to floats"]
    print(f"\n{MODELS[name]}", flush=True)
    print_table(
        [*header, "first answer, s", "memory, MB"],
        [describe_row(format_, found) for format_ in found],
    )


def describe_row(name: str, found: Mapping[str, Any]) -> list[str]:
    """Write what is known of a format as the cells of a row."""
    own, base = found[name], found.get(found[name]["base"])
    row = [
        name,
        f"{own['bytes'] / 1e6:.2f}" if "bytes" in own else UNKNOWN,
        *describe_score(own.get("score")),
    ]
    for size in map(str, CALL_SIZES):
        speeds = [trial["images_per_s"][size] for trial in own["trials"]]
        others = [trial["images_per_s"][size] for trial in base["trials"]] if base else []
        ratios = [mine / other for mine, other in zip(speeds, others, strict=False)]
        row += [format_spread(speeds, 0), format_spread(ratios, 2) if ratios else UNKNOWN]
    starts = [trial["cold_start_s"] for trial in own["trials"]]
    peaks = [trial["peak_mb"] for trial in own["trials"] if trial["peak_mb"] is not None]
    return [
        *row,
        format_spread(starts, 2),
        f"{statistics.median(peaks):,.0f}" if peaks else UNKNOWN,
    ]


def describe_score(score: Mapping[str, Any] | None) -> list[str]:
    """Write accuracy, change and agreement."""
    if score is None:
        return [UNKNOWN] * 3
    low, high = score["interval"]
    worst, best = (100 * end for end in score["change_interval"])
    return [
        f"{score['accuracy']:.2%} ({low:.1%} to {high:.1%}) of {score['images']:,}",
        f"{100 * score['change']:+.2f} ({worst:+.1f} to {best:+.1f})",
        f"{score['agreement']:.2%}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    usual = [name for name in list_formats() if name != "web"]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=usual, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each format (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["SQUEEZETUNE_CACHE"] = str(options.work / "exports-cache")
    ledger = open_ledger("exports", options)
    print_machine()
    for name in options.models:
        key = {
            "model": name,
            "images": options.images,
            "formats": options.formats,
            "rounds": options.rounds,
        }
        print_model(name, ledger.recall(key, lambda name=name: measure_model(name, options)))  # type: ignore[misc]


if __name__ == "__main__":
    main()
