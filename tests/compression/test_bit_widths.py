from math import prod

import pytest

from squeezetune.compression.bit_widths import SMALL_SHARE, choose_bits
from squeezetune.network.zoo import NETWORKS


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18"])
def test_without_depthwise_convolutions_the_first_layer_alone_gets_more(name):
    first, *others = choose_bits(NETWORKS[name], 4).values()
    assert first == 8
    assert set(others) == {4}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2", "mobilenet_v3_small"])
def test_beside_depthwise_convolutions_the_largest_layers_alone_get_few(name):
    network = NETWORKS[name]
    widths, shapes = choose_bits(network, 4), network.list_shapes()
    sizes = {path: prod(shapes[f"{path}.weight"]) for path in widths}
    few, more = ([sizes[path] for path in widths if widths[path] == bits] for bits in (4, 8))
    assert max(more) <= SMALL_SHARE * sum(sizes.values()) < min(few)
    assert all(widths[layer.path] == 8 for layer in network.convolutions if layer.is_depthwise)
    assert sum(few) > sum(more)  # the file stays nearer to four bits than to eight


def test_eight_bits_are_eight_everywhere():
    assert set(choose_bits(NETWORKS["efficientnet_lite0"], 8).values()) == {8}
