"""How many bits the parameters of each layer get."""

from collections.abc import Mapping
from math import prod

from squeezetune.network.architecture import Architecture

# In a network with depth-wise convolutions layers get eight bits that have no larger share of the
# parameters: most of these are in a few layers that are larger.
SMALL_SHARE = 0.04


def choose_bits(network: Architecture, bits: int) -> Mapping[str, int]:
    """Choose the bits of a parameter in each convolution, by path: `bits` of the largest layers.

    The first layer has few, and each of them counts for more: eight. So does what a network with
    depth-wise convolutions has in its smaller layers, where a channel hangs on nine parameters or
    twenty-five; its larger ones get `bits`. Example:

        >>> from squeezetune.network.zoo import NETWORKS
        >>> network = NETWORKS["squeezenet1_1"]
        >>> list(choose_bits(network, 4).values())[:3]
        [8, 4, 4]
    """
    first, shapes = network.convolutions[0], network.list_shapes()
    sizes = {layer.path: prod(shapes[f"{layer.path}.weight"]) for layer in network.convolutions}
    has_depthwise = any(layer.is_depthwise for layer in network.convolutions)
    most = SMALL_SHARE * sum(sizes.values()) if has_depthwise else 0.0
    sizes[first.path] = 0
    return {path: max(8, bits) if size <= most else bits for path, size in sizes.items()}
