"""torchvision's networks, which ours are measured by."""

import importlib
import importlib.util

import pytest


def load_models():
    """Import torchvision.models, also where torchvision's compiled operators do not fit the CPU
    build of torch.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision, whose networks are the measure, is not installed")
    try:
        return importlib.import_module("torchvision.models")
    except (
        RuntimeError
    ):  # it describes operators that nobody has declared; only detection uses them
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        models = importlib.import_module("torchvision.models")
        models.declared = library  # what is declared lives as long as the library does
        return models
