"""The model card: what the exported classifier is, what it is worth, and how to run it in each
format.

The header is Hugging Face's metadata of model cards; the sections follow Mitchell et al. 2019,
"Model Cards for Model Reporting".
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from squeezetune.errors import ArtifactError
from squeezetune.exporting.export_index import Export, Exports
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.formats import FORMATS
from squeezetune.model.classifier import Classifier
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture
from squeezetune.network.zoo import ARCHITECTURES
from squeezetune.quantities import UNKNOWN, format_points, format_share
from squeezetune.system.machine import name_processor

# Those of published weights, in letters that Hugging Face writes small.
LICENSES = ("BSD-2-Clause", "BSD-3-Clause", "Apache-2.0")
# What Markdown reads as more than a letter, and what breaks a line of a table.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def write_card(exports: Exports, classifier: Classifier, order: ExportInputs) -> str:
    """Write the model card as Markdown."""
    try:
        report: Mapping[str, Any] = classifier.report
    except ArtifactError:  # the figures are lost; the exports have their own
        report = {}
    about, scores = order.metadata, [item.score for item in exports.items if item.score]
    network = order.network
    license_text = about.get("license", "licence unknown")
    return _load_template().render(
        title=report.get("title", exports.folder.name),
        class_names=classifier.class_names,
        network=report.get("model", {}).get("network", about.get("network", network.title)),
        version=classifier.manifest.version,
        created=classifier.manifest.created,
        data=report.get("data"),
        test=report.get("test"),
        fingerprint=about.get("data_fingerprint", ""),
        rows=[describe_export(item) for item in exports.items],
        unmeasured=[item for item in exports.items if item.unmeasured],
        failures=exports.failures,
        measured=bool(scores),
        honest=all(score.is_honest for score in scores),
        processor=name_processor(),
        side=network.side,
        resize=network.resize,
        weights=about.get("weights", "of unknown origin"),
        license=name_license(license_text),
        license_text=license_text,
        library="onnx",
        tags=["image-classification", *name_family(network), "squeezetune", "onnx"],
    )


def name_family(network: TrainedNetwork) -> list[str]:
    """Name a network as Hugging Face's tags do: the versions of SqueezeNet are one; of a graph
    alone nobody knows it.
    """
    if not network.is_described:
        return []
    architecture = detect_architecture(network.weights)
    return ["squeezenet" if architecture.version in ARCHITECTURES else architecture.name]


def name_license(text: str) -> str:
    """Find Hugging Face's name of the licence that a text says the weights have."""
    return next((name.lower() for name in LICENSES if name in text), "other")


def describe_export(item: Export) -> dict[str, Any]:
    """Put what is known of an export into words and figures."""
    score, trial, form = item.score, item.trial, FORMATS[item.format]
    row = dict.fromkeys(
        ("accuracy", "change", "agreement", "speed", "cold_start", "memory"), UNKNOWN
    )
    if score:
        low, high = (format_share(end) for end in score.interval)
        row["accuracy"] = (
            f"{format_share(score.accuracy)} ({low} to {high})" if score.is_honest else UNKNOWN
        )
        ends = [format_points(end, 1) for end in score.change_interval]
        row["change"] = f"{format_points(score.change)} ({ends[0]} to {ends[1]})"
        row["agreement"] = format_share(score.agreement)
    if trial:
        row["speed"] = " / ".join(f"{speed:,.0f}" for speed in trial.images_per_s.values())
        row["cold_start"] = f"{trial.cold_start_s:.2f}"
        row["memory"] = UNKNOWN if trial.peak_mb is None else f"{trial.peak_mb:,.0f}"
    return row | {
        "format": item.format,
        "file": item.path,
        "words": form.words,
        "needs": form.needs,
        "megabytes": f"{item.byte_count / 1e6:.2f}",
        "honest": bool(score and score.is_honest),
        "accuracy_value": round(score.accuracy, 4) if score else None,
        "usage": form.usage.replace("FILE", item.path),
    }


def describe_accuracy(item: Export) -> str:
    """Write the accuracy of an export alone; nothing of photos that the model has learnt from."""
    return format_share(item.score.accuracy if item.score and item.score.is_honest else None)


def escape_markdown(text: object) -> str:
    """Write a text so that Markdown shows it as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", _UNPRINTABLE.sub(" ", str(text)))


@cache
def _load_template() -> Template:
    environment = Environment(  # Markdown: values are escaped by a filter
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": escape_markdown,
        "percent": format_share,
        "json": json.dumps,
        "count": "{:,}".format,
    }
    return environment.get_template("card.md.jinja")
