"""Foreign networks that are kept beside a head: what is read again is what was kept."""

import numpy as np
import pytest
from foreign_models import WIDTHS, ModelWriter, draw_photos, use_halves, write_cnn
from onnx import TensorProto
from safetensors.numpy import load, save

from squeezetune.errors import ArtifactError, WeightsError
from squeezetune.network.float_layers import store_floats, store_halves
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.graph import EXACT, WeightFormat
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork, pack_network, read_metadata, read_network

ONNX = Runtime("onnxruntime", "float32")


def write_one_image():
    """Write a network for one image whose parts cannot be freed."""
    writer = ModelWriter()
    x = writer.add("Reshape", writer.stages("photo"), writer.keep([4, 16]))
    x = writer.add("ReduceMean", x, writer.keep([0]), keepdims=1)
    return writer.write(writer.dense(x, WIDTHS[-1], 10), images=(1, 3, 64, 64))


def make_trained(payload, **options):
    foreign = parse_foreign(payload, "theirs.onnx", **options)
    rng = np.random.default_rng(0)
    head = (
        (rng.normal(size=(foreign.feature_count, 3)).astype(np.float32), np.zeros(3, np.float32)),
    )
    return TrainedNetwork({}, head, 2, foreign.side, "squash", foreign=foreign)


CASES = {
    "plain": write_cnn,
    "halves": lambda: use_halves(write_cnn()),
    "softmax": lambda: write_cnn("Softmax", metadata={"order": "bgr"}),
    "a later version": lambda: write_cnn(opset=20, ir_version=9),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_again_gives_the_same_files(case):
    network = make_trained(CASES[case]())
    payload = pack_network(network)
    again = read_network(payload)
    for form in (EXACT, WeightFormat(store_floats), WeightFormat(store_halves)):
        assert again.build_model({}, form) == network.build_model({}, form)
    assert again.foreign.provenance == network.foreign.provenance
    assert again.foreign.taps == network.foreign.taps
    assert pack_network(again) == payload


def test_an_images_scan_is_kept():
    network = make_trained(write_one_image())
    assert network.foreign.is_sequential
    photos, again = draw_photos(), read_network(pack_network(network))
    first, second = (open_graph(each.build_model({}), ONNX, 1)(photos) for each in (network, again))
    np.testing.assert_array_equal(first, second)


def test_parameters_are_kept_by_name_and_without_the_classifier():
    network = make_trained(write_cnn(classes=100))
    tensors = load(pack_network(network))
    kept = {name: value.dtype for name, value in tensors.items() if name.startswith("backbone.")}
    assert len(kept) == 4  # of 256 values and more
    assert set(kept.values()) == {np.dtype(np.float32)}
    halves = load(pack_network(make_trained(use_halves(write_cnn()))))
    assert {halves[name].dtype for name in kept} == {np.dtype(np.float16)}
    assert not [value for value in tensors.values() if value.shape == (WIDTHS[-1], 100)]


def test_a_damaged_graph_is_refused():
    payload = pack_network(make_trained(write_cnn()))
    tensors = load(payload)
    tensors["graph"] = np.full(40, 255, np.uint8)
    damaged = save(tensors, metadata=dict(read_metadata(payload)))
    with pytest.raises(ArtifactError, match="graph of the frozen layers is damaged"):
        read_network(damaged)
    del tensors["graph"]
    with pytest.raises(ArtifactError, match="parameters cannot be read"):
        read_network(save(tensors, metadata=dict(read_metadata(payload))))


def test_a_graph_alone_is_not_computed_in_int8():
    network = make_trained(write_cnn())
    assert not network.is_described
    with pytest.raises(WeightsError, match=r"theirs\.onnx cannot be computed in int8"):
        network.build_model({}, WeightFormat(store_floats, Int8({})))


def test_values_beyond_float16_are_stored_as_floats():
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo"))
    large = writer.keep(np.full((1, 300, 1, 1), 1e6), np.float32)
    small = writer.keep(np.full((1, 300, 1, 1), 1e-4), np.float32)
    x = writer.add("Mul", writer.convolve(x, WIDTHS[-1], 300, kernel=1, stride=1), large)
    x = writer.add("Mul", x, small)  # features themselves are kept as float16
    x = writer.dense(writer.add("Flatten", x), 300, 10)
    network = make_trained(writer.write(x, kind=TensorProto.FLOAT))
    model = network.build_model({}, WeightFormat(store_halves))
    assert np.isfinite(open_graph(model, ONNX, 1)(draw_photos())).all()
