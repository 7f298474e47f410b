import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest
from PIL import Image
from sessions import open_session
from slow_network import pool, run_slowly, take_features

from squeezetune.data.pixels import PixelSettings, fit_image
from squeezetune.heads.familiarity import fit_discriminants, weigh_parts
from squeezetune.heads.linear import apply_layers
from squeezetune.network.backbone import measure_distance, measure_ranges
from squeezetune.network.graph import (
    BLOCKS,
    FEATURE_COUNT,
    TAPS,
    build_activations,
    build_backbone,
    build_classifier,
    build_range_probe,
)
from squeezetune.network.inference import Runtime, open_graph, open_outputs
from squeezetune.network.int8_layers import Int8
from squeezetune.network.layers import MaxPool
from squeezetune.network.onnx_builder import IR_VERSION, OPSET, Graph
from squeezetune.network.weights import detect_version, find_architecture
from squeezetune.network.zoo import ARCHITECTURES, SQUEEZENET1_1

FLOAT = Runtime("onnxruntime", "float32")
INT8 = Runtime("onnxruntime", "int8")


def make_photos(count, height, width, seed=0):
    """Make smooth images (count, height, width, 3) with strong colours, as photos have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    size = (width, height)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse]
    )


def make_head(*widths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32),
            rng.standard_normal(b).astype(np.float32),
        )
        for a, b in pairwise(widths)
    ]


def apply_head_slowly(head, features):
    """Compute probabilities of features (views, 2048) of one image."""
    x = np.sqrt(features.astype(np.float64))
    for number, (weight, bias) in enumerate(head):
        x = (np.maximum(x, 0) if number else x) @ weight + bias
    exponents = np.exp(x.mean(axis=0) - x.mean(axis=0).max())
    return exponents / exponents.sum()


def run_model(model, image):
    session = open_session(model)
    return session.run(["probabilities"], {"image": image})[0]


# ---- the trunk


@pytest.mark.parametrize("side", [64, 65, 79])  # every way in which a pool can end at an edge
def test_the_graph_equals_the_slow_network(either_weights, side):
    photos = make_photos(2, side, side)
    expected = [take_features(run_slowly(either_weights, photo)) for photo in photos]
    features = open_graph(build_backbone(either_weights), FLOAT, 1)(photos)
    assert features.shape == (2, 1, FEATURE_COUNT)
    np.testing.assert_allclose(features[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_the_second_view_is_the_mirror_image(weights):
    photos = make_photos(3, 64, 64)
    both = open_graph(build_backbone(weights, views=2), FLOAT, 1)(photos)
    run = open_graph(build_backbone(weights), FLOAT, 1)
    assert both.shape == (3, 2, FEATURE_COUNT)
    np.testing.assert_allclose(both[:, :1], run(photos), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        both[:, 1:], run(np.ascontiguousarray(photos[:, :, ::-1])), rtol=1e-5, atol=1e-5
    )
    assert measure_distance(both[:, 1], both[:, 0]) > 0.05


def test_an_image_does_not_depend_on_its_neighbours(weights):
    photos = make_photos(4, 64, 64)
    run = open_graph(build_backbone(weights, views=2), FLOAT, 1)
    one_by_one = np.concatenate([run(photos[at : at + 1]) for at in range(4)])
    np.testing.assert_allclose(run(photos), one_by_one, rtol=1e-5, atol=1e-5)


def test_the_range_probe_finds_the_largest_value_of_every_channel(either_weights):
    photos = make_photos(2, 64, 64)
    found = open_graph(build_range_probe(either_weights), FLOAT, 1)(photos)
    activations = [run_slowly(either_weights, photo) for photo in photos]
    expected = [
        np.concatenate([a[name].max(axis=(1, 2)) for name in SQUEEZENET1_1.list_scales()])
        for a in activations
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("views", [1, 2])
def test_int8_is_near_float(either_weights, views):
    photos = make_photos(12, 96, 96)
    int8 = Int8(measure_ranges(either_weights, photos))
    found = open_graph(build_backbone(either_weights, int8, views=views), INT8, 1)(photos)
    assert (
        measure_distance(
            found, open_graph(build_backbone(either_weights, views=views), FLOAT, 1)(photos)
        )
        < 0.08
    )


@pytest.mark.parametrize("side", [32, 63, 66, 96])
@pytest.mark.parametrize("views", [1, 2, 4])
def test_int8_for_one_side_gives_what_int8_for_all_does(either_weights, views, side):
    photos = make_photos(3, side, side)
    ranges = measure_ranges(either_weights, photos)
    fast, slow = (open_graph(build_backbone(either_weights, int8, views=views), INT8, 1)(photos)
                  for int8 in (Int8(ranges, side), Int8(ranges)))  # fmt: skip
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-4)


# ---- the trunk up to a block


def take_maps(activations, block, layout):
    """Return what the block behind `block` reads, channels last."""
    name = block if block == "conv1" else f"{block}.expand"
    return (
        pool(activations[name])
        if isinstance(layout.find_block(block).layers[-1], MaxPool)
        else activations[name]
    ).transpose(1, 2, 0)


@pytest.mark.parametrize("side", [64, 65, 79])
@pytest.mark.parametrize("block", BLOCKS)
def test_activations_equal_the_slow_network(either_weights, block, side):
    layout = find_architecture(detect_version(either_weights))
    [photo] = make_photos(1, side, side)
    slow = run_slowly(either_weights, photo)
    maps, *taps = open_outputs(build_activations(either_weights, block), FLOAT, 1)(photo[None])
    assert maps.shape == (1, 1, *layout.measure_block(block, side))
    np.testing.assert_allclose(maps[0, 0], take_maps(slow, block, layout), rtol=1e-3, atol=1e-2)
    width = sum(512 if tap in ("fire8", "fire9") else 384 if tap in ("fire6", "fire7") else 256
                for tap in TAPS if BLOCKS.index(tap) <= BLOCKS.index(block))  # fmt: skip
    assert [tap.shape for tap in taps] == ([(1, 1, width)] if width else [])
    for found in taps:
        np.testing.assert_allclose(found[0, 0], take_features(slow)[:width], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("views", [2, 4])
def test_views_of_activations_are_those_of_the_backbone(weights, views, is_int8):
    photos = make_photos(3, 64, 64)
    int8, runtime = (Int8(measure_ranges(weights, photos), 64), INT8) if is_int8 else (None, FLOAT)
    maps, taps = open_outputs(
        build_activations(weights, "fire8", int8=int8, views=views), runtime, 1
    )(photos)
    features = open_graph(build_backbone(weights, int8, views=views), runtime, 1)(photos)
    assert maps.shape == (3, views, *ARCHITECTURES["1.1"].measure_block("fire8", 64))
    np.testing.assert_allclose(taps, features[:, :, : taps.shape[2]], rtol=1e-4, atol=1e-4)
    mirrored = np.ascontiguousarray(photos[:, :, ::-1])
    expected, _ = open_outputs(build_activations(weights, "fire8", int8=int8), runtime, 1)(mirrored)
    np.testing.assert_allclose(maps[:, 1], expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("is_int8", [False, True])
def test_activations_can_be_codes(weights, is_int8, views):
    photos = make_photos(3, 64, 64)
    int8, runtime = (Int8(measure_ranges(weights, photos), 64), INT8) if is_int8 else (None, FLOAT)
    scales = np.random.default_rng(0).uniform(50, 500, 256).astype(np.float32)
    options = {"int8": int8, "views": views}
    maps, taps = open_outputs(build_activations(weights, "fire5", **options), runtime, 1)(photos)
    codes, same = open_outputs(
        build_activations(weights, "fire5", scales=scales, **options), runtime, 1
    )(photos)
    expected = (maps * (255 / scales)).round().clip(0, 255)
    assert codes.dtype == np.uint8
    assert np.abs(codes - expected).max() <= 1
    assert (codes != expected).mean() < 1e-3
    np.testing.assert_allclose(taps, same, rtol=1e-5)


# ---- the whole classifier


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (47, 83), (211, 97), (20, 31)])
def test_the_file_equals_pixels_then_backbone_then_head(weights, resize, height, width):
    photo = make_photos(1, height, width)[0]
    head = make_head(FEATURE_COUNT, 5)
    pixels = fit_image(Image.fromarray(photo), PixelSettings(64, resize))
    features = open_graph(build_backbone(weights, views=2), FLOAT, 1)(pixels[None])[0]
    model = build_classifier(weights, head, views=2, side=64, resize=resize, metadata={})
    np.testing.assert_allclose(
        run_model(model, photo[None])[0], apply_head_slowly(head, features), atol=5e-3
    )


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("widths", [(FEATURE_COUNT, 4), (FEATURE_COUNT, 16, 4)])
def test_the_head_in_the_file_equals_the_slow_one(weights, views, widths):
    photos, head = make_photos(3, 64, 64), make_head(*widths)
    features = open_graph(build_backbone(weights, views=views), FLOAT, 1)(photos)
    model = build_classifier(weights, head, views=views, side=64, resize="squash", metadata={})
    expected = [apply_head_slowly(head, row) for row in features]
    np.testing.assert_allclose(run_model(model, photos), expected, atol=1e-5)


@pytest.mark.parametrize("use_roots", [True, False])
def test_the_file_says_how_familiar_an_image_looks(weights, use_roots):
    rng, photos, head = (
        np.random.default_rng(0),
        make_photos(6, 64, 64),
        make_head(FEATURE_COUNT, 3),
    )
    features = open_graph(build_backbone(weights, views=2), FLOAT, 1)(photos)
    rows = np.sqrt(features) if use_roots else features
    learnt = np.repeat(rows.mean(axis=1), 5, axis=0) + rng.normal(size=(30, FEATURE_COUNT)).astype(
        np.float32
    )
    logits = apply_layers(head, rows).mean(axis=1)
    familiarity = weigh_parts(fit_discriminants(learnt, np.arange(30) % 3), rows, logits)
    options = {"views": 2, "side": 64, "resize": "squash", "metadata": {}, "use_roots": use_roots}
    model = build_classifier(weights, head, familiarity=familiarity, **options)
    session = open_session(model)
    probabilities, found = session.run(None, {"image": photos})
    np.testing.assert_allclose(found, familiarity.score(rows, logits), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(
        probabilities, run_model(build_classifier(weights, head, **options), photos)
    )
    assert len(model) - len(build_classifier(weights, head, **options)) < 50_000


def test_the_file_explains_itself(weights):
    about = {"class_names": json.dumps(["bee", "Kühe"]), "resize": "crop"}
    model = build_classifier(
        weights, make_head(FEATURE_COUNT, 2), views=1, side=64, resize="crop", metadata=about
    )
    loaded = onnx.load_from_string(model)
    assert {item.key: item.value for item in loaded.metadata_props} == about
    assert (loaded.opset_import[0].version, loaded.ir_version) == (OPSET, IR_VERSION)
    [image], [probabilities] = loaded.graph.input, loaded.graph.output
    assert (image.name, probabilities.name) == ("image", "probabilities")
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        "n",
        "height",
        "width",
        3,
    ]
    assert [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim] == [
        "n",
        2,
    ]


def test_the_layers_in_the_file_are_half_as_large(weights):
    head = make_head(FEATURE_COUNT, 2)
    model = build_classifier(weights, head, views=1, side=64, resize="squash", metadata={})
    assert len(model) < 0.55 * len(build_backbone(weights))


BUILD = """
import hashlib, numpy as np
from squeezetune.network.graph import build_classifier, build_backbone
from squeezetune.network.zoo import SQUEEZENET1_1
from squeezetune.network.int8_layers import Int8
from squeezetune.network.weights import load_weights
weights, head = load_weights(), [(np.ones((2048, 3), np.float32), np.zeros(3, np.float32))]
about = {"b": "1", "a": "2", "c": "3"}
model = build_classifier(weights, head, views=2, side=64, resize="pad", metadata=about)
int8 = build_backbone(weights, Int8(dict.fromkeys(SQUEEZENET1_1.list_scales(), 9.0), 64), views=2)
print(hashlib.sha256(model + int8).hexdigest())
"""


@pytest.mark.slow
def test_the_same_parts_give_the_same_bytes_in_every_process(monkeypatch):
    found = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.add(
            subprocess.run([sys.executable, "-c", BUILD], capture_output=True, check=True).stdout
        )
    assert len(found) == 1


# ---- the builder


def test_a_graph_that_is_wrong_is_not_written():
    graph = Graph()
    graph.add("NoSuchOperator", "pixels", name="out")
    with pytest.raises(onnx.checker.ValidationError):
        graph.to_bytes("pixels", "out", ["n"])


def test_constants_keep_their_shape():
    graph = Graph()
    assert graph.constant("scalar", 3, np.float32) == "scalar"
    graph.constant("turned", np.arange(6).reshape(2, 3).T)
    assert graph.constants["scalar"].shape == ()
    np.testing.assert_array_equal(graph.constants["turned"], [[0, 3], [1, 4], [2, 5]])


def test_four_views_are_image_mirror_image_and_their_middles(weights):
    photos = make_photos(3, 79, 79)
    four = open_graph(build_backbone(weights, views=4), FLOAT, 1)(photos)
    run = open_graph(build_backbone(weights), FLOAT, 1)
    height, width = photos.shape[1:3]
    top, left = height * 3 // 40, width * 3 // 40
    box = (left, top, width - left, height - top)

    def enlarge(image):
        return np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
        )

    mirrored = photos[:, :, ::-1]
    for view, pixels in enumerate(
        (photos, mirrored, *(np.stack([enlarge(x) for x in y]) for y in (photos, mirrored)))
    ):
        assert measure_distance(four[:, view], run(np.ascontiguousarray(pixels))[:, 0]) < 0.02
