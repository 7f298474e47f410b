"""timm's networks, which nobody here wrote, as ONNX files."""

import importlib.util
import warnings
from io import BytesIO

import pytest
from torchvision_models import load_models


def load_timm():
    """Import timm, which imports torchvision."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm, whose networks are foreign to us, is not installed")
    load_models()
    return importlib.import_module("timm")


def make_network(name, side=0):
    """Make a network with random parameters, in evaluation mode; its statistics are random too."""
    import torch

    timm = load_timm()
    torch.manual_seed(0)
    size = {"img_size": side} if side and "deit" in name else {}
    network = timm.create_model(name, pretrained=False, **size).eval()
    for key, value in network.named_buffers():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network


def export(network, side, batch=2, *, dynamo):
    """Export a network; the number of images is free where there are two."""
    import torch

    images, free = torch.zeros(batch, 3, side, side), batch > 1
    buffer = BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript", reason="torch exports with it")
            shapes = {"x": {0: "n"}} if free else None
            options = {"external_data": False, "opset_version": 18, "verbose": False}
            program = torch.onnx.export(
                network, (images,), dynamo=True, dynamic_shapes=shapes, **options
            )
            program.save(buffer)
        else:
            axes = {"x": {0: "n"}} if free else None
            torch.onnx.export(network, (images,), buffer, dynamo=False, input_names=["x"],
                              dynamic_axes=axes, opset_version=17)  # fmt: skip
    return buffer.getvalue()
