"""Networks from elsewhere as frozen layers: what is found in small files, and that it is what ONNX
Runtime makes of the very files.
"""

import numpy as np
import pytest
from foreign_models import (
    SIDE,
    WIDTHS,
    ModelWriter,
    average,
    change,
    draw_photos,
    normalise,
    run_tensors,
    use_halves,
    write_cnn,
)
from onnx import TensorProto, helper
from PIL import Image
from sessions import open_session

from squeezetune.data.pixels import PixelSettings, fit_image
from squeezetune.errors import WeightsError
from squeezetune.heads.familiarity import fit_discriminants, weigh_parts
from squeezetune.heads.linear import apply_layers
from squeezetune.network.float_layers import FloatLayers, store_halves
from squeezetune.network.foreign_reading import (
    ALIVE_TIMES,
    check_range,
    parse_foreign,
    read_foreign,
)
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.preprocessing import PreprocessingOptions
from squeezetune.network.zoo import SQUEEZENET1_1

FLOAT = Runtime("onnxruntime", "float32")
# The ReLUs at strides 8, 16 and 32 of `write_cnn`, and the flattened mean.
RELUS, FLAT = ["t5", "t7", "t9"], "t11"


def extract(network, photos, views=1):
    return open_graph(network.build_features(views), FLOAT, 1)(photos)


def name_taps(network):
    return [tap.tensor for tap in network.taps]


# ---- a plain network


def test_stages_and_the_penultimate_tensor_are_found_and_equal_the_file_itself():
    payload, photos = write_cnn(), draw_photos()
    network = parse_foreign(payload, "theirs.onnx")
    assert name_taps(network) == [*RELUS[:2], FLAT]  # the last map's mean is the penultimate tensor
    assert list(network.widths.values()) == [8, 12, 16]
    assert (network.side, network.feature_count, network.is_signed) == (SIDE, 36, False)
    maps = run_tensors(payload, name_taps(network), normalise(photos))
    expected = np.concatenate([average(each) for each in maps], axis=1)
    np.testing.assert_allclose(extract(network, photos)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_views_are_image_mirror_image_and_their_middles():
    network, photos = parse_foreign(write_cnn(), "theirs.onnx"), draw_photos()
    four = extract(network, photos, views=4)
    assert four.shape == (3, 4, network.feature_count)
    mirrored = np.ascontiguousarray(photos[:, :, ::-1])
    for view, pixels in enumerate((photos, mirrored)):
        np.testing.assert_allclose(four[:, view : view + 1], extract(network, pixels), rtol=1e-4,
                                   atol=1e-5)  # fmt: skip
    np.testing.assert_array_equal(four[:, :2], extract(network, photos, views=2))
    margin = SIDE * 3 // 40
    box = (margin, margin, SIDE - margin, SIDE - margin)
    middles = [np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BILINEAR,
                                                       box=box)) for each in photos]  # fmt: skip
    distance = np.abs(four[:, 2] - extract(network, np.stack(middles))[:, 0]).max()
    assert distance < 0.02 * np.abs(four).max()


def test_the_same_file_gives_the_same_bytes():
    payload = write_cnn()
    first, second = (parse_foreign(payload, "theirs.onnx") for _ in range(2))
    assert first.build_features(2) == second.build_features(2)
    assert first.sha256 == second.sha256 != parse_foreign(write_cnn(classes=9), "x").sha256


@pytest.mark.parametrize("end", ["Gemm", "Softmax"])
def test_the_classifier_is_left_out_and_can_be_tapped(end):
    payload, photos = write_cnn(end), draw_photos()
    network = parse_foreign(payload, "theirs.onnx")
    logits = parse_foreign(payload, "theirs.onnx", taps=[network.logits])
    assert logits.feature_count == 10
    [expected] = run_tensors(payload, [network.logits], normalise(photos))
    np.testing.assert_allclose(extract(logits, photos)[:, 0], expected, rtol=1e-3, atol=1e-4)
    assert logits.is_signed


# ---- other ways to read images


def write_channels_last(kind=TensorProto.FLOAT):
    writer = ModelWriter()
    x = writer.add("Cast", "photo", to=TensorProto.FLOAT) if kind != TensorProto.FLOAT else "photo"
    x = writer.stages(writer.add("Transpose", x, perm=[0, 3, 1, 2]))
    x = writer.add("ReduceMean", x, writer.keep([2, 3]), keepdims=0)
    x = writer.dense(x, WIDTHS[-1], 10)
    return writer.write(x, images=("n", SIDE, SIDE, 3), kind=kind)


def test_channels_may_be_last():
    payload, photos = write_channels_last(), draw_photos()
    network = parse_foreign(payload, "theirs.onnx")
    images = np.ascontiguousarray(normalise(photos).transpose(0, 2, 3, 1))
    maps = run_tensors(payload, name_taps(network), images)
    expected = np.concatenate([average(each) for each in maps], axis=1)
    np.testing.assert_allclose(extract(network, photos)[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert "(n, side, side, 3) floats" in network.describe()


def test_the_layout_is_told_by_what_reads_the_images_where_no_axis_is_named():
    last = change(write_channels_last(), free_axes)
    first = change(write_cnn(), free_axes)
    options = PreprocessingOptions(side=SIDE)
    networks = [parse_foreign(each, "x", options) for each in (last, first)]
    assert [network.file.image.channels_last for network in networks] == [True, False]


def free_axes(model):
    for at, axis in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        axis.dim_param = f"axis{at}"


def test_a_network_may_take_pixels_as_they_are():
    payload, photos = write_channels_last(TensorProto.UINT8), draw_photos()
    network = parse_foreign(payload, "theirs.onnx")
    [expected] = run_tensors(payload, [network.taps[-1].tensor], photos)
    found = extract(network, photos)[:, 0, -WIDTHS[-1] :]
    np.testing.assert_allclose(found, average(expected), rtol=1e-4, atol=1e-3)
    assert "inside the network" in network.describe()


def test_channels_may_be_blue_green_red():
    payload, photos = write_cnn(), draw_photos()
    options = PreprocessingOptions(mean=(103.5, 116, 123.5), std=(1.0,), order="bgr")
    network = parse_foreign(payload, "theirs.onnx", options)
    images = (photos[..., ::-1] - np.array([103.5, 116, 123.5])).transpose(0, 3, 1, 2)
    [expected] = run_tensors(payload, [FLAT], np.ascontiguousarray(images, np.float32))
    found = extract(network, photos)[:, 0, -WIDTHS[-1] :]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert "of values of 0 to 255" in network.describe()


def test_float16_is_computed_in_float32():
    payload, photos = use_halves(write_cnn()), draw_photos()
    network = parse_foreign(payload, "theirs.onnx")
    assert name_taps(network) == [*RELUS[:2], FLAT]
    [expected] = run_tensors(payload, [FLAT], normalise(photos).astype(np.float16))
    found = extract(network, photos)[:, 0, -WIDTHS[-1] :]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01 * expected.max())


def test_operators_of_earlier_versions_are_brought_to_ours():
    writer, photos = ModelWriter(), draw_photos()
    x = writer.add("Clip", writer.stages("photo"), min=0.0, max=6.0)
    x = writer.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    payload = writer.write(writer.dense(x, WIDTHS[-1], 10), opset=9, ir_version=3)
    payload = change(payload, lambda model: model.graph.input.extend(
        helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        for each in model.graph.initializer))  # fmt: skip
    network = parse_foreign(payload, "theirs.onnx")
    assert not network.is_signed
    [expected] = run_tensors(payload, [x], normalise(photos))
    found = extract(network, photos)[:, 0, -WIDTHS[-1] :]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_operators_of_later_versions_stay():
    network = parse_foreign(write_cnn(opset=21, ir_version=10), "theirs.onnx")
    assert extract(network, draw_photos()).shape == (3, 1, 36)


# ---- several images at once


def write_reshaped(batch):
    """Write a network with the number of images in its constants, and a class token."""
    writer = ModelWriter()
    patches = writer.convolve("photo", 3, 8, kernel=17, stride=16, activation="")
    x = writer.add("Reshape", patches, writer.keep([batch, 8, 16]))
    x = writer.add("Transpose", x, perm=[0, 2, 1])
    token = writer.add("Expand", writer.draw(1, 1, 8), writer.keep([batch, 1, 8]))
    x = writer.add("Concat", token, x, axis=1)
    x = writer.add("Add", x, writer.add("MatMul", x, writer.draw(8, 8)))
    mixed = writer.add("Softmax", writer.add("MatMul", x, writer.add("Transpose", x,
                                                                     perm=[0, 2, 1])))  # fmt: skip
    x = writer.add("MatMul", mixed, x)
    first = writer.add("Gather", x, writer.keep(0), axis=1)
    logits = writer.dense(first, 8, 10)
    return writer.write(logits, images=(batch, 3, SIDE, SIDE)), x, first


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_number_of_images_becomes_free(batch):
    payload, tokens, first = write_reshaped(batch)
    network = parse_foreign(payload, "theirs.onnx")
    assert network.batches == "freed"
    assert name_taps(network) == [tokens, first]
    alone, _, _ = write_reshaped(1)  # the same constants but for the number
    photos = draw_photos(5)
    sequence, token = run_tensors(alone, [tokens, first], normalise(photos))
    expected = np.concatenate([sequence[:, 1:].mean(axis=1), token], axis=1)
    np.testing.assert_allclose(extract(network, photos)[:, 0], expected, rtol=1e-4, atol=1e-5)


def write_rigid():
    """Write a network whose resize names the number of images."""
    writer = ModelWriter()
    x = writer.convolve("photo", 3, 8, stride=8)
    x = writer.add("Resize", x, "", "", writer.keep([1, 8, 16, 16]), mode="nearest")
    x = writer.convolve(x, 8, 16, stride=4)
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    return writer.write(writer.dense(x, 16, 10), images=(1, 3, SIDE, SIDE)), x


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_cannot_be_freed_is_run_on_one_image_after_the_other(engine):
    pytest.importorskip(engine, reason="an extra")
    payload, flat = write_rigid()
    network = parse_foreign(payload, "theirs.onnx")
    assert network.batches == "one by one"
    assert "one after the other, which is slower" in network.describe()
    photos = draw_photos(4)
    [expected] = run_tensors(payload, [flat], normalise(photos))
    graph = network.build_features(2)
    found = open_graph(graph, Runtime(engine, "float32"), 1)(photos)
    assert found.shape == (4, 2, network.feature_count)
    np.testing.assert_allclose(found[:, 0, -16:], expected, rtol=1e-4, atol=1e-5)
    mirrored = open_graph(graph, Runtime(engine, "float32"), 1)(photos[:, :, ::-1].copy())
    np.testing.assert_allclose(found[:, 1], mirrored[:, 0], rtol=1e-4, atol=1e-5)


def test_a_network_that_looks_at_all_images_at_once_is_refused():
    writer = ModelWriter()
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages("photo")))
    x = writer.add("Add", x, writer.add("ReduceMean", x, writer.keep([0])))
    with pytest.raises(WeightsError, match="hangs on the images beside it") as caught:
        parse_foreign(writer.write(writer.dense(x, 16, 10)), "theirs.onnx")
    assert "model.eval()" in caught.value.hint


def draw_noise(writer, x):
    return writer.add("Add", x, writer.add("RandomNormalLike", x))


def norm_in_training(writer, x):
    ones, zeros = (writer.keep(np.full(16, value), np.float32) for value in (1, 0))
    return writer.add("BatchNormalization", x, ones, zeros, zeros, ones, outputs=3, training_mode=1)


@pytest.mark.parametrize("change_maps", [draw_noise, norm_in_training])
def test_a_network_that_gives_other_values_each_time_is_refused(change_maps):
    writer = ModelWriter()
    x = change_maps(writer, writer.stages("photo"))
    x = writer.add("Flatten", writer.add("GlobalMaxPool", x))
    with pytest.raises(WeightsError, match="other values each time") as caught:
        parse_foreign(writer.write(writer.dense(x, 16, 10)), "theirs.onnx")
    assert "model.eval()" in caught.value.hint


def test_a_network_whose_parameters_are_no_numbers_is_refused():
    writer = ModelWriter()
    x = writer.add("Mul", writer.stages("photo"), writer.keep(np.nan, np.float32))
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    with pytest.raises(WeightsError, match="values that are no numbers"):
        parse_foreign(writer.write(writer.dense(x, 16, 10)), "theirs.onnx")


# ---- other ends


def test_an_embedding_is_read_itself():
    writer = ModelWriter()
    maps = writer.stages("photo")
    writer.add("GlobalAveragePool", maps)
    x = writer.add("Relu", writer.dense(writer.add("Flatten", writer.nodes[-1].output[0]), 16, 24))
    network = parse_foreign(writer.write(x), "theirs.onnx")
    assert name_taps(network) == [*RELUS, x]
    assert (network.logits, network.taps[-1].width) == ("", 24)


def test_the_end_of_a_projection_is_read_with_what_is_before_it():
    writer = ModelWriter()
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages("photo")))
    projected = writer.add("MatMul", x, writer.draw(16, 128))
    network = parse_foreign(writer.write(projected), "theirs.onnx")
    assert name_taps(network)[-2:] == [x, projected]
    assert "may be a classifier or the end of an embedding" in network.describe()
    chosen = parse_foreign(writer.write(projected), "theirs.onnx", cut=x)
    assert name_taps(chosen)[-1] == x
    assert "may be a classifier" not in chosen.describe()


def test_a_classifier_of_every_position_ends_in_a_mean():
    writer = ModelWriter()
    maps = writer.stages("photo")
    x = writer.convolve(maps, 16, 10, kernel=1, stride=1)
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    network = parse_foreign(writer.write(x), "theirs.onnx")
    assert name_taps(network) == RELUS
    assert network.taps[-1].role == "penultimate"


def test_two_classifiers_are_taken_as_one():
    writer = ModelWriter()
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages("photo")))
    halves = [writer.dense(x, 16, 10) for _ in range(2)]
    x_mean = writer.add("Div", writer.add("Add", *halves), writer.keep(2, np.float32))
    network = parse_foreign(writer.write(x_mean), "theirs.onnx")
    assert name_taps(network)[-1] == x


def test_a_sequence_is_read_by_its_class_token_and_the_mean_of_the_others():
    payload, tokens, _ = write_reshaped(1)
    only_tokens = change(payload, lambda model: model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(tokens, TensorProto.FLOAT, None)))  # fmt: skip
    network = parse_foreign(only_tokens, "theirs.onnx")
    assert [(tap.tensor, tap.reduction) for tap in network.taps] == [
        (tokens, "first token"),
        (tokens, "mean of tokens"),
    ]
    photos = draw_photos()
    [sequence] = run_tensors(payload, [tokens], normalise(photos))
    expected = np.concatenate([sequence[:, 0], sequence[:, 1:].mean(axis=1)], axis=1)
    np.testing.assert_allclose(extract(network, photos)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_large_flattened_map_is_averaged():
    writer = ModelWriter()
    maps = writer.convolve("photo", 3, 8, stride=2)
    network = parse_foreign(
        writer.write(writer.dense(writer.add("Flatten", maps), 8 * 32 * 32, 10)), "theirs.onnx"
    )
    assert [(tap.tensor, tap.width) for tap in network.taps] == [(maps, 8)]
    assert "before it is flattened" in network.describe()


def test_outputs_on_the_way_to_the_last_one_are_no_harm():
    def edit(model):
        model.graph.output.append(helper.make_tensor_value_info(FLAT, TensorProto.FLOAT, None))

    assert name_taps(parse_foreign(change(write_cnn(), edit), "x")) == [*RELUS[:2], FLAT]


def test_of_several_outputs_a_cut_tells_which_is_meant():
    writer = ModelWriter()
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages("photo")))
    payload = writer.write(*(writer.dense(x, 16, count) for count in (10, 3)))
    with pytest.raises(
        WeightsError, match=r"2 outputs \('t\d+', 't\d+'\); needed is one"
    ) as caught:
        parse_foreign(payload, "theirs.onnx")
    assert "cut" in caught.value.hint
    assert name_taps(parse_foreign(payload, "theirs.onnx", cut=x)) == [*RELUS[:2], x]
    assert name_taps(parse_foreign(payload, "theirs.onnx", taps=RELUS)) == RELUS


# ---- what somebody names


def test_taps_can_be_named():
    payload, photos = write_cnn(), draw_photos()
    network = parse_foreign(payload, "theirs.onnx", taps=["t8", "t1"])
    maps = run_tensors(payload, ["t8", "t1"], normalise(photos))
    expected = np.concatenate([average(each) for each in maps], axis=1)
    np.testing.assert_allclose(extract(network, photos)[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert network.is_signed  # t8 is before its ReLU


def test_a_name_that_is_none_is_told_with_one_that_is_like_it(tmp_path):
    path = tmp_path / "theirs.onnx"
    path.write_bytes(write_cnn())
    for options in ({"cut": "t111"}, {"taps": ["t111"]}):
        with pytest.raises(WeightsError, match="no tensor 't111'") as caught:
            read_foreign(path, **options)
        assert "'t11'" in caught.value.hint
        assert str(path) in caught.value.message
    with pytest.raises(WeightsError, match="no tensor 'c0'"):  # a constant
        read_foreign(path, cut="c0")


def test_a_tensor_without_channels_is_refused():
    writer = ModelWriter()
    x = writer.stages("photo")
    whole = writer.add("Cast", x, to=TensorProto.INT64)
    writer.add("Cast", whole, to=TensorProto.FLOAT)
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.nodes[-1].output[0]))
    with pytest.raises(WeightsError, match="no value for each channel"):
        parse_foreign(writer.write(writer.dense(x, 16, 10)), "theirs.onnx", cut=whole)


# ---- the whole classifier


def make_head(width, classes=5):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, classes)) / np.sqrt(width)
    return ((weight.astype(np.float32), rng.standard_normal(classes).astype(np.float32)),)


def classify(features, head, *, use_roots):
    rows = np.sign(features) * np.sqrt(np.abs(features)) if use_roots else features
    logits = apply_layers(head, rows.astype(np.float32)).mean(axis=1)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return rows, logits, exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("use_roots", [True, False])
@pytest.mark.parametrize("write", [write_cnn, lambda: write_reshaped(1)[0],
                                   lambda: write_rigid()[0]])  # fmt: skip
def test_the_classifier_equals_pixels_then_features_then_head(write, use_roots, resize):
    network = parse_foreign(write(), "theirs.onnx")
    photo = draw_photos(1, 96)[0, :80]
    head = make_head(network.feature_count)
    pixels = fit_image(Image.fromarray(photo), PixelSettings(network.side, resize))
    features = extract(network, pixels[None], views=2)
    _, _, expected = classify(features, head, use_roots=use_roots)
    model = network.build_model(
        head, views=2, resize=resize, metadata={"a": "b"}, use_roots=use_roots
    )
    session = open_session(model)
    [found] = session.run(["probabilities"], {"image": photo[None]})
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert session.get_modelmeta().custom_metadata_map == {"a": "b"}


def test_the_classifier_says_how_familiar_an_image_looks():
    network, photos = parse_foreign(write_cnn(), "theirs.onnx"), draw_photos(6)
    head, features = make_head(network.feature_count), extract(network, photos, views=2)
    rows, logits, expected = classify(features, head, use_roots=True)
    rng = np.random.default_rng(0)
    learnt = np.repeat(rows.mean(axis=1), 5, axis=0) + rng.normal(size=(30, rows.shape[2]))
    discriminants = fit_discriminants(learnt.astype(np.float32), np.arange(30) % 3)
    familiarity = weigh_parts(discriminants, rows, logits)
    model = network.build_model(
        head, views=2, resize="squash", metadata={}, familiarity=familiarity
    )
    probabilities, found = open_session(model).run(None, {"image": photos})
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(found, familiarity.score(rows, logits), rtol=1e-3, atol=1e-3)


def test_parameters_can_be_stored_as_halves():
    payload = write_reshaped(1)[0]
    network, photos = parse_foreign(payload, "theirs.onnx"), draw_photos()
    options = {"views": 1, "resize": "squash", "metadata": {}, "use_roots": False}
    head = make_head(network.feature_count)
    whole, halves = (network.build_model(head, store=store, **options)
                     for store in (network.store, store_halves))  # fmt: skip
    assert len(whole) - len(halves) > 8 * 3 * 17 * 17 * 2 * 0.9
    first, second = (open_session(each).run(None, {"image": photos})[0] for each in (whole, halves))
    np.testing.assert_allclose(first, second, atol=0.01)
    assert not np.array_equal(first, second)


# ---- in words


def test_all_that_was_found_is_told():
    about = {"license": "MIT", "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"}
    network = parse_foreign(write_cnn(metadata=about), "theirs.onnx")
    assert network.describe().splitlines() == [
        "theirs.onnx: 3,734 parameters, written by elsewhere, licence MIT",
        "It reads 'photo', (n, 3, side, side) floats, and takes any number of images.",
        "Side: 64 px (the only one that the network takes). Channels: RGB (the usual one).",
        "Normalisation: mean 0.5 0.5 0.5, deviation 0.25 0.25 0.25 (as the file says).",
        "36 features are read from:",
        "  tensor  shape       pixels a position  read as            features  why",
        "  t5      8 x 8 x 8   8                  mean of positions  8         end of a stage",
        "  t7      12 x 4 x 4  16                 mean of positions  12        end of a stage",
        "  t11     16          -                  values             16        penultimate",
        "Its classifier is left out; its logits are 't13'.",
        "It can be cut behind 12 tensors, the last ones 't9', 't10', 't11'.",
    ]
    assert network.provenance == {
        "network": "theirs.onnx",
        "origin": "written by elsewhere",
        "license": "MIT",
        "sha256": network.sha256,
    }


# ---- our own SqueezeNet as if it were somebody else's


def write_squeezenet(weights, side):
    """Write SqueezeNet 1.1 as a classifier that takes normalised images."""
    graph = Graph()
    layers = FloatLayers(graph, weights)
    maps = {"pixels": "photo"}
    for layer in (*SQUEEZENET1_1.layers, *SQUEEZENET1_1.classifier_layers):
        maps[layer.output] = layers.add(layer, [maps[name] for name in layer.reads])
    graph.add("Flatten", maps["logits"], name="scores")
    payload = graph.to_bytes("photo", "scores", ["n", 1000])

    def take_floats(model):
        shape = ["n", 3, side, side]
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("photo", TensorProto.FLOAT, shape)
        )

    return change(payload, take_floats)


def test_our_squeezenet_as_a_foreign_file_gives_our_features(weights):
    photos = draw_photos(3, 96)
    payload = write_squeezenet(weights, 96)
    found = parse_foreign(payload, "squeezenet.onnx")
    # its strides are 8 and 16; what its classifier of every position reads is the penultimate map
    assert name_taps(found)[-1] == "fire9.expand"
    assert (found.logits, found.batches) == ("scores", "free")
    network = parse_foreign(payload, "squeezenet.onnx", taps=SQUEEZENET1_1.taps)
    assert (network.feature_count, network.is_signed) == (SQUEEZENET1_1.feature_count, False)
    for views in (1, 2, 4):
        ours = open_graph(build_backbone(weights, views=views), FLOAT, 1)(photos)
        np.testing.assert_allclose(extract(network, photos, views), ours, rtol=1e-3, atol=1e-3)


def test_our_own_frozen_layers_are_an_embedding_that_takes_pixels(weights):
    photos = draw_photos(3, 96)
    payload = build_backbone(weights, views=2)
    network = parse_foreign(payload, "backbone.onnx", PreprocessingOptions(side=96))
    ours = open_graph(payload, FLOAT, 1)(photos)
    found = extract(network, photos)
    np.testing.assert_allclose(found[:, 0, -ours.shape[2] :], ours.mean(axis=1), rtol=1e-3,
                               atol=1e-3)  # fmt: skip


def test_values_that_float16_does_not_hold_are_refused():
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo"))
    x = writer.add("Mul", x, writer.keep(1e6, np.float32))
    payload = writer.write(writer.dense(writer.add("Flatten", x), WIDTHS[-1], 10))
    with pytest.raises(WeightsError, match="features are kept as float16"):
        check_range(parse_foreign(payload, "theirs.onnx"))


def test_memory_is_forecast_by_what_is_alive_at_once():
    """The first convolution reads 64 x 64 x 3 values and gives 32 x 32 x 4;
    all that follows is smaller.
    """
    network = parse_foreign(write_cnn(), "theirs.onnx")
    assert network.size.values == ALIVE_TIMES * (64 * 64 * 3 + 32 * 32 * 4)
    assert network.size.side == SIDE
    assert network.size.features == network.feature_count
