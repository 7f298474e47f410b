"""Blocks of a graph, and which of its constants are parameters."""

import numpy as np
from foreign_models import WIDTHS, ModelWriter, write_cnn

from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.graph_layout import MOST_BLOCKS


def divide(writer, *outputs, **options):
    return parse_foreign(writer.write(*outputs, **options), "theirs.onnx").layout


def end(writer, x, channels=16):
    """End in a classifier, which is left out."""
    return writer.dense(writer.add("Flatten", writer.add("GlobalAveragePool", x)), channels, 10)


def test_a_plain_network_has_a_block_for_each_layer():
    layout = parse_foreign(write_cnn(), "theirs.onnx").layout
    assert list(layout.owners) == ["c0", "c1", "c2", "c3", "c4"]
    assert [layout.block_names.index(layout.owners[f"c{at}"]) for at in range(5)] == [0, 1, 2, 3, 4]
    assert (layout.frozen_blocks, layout.last_blocks) == (1, 2)


def test_what_joins_again_is_one_block():
    writer = ModelWriter()
    x = writer.convolve("photo", 3, 8)
    inner = writer.convolve(writer.convolve(x, 8, 8, stride=1), 8, 8, stride=1, activation="")
    joined = writer.add("Relu", writer.add("Add", x, inner))
    layout = divide(writer, end(writer, writer.convolve(joined, 8, 16)))
    owners = [layout.owners[f"c{at}"] for at in range(4)]
    assert owners[0] != owners[1] == owners[2] != owners[3]


def test_many_layers_are_joined_to_few_blocks():
    writer = ModelWriter()
    x = writer.stages("photo")
    for _ in range(40):
        x = writer.convolve(x, WIDTHS[-1], WIDTHS[-1], stride=1)
    layout = divide(writer, end(writer, x))
    sizes = [list(layout.owners.values()).count(name) for name in layout.block_names]
    assert len(sizes) <= MOST_BLOCKS
    assert sum(sizes) == 45
    assert max(sizes) <= 4


def test_the_last_blocks_are_a_third_or_as_many_as_somebody_says():
    layout = parse_foreign(write_cnn(), "theirs.onnx").layout
    assert layout.keep_last(0).frozen_blocks == 3
    assert layout.keep_last(1).frozen_blocks == 4
    assert layout.keep_last(8).frozen_blocks == 0


def test_numbers_of_a_formula_masks_and_statistics_are_no_parameters():
    writer = ModelWriter()
    x = writer.stages("photo")
    scale, bias, mean, variance = (
        writer.keep(np.full(16, value), np.float32) for value in range(4)
    )
    x = writer.add("BatchNormalization", x, scale, bias, mean, variance)
    x = writer.add("Mul", x, writer.keep([0.125], np.float32))
    mask = writer.keep([[0.0, -100.0], [-100.0, 0.0]], np.float32)
    places = writer.keep(np.ones((16, 2, 2)), np.float32)
    x = writer.add("Add", writer.add("Add", x, mask), places)
    layout = divide(writer, end(writer, x))
    assert set(layout.owners) == {"c0", "c1", "c2", "c3", "c4", scale, bias, places}


def test_parameters_may_be_turned_before_they_are_used():
    writer = ModelWriter()
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages("photo")))
    weight = writer.draw(40, 16)
    x = writer.add("Relu", writer.add("MatMul", x, writer.add("Transpose", weight, perm=[1, 0])))
    layout = divide(writer, writer.dense(x, 40, 10))
    assert weight in layout.owners


def test_statistics_are_those_of_rgb_pixels():
    options = {"metadata": {"mean": "0.1 0.2 0.3", "std": "0.4 0.5 0.6"}}
    layout = parse_foreign(write_cnn(**options), "theirs.onnx").layout
    assert layout.mean == (0.1, 0.2, 0.3)
    assert layout.std == (0.4, 0.5, 0.6)
