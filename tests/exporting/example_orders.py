"""Networks to be exported, of every kind that training leaves, with heads that tell images
apart.
"""

import json
from itertools import pairwise

import numpy as np
import pytest

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture

CLASSES = 4
METADATA = {
    "class_names": json.dumps(["bee", "Kühe", "owl", "<&>"]),
    "image_side": "64",
    "license": "BSD-2-Clause",
}

# Every kind of network, each with another policy of resizing.
NETWORKS = ["squash, 4 views, linear", "crop, 2 views, hidden", "pad, 1 view, convolved"]
# For what takes long with each of them.
first_network = pytest.mark.parametrize(
    "order",
    [NETWORKS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[1:])],
    indirect=True,
    scope="module",
)


def make_order(weights, resize="squash", views=2, side=64, form="linear"):
    """Make an order for a network whose classifier is linear, hidden (a layer between, on means) or
    convolved.
    """
    rng, network = np.random.default_rng(0), detect_architecture(weights)
    features, channels = network.feature_count, network.channels[network.layers[-1].output]
    widths = {
        "linear": [features, CLASSES],
        "hidden": [features, 16, CLASSES],
        "convolved": [channels, CLASSES],
    }[form]
    # means are larger than roots
    scale = 2 if form == "linear" else 0.3
    head = tuple(
        (
            (rng.standard_normal((a, b)) * scale / np.sqrt(a)).astype(np.float32),
            rng.standard_normal(b).astype(np.float32),
        )
        for a, b in pairwise(widths)
    )
    network = TrainedNetwork(
        weights, head, views, side, resize, form == "linear", form == "convolved"
    )
    return ExportInputs(network, network.build_model(METADATA), METADATA)


def make_orders(weights):
    """Make one order of each of `NETWORKS`, by name."""
    orders = (
        make_order(weights, "squash", 4),
        make_order(weights, "crop", 2, form="hidden"),
        make_order(weights, "pad", 1, form="convolved"),
    )
    return dict(zip(NETWORKS, orders, strict=True))
