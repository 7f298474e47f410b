"""The networks in the wheel of onnx: of 2018, with operators of version 9, for one image."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import draw_photos

from squeezetune.network.foreign_reading import read_foreign
from squeezetune.network.inference import Runtime, open_graph

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# The penultimate tensor's values, and what the stages before it give.
WIDTHS = {
    "squeezenet": [256, 512],
    "shufflenet": [136, 272, 544],
    "densenet121": [256, 512, 1024],
    "inception_v1": [480, 832, 1024],
    "inception_v2": [320, 576, 1024],
    "bvlc_alexnet": [256, 256, 256, 4096],
    "resnet50": [512, 1024, 2048],
    "vgg19": [512, 512, 512, 4096],
    "zfnet512": [256, 512, 512, 1024],
}
FAST = ("squeezenet",)
SIGNED = ("densenet121",)  # whose transitions end in a convolution


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in WIDTHS
                      if name not in FAST)]
)  # fmt: skip
def test_networks_in_the_wheel_of_onnx(name):
    path = LIGHT / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this wheel of onnx has no networks")
    network = read_foreign(path)
    assert list(network.widths.values()) == WIDTHS[name]
    assert (network.side, network.batches) == (224, "freed")
    assert network.is_signed == (name in SIGNED)
    assert network.logits
    run = open_graph(network.build_features(), Runtime("onnxruntime", "float32"), 1)
    features = run(draw_photos(2, 224))
    assert features.shape == (2, 1, network.feature_count)
    assert np.isfinite(features).all()
