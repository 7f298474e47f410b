"""A folder of photos becomes an accurate image classifier in minutes, on a computer without a GPU.

The public names are loaded on first use, so that `import squeezetune` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeezetune.audit.audit import Audit, check
    from squeezetune.audit.cleaning import Change, Cleaned, apply_audit
    from squeezetune.audit.findings import Finding
    from squeezetune.data.datasets.fetching import fetch_dataset
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
    from squeezetune.evaluation.measurement import FolderEvaluation, evaluate
    from squeezetune.evaluation.metrics import Evaluation
    from squeezetune.exporting.export_index import Exports
    from squeezetune.exporting.exports import export
    from squeezetune.finetune.summary import describe
    from squeezetune.finetune.surgery import freeze, replace_classifier, unfreeze_last
    from squeezetune.finetune.torch_network import SqueezeNet, build_network
    from squeezetune.integrations.estimator import SqueezeTuneClassifier
    from squeezetune.model.classifier import Classifier, Prediction, load
    from squeezetune.model.explanation import Explanation, explain
    from squeezetune.settings import Settings
    from squeezetune.training import forecast, train
    from squeezetune.watching import watch

_HOMES = {
    "ArtifactError": "errors",
    "Audit": "audit.audit",
    "Change": "audit.cleaning",
    "CheckpointError": "errors",
    "ClassesError": "errors",
    "Classifier": "model.classifier",
    "Cleaned": "audit.cleaning",
    "DataError": "errors",
    "Evaluation": "evaluation.metrics",
    "Explanation": "model.explanation",
    "ExportError": "errors",
    "Exports": "exporting.export_index",
    "Finding": "audit.findings",
    "FolderEvaluation": "evaluation.measurement",
    "ImageError": "errors",
    "MissingExtraError": "errors",
    "Prediction": "model.classifier",
    "Settings": "settings",
    "SettingsError": "errors",
    "SourceError": "errors",
    "SqueezeNet": "finetune.torch_network",
    "SqueezeTuneClassifier": "integrations.estimator",
    "SqueezeTuneError": "errors",
    "WeightsError": "errors",
    "apply_audit": "audit.cleaning",
    "build_network": "finetune.torch_network",
    "check": "audit.audit",
    "describe": "finetune.summary",
    "evaluate": "evaluation.measurement",
    "explain": "model.explanation",
    "export": "exporting.exports",
    "fetch_dataset": "data.datasets.fetching",
    "forecast": "training",
    "freeze": "finetune.surgery",
    "load": "model.classifier",
    "replace_classifier": "finetune.surgery",
    "train": "training",
    "unfreeze_last": "finetune.surgery",
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
