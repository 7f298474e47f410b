import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from example_weights import draw_weights, perturb
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load as unpack_tensors
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from squeezetune.data.index import index_images, index_photos
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.data.split import split_index
from squeezetune.errors import SettingsError, SourceError
from squeezetune.events import ignore_event
from squeezetune.heads.linear import apply_layers
from squeezetune.model.classifier import Classifier
from squeezetune.network.backbone import FLOAT_RUNTIME
from squeezetune.network.graph import FEATURE_COUNT, build_backbone
from squeezetune.network.inference import open_graph
from squeezetune.network.pretrained import Pretrained
from squeezetune.network.weights import WEIGHTS_SHA256
from squeezetune.network.zoo import SQUEEZENET1_1
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import fit_classifier, make_manifest
from squeezetune.pipeline.preparation import choose_side, draw_sample
from squeezetune.settings import Settings


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


@pytest.fixture
def index(shape_folder, executor):
    return index_photos(shape_folder, executor=executor)


@pytest.fixture
def learn(make_learn, fixed_settings, tmp_path):
    return make_learn(fixed_settings, tmp_path / "cache")


def read_pixels(learned, count):
    """Read the first photos as the network in the file sees them."""
    index = learned.index
    return np.stack(
        [load_pixels(index.source, name, learned.pixels)[0] for name in index.names[:count]]
    )


# ---- what is learnt


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        ({}, 2),
        ({"views": "plain"}, 1),
        ({"effort": "quick"}, 1),
        ({"effort": "quick", "views": "mirror"}, 2),
    ],
)
def test_settings_say_how_many_views_are_computed(learn, settings, views):
    learned = learn(**settings)
    assert learned.backbone.views == views
    assert learned.features.values.shape == (60, views, FEATURE_COUNT)


def test_the_two_files_hold_the_same_network(learn, weights, tmp_path):
    learned = learn()
    path = tmp_path / "network.safetensors"
    path.write_bytes(learned.network)
    tensors = load_file(path)
    frozen = {name for name in weights if name.startswith("features.")}
    assert set(tensors) == frozen | {"head.0.weight", "head.0.bias"}
    for name in frozen:
        np.testing.assert_array_equal(tensors[name].astype(np.float32), weights[name])
    np.testing.assert_array_equal(tensors["head.0.weight"], learned.head.layers[0][0])
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["squeezetune"])
    assert about == {
        "views": learned.head.views,
        "image_side": 64,
        "resize": "squash",
        "use_roots": True,
        "squeezenet": "1.1",
    }
    stored = {
        item.name: onnx.numpy_helper.to_array(item)
        for item in onnx.load_from_string(learned.model).graph.initializer
    }
    np.testing.assert_array_equal(stored["head.0.weight"], tensors["head.0.weight"])


def test_the_model_file_names_its_classes_and_its_licence(learn, index):
    model = onnx.load_from_string(learn().model)
    about = {item.key: item.value for item in model.metadata_props}
    assert json.loads(about["class_names"]) == ["box", "disc", "spike"]
    assert (about["image_side"], about["resize"]) == ("64", "squash")
    assert about["data_fingerprint"] == index.fingerprint
    assert "BSD-2-Clause" in about["license"]
    assert (about["network"], about["weights_sha256"]) == ("SqueezeNet 1.1", WEIGHTS_SHA256)


def test_the_manifest_says_what_was_used(learn, fixed_settings, index):
    learned = learn()
    manifest = make_manifest(learned, fixed_settings)
    assert manifest.data == {
        "fingerprint": index.fingerprint,
        "train": 36,
        "validation": 12,
        "test": 12,
    }
    assert manifest.settings == fixed_settings.to_dict()
    assert (manifest.image_side, manifest.views) == (64, learned.head.views)
    assert (
        Classifier(learned.model, manifest).predict(np.zeros((9, 9, 3), np.uint8)).label
        in manifest.class_names
    )


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_the_file_agrees_with_the_features_it_was_trained_on(learn, index, fixed_settings, resize):
    learned = learn(resize=resize)
    classifier = Classifier(
        learned.model, make_manifest(learned, replace(fixed_settings, resize=resize))
    )
    images = [index.source.read(name) for name in index.names]
    by_file, by_features = (
        classifier.predict_probabilities(images),
        learned.head.predict(learned.features.values),
    )
    assert (by_file.argmax(axis=1) == by_features.argmax(axis=1)).mean() >= 0.98
    assert np.abs(by_file - by_features).mean() < 0.01


def test_images_that_cannot_be_decoded_are_skipped_and_the_rest_is_split_anew(
    write_shapes, tmp_path, fixed_settings, executor
):
    photos = write_shapes(tmp_path / "photos", 10)
    for name in ("box/001.png", "disc/005.png"):
        (photos / name).write_bytes((photos / name).read_bytes()[:-2000])
    index = index_photos(photos, executor=executor)
    context = open_context(fixed_settings, None, ignore_event, executor)
    learned = fit_classifier(index, cut, context)
    assert {item.name for item in learned.index.skipped} == {"box/001.png", "disc/005.png"}
    assert len(learned.index) == len(learned.features.values) == 28
    parts = np.concatenate([learned.split.train, learned.split.validation, learned.split.test])
    assert sorted(parts.tolist()) == list(range(28))
    whole = fit_classifier(learned.index, cut, context)
    assert whole.network == learned.network


# ---- other pretrained weights


def test_only_the_original_recipe_keeps_the_pretrained_classifier(weights):
    found = {
        recipe: open_context(Settings(recipe=recipe), None, ignore_event).pretrained.weights
        for recipe in ("original", "auto")
    }
    assert found["original"].keys() == weights.keys()
    assert weights.keys() - found["auto"].keys() == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.slow
def test_a_head_is_fitted_on_other_weights(learn, fixed_settings, tmp_path):
    exact = perturb(draw_weights())  # float32, as somebody's training leaves it
    save_file(exact, tmp_path / "mine.safetensors", metadata={"license": "CC0-1.0"})
    learned, packaged = learn(weights=str(tmp_path / "mine.safetensors")), learn()
    assert learned.network_name == "SqueezeNet 1.0, frozen"
    assert learned.backbone.key != packaged.backbone.key
    expected = open_graph(build_backbone(learned.pretrained.weights, views=2), FLOAT_RUNTIME, 1)
    pixels = read_pixels(learned, 4)
    np.testing.assert_allclose(learned.features.values[:4], expected(pixels), rtol=2e-3, atol=1e-3)
    about = {item.key: item.value for item in onnx.load_from_string(learned.model).metadata_props}
    assert (about["network"], about["weights"]) == ("SqueezeNet 1.0", "mine.safetensors")
    assert (
        about["weights_sha256"]
        == hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    )
    assert about["license"].startswith("weights CC0-1.0;")
    assert make_manifest(learned, fixed_settings).weights == learned.pretrained.provenance


def test_the_stored_network_is_that_of_the_model_file(learn, fixed_settings, tmp_path):
    save_file(perturb(draw_weights()), tmp_path / "mine.safetensors")
    learned = learn(weights=str(tmp_path / "mine.safetensors"), head="linear")
    tensors = unpack_tensors(learned.network)
    layers = [(tensors["head.0.weight"], tensors["head.0.bias"])]
    stored = {
        name: value.astype(np.float32)
        for name, value in tensors.items()
        if name.startswith("features.")
    }
    pixels = read_pixels(learned, 12)
    features = open_graph(build_backbone(stored, views=learned.chosen.views), FLOAT_RUNTIME, 1)(
        pixels
    )
    expected = softmax(apply_layers(layers, np.sqrt(features)).mean(axis=1), axis=1)
    classifier = Classifier(learned.model, make_manifest(learned, fixed_settings))
    np.testing.assert_allclose(classifier.run(list(pixels)), expected, atol=1e-4)


# ---- the side in pixels


@pytest.mark.parametrize(("sizes", "side"), [
    ([(32, 32)] * 4, 128), ([(99, 60)] * 4, 128), ([(100, 60)] * 4, 224), ([(60, 500)] * 4, 224),
    ([(32, 32)] * 3 + [(4000, 3000)], 128), ([(640, 480)] * 3 + [(32, 32)], 224),
])  # fmt: skip
def test_small_photos_are_seen_small(sizes, side, executor):
    images = [Image.new("RGB", size, (at, 0, 0)) for at, size in enumerate(sizes)]
    index = index_images(images, [at % 2 for at in range(len(images))], executor=executor)
    assert choose_side(index, np.arange(len(images)), SQUEEZENET1_1) == side


def test_broken_photos_have_no_say_in_the_side(make_photo, executor):
    images = [make_photo(1), make_photo(2)[:30], make_photo(3)[:30]]
    index = index_images(images, [0, 1, 1], executor=executor)
    assert choose_side(index, np.arange(3), SQUEEZENET1_1) == 128
    assert choose_side(index, np.array([1, 2]), SQUEEZENET1_1) == 224


# ---- the sample for calibration


def test_the_sample_is_spread_over_the_training_images(index):
    positions = np.arange(60)
    digests, pixels = draw_sample(index, positions, PixelSettings(32))
    assert (digests.shape, pixels.shape) == ((60, 16), (60, 32, 32, 3))
    np.testing.assert_array_equal(digests, index.digests)
    np.testing.assert_array_equal(
        pixels[7], load_pixels(index.source, index.names[7], PixelSettings(32))[0]
    )


def test_the_sample_is_bounded_and_leaves_broken_images_out(make_photo, executor):
    images = [make_photo(seed) for seed in range(150)]
    images[4] = images[4][:-100]
    index = index_images(images, [at % 2 for at in range(150)], executor=executor)
    digests, pixels = draw_sample(index, np.arange(150), PixelSettings(32))
    assert len(digests) == len(pixels) == 63
    np.testing.assert_array_equal(digests[:3], index.digests[[0, 2, 6]])


def test_a_sample_of_broken_images_is_an_error(make_photo, executor):
    index = index_images(
        [make_photo(seed)[:-100] for seed in range(4)], [0, 1, 0, 1], executor=executor
    )
    with pytest.raises(SourceError, match="the file is cut short"):
        draw_sample(index, np.arange(4), PixelSettings(32))


def test_images_smaller_than_the_network_takes_are_refused(learn, monkeypatch):
    monkeypatch.setattr(Pretrained, "least_side", 75)  # Inception's
    with pytest.raises(SettingsError, match=r"image_side is 64; SqueezeNet 1\.1 needs 75 or more"):
        learn(image_side=64)
