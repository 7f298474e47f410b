"""A folder of photos becomes an accurate image classifier in minutes, on a computer without a GPU.

The public names are loaded on first use, so that `import squeezetune` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeezetune.audit import Audit, check
    from squeezetune.cleaning import Change, Cleaned, apply_audit
    from squeezetune.data.fetching import fetch_dataset
    from squeezetune.errors import (
        ArtifactError,
        CheckpointError,
        ClassesError,
        DataError,
        ExportError,
        ImageError,
        MissingExtraError,
        SettingsError,
        SourceError,
        SqueezeTuneError,
        WeightsError,
    )
    from squeezetune.estimator import SqueezeTuneClassifier
    from squeezetune.explanation import Explanation, explain
    from squeezetune.exporting.exports import export
    from squeezetune.exporting.record import Exports
    from squeezetune.findings import Finding
    from squeezetune.learn.evaluation import Evaluation
    from squeezetune.learn.network import SqueezeNet, build_network
    from squeezetune.learn.summary import describe
    from squeezetune.learn.surgery import freeze, replace_classifier, unfreeze_last
    from squeezetune.measurement import FolderEvaluation, evaluate
    from squeezetune.prediction import Classifier, Prediction, load
    from squeezetune.settings import Settings
    from squeezetune.training import forecast, train
    from squeezetune.watching import watch

_HOMES = {
    "ArtifactError": "errors",
    "Audit": "audit",
    "Change": "cleaning",
    "CheckpointError": "errors",
    "ClassesError": "errors",
    "Classifier": "prediction",
    "Cleaned": "cleaning",
    "DataError": "errors",
    "Evaluation": "learn.evaluation",
    "Explanation": "explanation",
    "ExportError": "errors",
    "Exports": "exporting.record",
    "Finding": "findings",
    "FolderEvaluation": "measurement",
    "ImageError": "errors",
    "MissingExtraError": "errors",
    "Prediction": "prediction",
    "Settings": "settings",
    "SettingsError": "errors",
    "SourceError": "errors",
    "SqueezeNet": "learn.network",
    "SqueezeTuneClassifier": "estimator",
    "SqueezeTuneError": "errors",
    "WeightsError": "errors",
    "apply_audit": "cleaning",
    "build_network": "learn.network",
    "check": "audit",
    "describe": "learn.summary",
    "evaluate": "measurement",
    "explain": "explanation",
    "export": "exporting.exports",
    "fetch_dataset": "data.fetching",
    "forecast": "training",
    "freeze": "learn.surgery",
    "load": "prediction",
    "replace_classifier": "learn.surgery",
    "train": "training",
    "unfreeze_last": "learn.surgery",
    "watch": "watching",
}

__all__ = [
    "ArtifactError",
    "Audit",
    "Change",
    "CheckpointError",
    "ClassesError",
    "Classifier",
    "Cleaned",
    "DataError",
    "Evaluation",
    "Explanation",
    "ExportError",
    "Exports",
    "Finding",
    "FolderEvaluation",
    "ImageError",
    "MissingExtraError",
    "Prediction",
    "Settings",
    "SettingsError",
    "SourceError",
    "SqueezeNet",
    "SqueezeTuneClassifier",
    "SqueezeTuneError",
    "WeightsError",
    "apply_audit",
    "build_network",
    "check",
    "describe",
    "evaluate",
    "explain",
    "export",
    "fetch_dataset",
    "forecast",
    "freeze",
    "load",
    "replace_classifier",
    "train",
    "unfreeze_last",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("squeezetune")
    if name not in _HOMES:
        raise AttributeError(f"module 'squeezetune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"squeezetune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
