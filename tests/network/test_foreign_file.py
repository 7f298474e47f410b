"""Files that are refused, each in words that tell what was found and what to do."""

from contextlib import suppress

import numpy as np
import onnx
import pytest
from foreign_models import SIDE, WIDTHS, ModelWriter, change, draw_photos, write_cnn
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from squeezetune.errors import WeightsError
from squeezetune.network import foreign_file
from squeezetune.network.foreign_file import parse_foreign_file, read_foreign_file
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.preprocessing import PreprocessingOptions


def refuse(payload, match):
    """Read a file that is refused; return what is advised."""
    with pytest.raises(WeightsError, match=match) as caught:
        parse_foreign_file(payload)
    assert caught.value.hint
    return caught.value.hint


@pytest.mark.parametrize("payload", [b"", b"\xff\xd8\xff\xe0 a photo", b"\x08\x08", b"text" * 99])
def test_what_is_no_onnx(payload):
    refuse(payload, "no ONNX file")


def test_a_file_that_was_cut():
    payload = write_cnn()
    refuse(payload[: len(payload) // 2], "ONNX file")


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_read_or_refused_in_words(seed):
    rng, payload = np.random.default_rng(seed), write_cnn(opset=13 if seed == 0 else 18)
    nodes = payload.index(b"theirs")  # they come first, and most damage to parameters is none
    for _ in range(40):
        damaged = bytearray(payload)
        for at in rng.integers(0, nodes, 2):
            damaged[at] = rng.integers(256)
        with suppress(WeightsError):  # and nothing else
            assert parse_foreign(bytes(damaged), "theirs.onnx").feature_count


def test_names_that_are_no_text():
    payload = write_cnn().replace(b"elsewhere", b"else\xffhere")
    refuse(payload, "a name in it is no text")
    refuse(write_cnn().replace(b"Flatten", b"Flat\xffen"), "a name in it is no text")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        read_foreign_file(tmp_path / "none.onnx")


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_file, "MOST_BYTES", 10_000)
    path = tmp_path / "large.onnx"
    path.write_bytes(write_cnn())
    with pytest.raises(WeightsError, match=r"large\.onnx: The file has 0 MiB; at most 0 can"):
        read_foreign_file(path)
    refuse(path.read_bytes(), "at most")


def test_parameters_in_other_files_are_not_opened(tmp_path):
    def put_outside(model):
        tensor = model.graph.initializer[0]
        set_external_data(tensor, location=str(tmp_path / "secret"))
        tensor.ClearField("raw_data")

    hint = refuse(change(write_cnn(), put_outside), r"other files .*\(external data\)")
    assert "save_as_external_data=False" in hint


def test_constants_of_nodes_in_other_files_are_not_opened():
    writer = ModelWriter()
    outside = numpy_helper.from_array(np.ones(3, np.float32))
    set_external_data(outside, location="elsewhere")
    outside.ClearField("raw_data")
    x = writer.add("Mul", "photo", writer.add("Constant", value=outside))
    refuse(writer.write(x), "external data")


def test_sparse_parameters():
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, places, [4])
    payload = change(write_cnn(), lambda model: model.graph.sparse_initializer.append(sparse))
    refuse(payload, "sparse parameters")


def test_operators_of_one_runtime():
    writer = ModelWriter()
    x = writer.add("FusedConv", "photo", writer.draw(4, 3, 3, 3), domain="com.microsoft")
    payload = writer.write(x, domains=["com.microsoft"])
    hint = refuse(payload, r"not among ONNX's own: com\.microsoft\.FusedConv")
    assert "without optimisations" in hint


def test_conditions_and_loops():
    writer = ModelWriter()
    branch = helper.make_graph(
        [helper.make_node("Identity", ["photo"], ["same"])],
        "branch",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    truth = writer.keep(True, np.bool_)
    x = writer.add("If", truth, then_branch=branch, else_branch=branch)
    refuse(writer.write(x), "by conditions or again and again: If")


def test_whole_numbers():
    writer = ModelWriter()
    x = writer.add("Cast", "photo", to=TensorProto.UINT8)
    x = writer.add("ConvInteger", x, writer.keep(np.ones((4, 3, 3, 3)), np.uint8))
    hint = refuse(writer.write(x), "whole numbers: ConvInteger")
    assert "DequantizeLinear" in hint


def test_a_graph_that_is_wrong():
    payload = change(write_cnn(), lambda model: model.graph.node[0].input.append("nobody"))
    refuse(payload, "The ONNX file is damaged")


def test_two_inputs():
    other = helper.make_tensor_value_info("text", TensorProto.INT64, ["n", 77])
    writer = ModelWriter()
    payload = writer.write(writer.stages("photo"), extra=[other])
    hint = refuse(payload, r"2 inputs \(photo, text\); needed is one")
    assert "images alone" in hint


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (("n", 1, SIDE, SIDE), r"'photo' \(\?, 1, 64, 64\) has 1 channels; needed are 3"),
        (("n", 3, 64, 32), "not square"),
        (("n", 32, 64, 3), "not square"),
        (("n", 3 * SIDE * SIDE), "2 dimensions; needed are four"),
    ],
)
def test_images_of_other_shapes(images, match):
    writer = ModelWriter()
    refuse(writer.write(writer.add("Relu", "photo"), images=images), match)


def test_images_in_other_numbers():
    writer = ModelWriter()
    x = writer.add("Cast", "photo", to=TensorProto.FLOAT)
    refuse(writer.write(x, kind=TensorProto.INT32), "is int32; needed are floats or uint8")


def test_operators_that_cannot_be_brought_to_our_version(monkeypatch):
    def fail(model, version):
        raise RuntimeError("no adapter for Upsample\nat line 5")

    monkeypatch.setattr(foreign_file, "convert_version", fail)
    hint = refuse(write_cnn(opset=13), "version 13, which cannot be brought to 18: no adapter for")
    assert "opset_version=18" in hint


def test_a_version_that_computes_something_else_is_refused(monkeypatch):
    def convert_wrongly(model, version):
        found = onnx.version_converter.convert_version(model, version)
        found.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(
                2 * numpy_helper.to_array(found.graph.initializer[0]),
                found.graph.initializer[0].name,
            )
        )
        return found

    monkeypatch.setattr(foreign_file, "convert_version", convert_wrongly)
    refuse(write_cnn(opset=13), "version 13, and computes something else")


def test_a_side_that_the_network_does_not_take():
    with pytest.raises(WeightsError, match="64 x 64 pixels alone; asked for is 96"):
        parse_foreign(write_cnn(), "theirs.onnx", PreprocessingOptions(side=96))


def test_a_side_that_does_not_fit_its_constants():
    writer = ModelWriter()
    x = writer.add("Reshape", writer.stages("photo"), writer.keep([0, 16 * 2 * 2]))
    payload = writer.write(writer.dense(x, 64, 10), images=("n", 3, "height", "width"))
    assert parse_foreign(payload, "theirs.onnx", PreprocessingOptions(side=SIDE)).side == SIDE
    with pytest.raises(WeightsError, match="128 x 128 pixels were tried") as caught:
        parse_foreign(payload, "theirs.onnx", PreprocessingOptions(side=128))
    assert "side that it was trained with" in caught.value.hint


def test_every_side_is_taken_where_the_graph_takes_it():
    payload = write_cnn(images=("n", 3, "height", "width"))
    assert parse_foreign(payload, "theirs.onnx").side == 224
    network = parse_foreign(payload, "theirs.onnx", PreprocessingOptions(side=96))
    features = open_graph(network.build_features(), Runtime("onnxruntime", "float32"), 1)
    assert features(draw_photos(2, 96)).shape == (2, 1, 36)


# ---- one form


def test_functions_within_a_file_are_unfolded():
    writer = ModelWriter()
    maps = writer.stages("photo")
    x = writer.add("MeanOfMaps", maps, domain="theirs")
    payload = writer.write(writer.dense(x, WIDTHS[-1], 10), domains=["theirs"])

    def describe(model):
        nodes = [
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["means"]),
        ]
        opsets = [helper.make_opsetid("", 18)]
        function = helper.make_function("theirs", "MeanOfMaps", ["maps"], ["means"], nodes, opsets)
        model.functions.append(function)

    network = parse_foreign(change(payload, describe), "theirs.onnx")
    assert [tap.width for tap in network.taps] == [8, 12, 16]


def test_notes_on_nodes_are_forgotten():
    def note(model):
        for node in model.graph.node:
            node.doc_string = "/home/somebody/secret/model.py"

    network = parse_foreign(change(write_cnn(), note), "theirs.onnx")
    head = ((np.ones((network.feature_count, 2), np.float32), np.zeros(2, np.float32)),)
    model = network.build_model(head, views=1, resize="squash", metadata={})
    assert b"somebody" not in model


@pytest.mark.parametrize(
    ("kind", "value"),
    [("value_float", 2.0), ("value", numpy_helper.from_array(np.float32(2)))],
)
def test_constants_of_nodes_are_constants(kind, value):
    writer = ModelWriter()
    x = writer.add("Mul", writer.stages("photo"), writer.add("Constant", **{kind: value}))
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    file = parse_foreign_file(writer.write(writer.dense(x, 16, 10)))
    assert "Constant" not in {node.op_type for node in file.model.graph.node}
    assert parse_foreign(writer.write(writer.dense(x, 16, 10)), "x", cut=x).taps[-1].width == 16


def test_a_constant_that_is_no_number():
    writer = ModelWriter()
    writer.add("Constant", value_string="text")
    refuse(writer.write(writer.stages("photo")), "constant of the kind value_string")
