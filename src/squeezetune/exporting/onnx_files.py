"""The ONNX formats: float32, float16, int8 and tiny."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.artifact import WHOLES
from squeezetune.disk import write_file
from squeezetune.exporting.order import Order
from squeezetune.exporting.resampling import replace_resize
from squeezetune.learn.codes import FINE_DAMPING
from squeezetune.learn.compression import Compressed, compress_head, compress_layers
from squeezetune.learn.equalisation import equalise
from squeezetune.learn.forms import Form
from squeezetune.learn.graph import build_trunk
from squeezetune.learn.inference import Runtime, open_graph
from squeezetune.learn.int8 import Int8
from squeezetune.learn.layers import store_floats, store_halves
from squeezetune.learn.quantization import FLOAT_RUNTIME, measure_maxima, run_batches
from squeezetune.learn.trained import TrainedNetwork
from squeezetune.model_file import ARITHMETIC

# How many photos of 224 pixels the layers are fitted to, more of smaller ones; and how many the dense layers, which
# have 2,048 numbers to weigh: four times as many halve what is lost.
LAYER_IMAGES, HEAD_IMAGES = 96, 1024
MOST_LAYER_IMAGES, MOST_HEAD_VIEWS = 1024, 8192
FULL_SIDE = 224
# So many parameters a hidden layer has at most in the tiny file: half a megabyte leaves no room for more.
HIDDEN_SIZE = 64 * (2048 + 512)


def write_floats(order: Order, path: Path) -> None:
    """Write float32: the network as it was measured."""
    write_file(path, build_file(order, order.network, Form(store_floats)))


def write_halves(order: Order, path: Path) -> None:
    """Write parameters as float16 that are computed in float32: half the size, at the same speed everywhere."""
    write_file(path, build_file(order, order.network, Form(store_halves)))


def write_tiny(order: Order, path: Path) -> None:
    """Write parameters of four bits that are computed in float32."""
    write_file(path, build_tiny(order))


def build_tiny(order: Order) -> bytes:
    """Build a model with parameters of four bits."""
    compressed = compress(order)
    return build_file(order, compressed.network, Form(compressed.store))


def write_int8(order: Order, path: Path) -> None:
    """Write convolutions in int8, parameters and activations, all of them fitted to training photos."""
    compressed, int8 = fit_int8(order)
    order = replace(order, metadata={**order.metadata, ARITHMETIC: WHOLES})
    write_file(path, build_file(order, compressed.network, Form(compressed.store, int8)))


def fit_int8(order: Order) -> tuple[Compressed, Int8]:
    """Round all parameters to eight bits, fitted to training photos; and say how large activations are."""
    network, pixels = order.network, draw_photos(order)
    equalised = equalise(network.weights, measure_maxima(network.weights, pixels))
    with threadpool_limits(1):  # as below
        compressed = compress_layers(replace(network, weights=equalised.weights), pixels, 8, equalised.ranges)
    int8 = Int8(equalised.ranges, network.side, compressed.codes, equalised.factors)
    return (compressed if network.is_convolved else fit_head(order, compressed, int8)), int8


def build_file(order: Order, network: TrainedNetwork, form: Form) -> bytes:
    """Build a network in some form, with a resize that every runtime computes alike."""
    return replace_resize(network.build_model(order.metadata, form))


def compress(order: Order) -> Compressed:
    """Compress all parameters, the convolutions to four bits."""
    with threadpool_limits(1):  # threads of BLAS stall when the machine is busy, and gain little on these sizes
        compressed = compress_layers(order.network, draw_photos(order))
    return compressed if order.network.is_convolved else fit_head(order, compressed)


def draw_photos(order: Order) -> NDArray[np.uint8]:
    """Draw the photos that layers are fitted to."""
    return order.draw(count_images(LAYER_IMAGES, order.network.side, MOST_LAYER_IMAGES))


def fit_head(order: Order, compressed: Compressed, int8: Int8 | None = None) -> Compressed:
    """Compress the dense layers, fitted to what the compressed layers, or those in int8, give."""
    views = order.network.views
    pixels = order.draw(count_images(HEAD_IMAGES, order.network.side, MOST_HEAD_VIEWS // views))
    exact = open_graph(build_trunk(order.network.weights, views=views), FLOAT_RUNTIME, 1)
    weights = compressed.network.weights
    changed = open_graph(build_trunk(weights, int8, views=views), Runtime("onnxruntime", "int8"), 1)
    features = [run_batches(run, pixels) for run in (exact, changed)]
    with threadpool_limits(1):  # as above
        if int8:
            return compress_head(compressed, features[0], features[1], FINE_DAMPING)
        return compress_head(compressed, features[0], features[1], hidden_size=HIDDEN_SIZE)


def check_onnx(path: Path) -> None:
    """Check an ONNX file as ONNX's own checker does, the shapes of all tensors too."""
    import onnx

    onnx.checker.check_model(onnx.load(path), full_check=True)


def count_images(count: int, side: int, most: int) -> int:
    """Count how many photos of `side` pixels are as much to look at as `count` of full size; at most so many."""
    return min(most, count * FULL_SIDE**2 // side**2)
