"""The loader of networks that are no SqueezeNets: what it computes, alone and as a program."""

import ast
import json
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from described_network import EVERYTHING, draw_parameters, draw_photos, find_least_side
from example_orders import METADATA, make_order
from odd_images import compare, make_odd_files, make_odd_images, open_model
from safetensors.numpy import load_file

from squeezetune.data.decoding import open_image
from squeezetune.exporting.onnx_formats import build_file
from squeezetune.network.float_layers import store_floats
from squeezetune.network.graph import WeightFormat
from squeezetune.network.pretrained import load_pretrained
from squeezetune.network.weights import fold_norms
from squeezetune.network.zoo import ARCHITECTURES, NETWORKS

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.exporting.copied import network as loader  # noqa: E402
from squeezetune.exporting.copied import squeezenet  # noqa: E402
from squeezetune.exporting.runtimes import open_torch  # noqa: E402
from squeezetune.exporting.torch_program import (  # noqa: E402
    check_torch,
    describe_architecture,
    write_loader,
    write_torch,
)

# Networks by name, with the views and the policy of resizing of their orders.
FORMS = [
    ("everything", 1, "pad"),
    ("everything", 2, "crop"),
    ("everything", 4, "squash"),
    ("efficientnet_lite0", 1, "crop"),
    ("efficientnet_lite0", 2, "squash"),
    ("mobilenet_v3_small", 1, "squash"),
    ("mobilenet_v3_small", 2, "crop"),
]
REST = [
    pytest.param(name, views, resize, marks=pytest.mark.slow)
    for name, views, resize in (
        ("resnet18", 1, "squash"),
        ("resnet18", 2, "pad"),
        ("inception_v3", 1, "squash"),
        ("vgg11", 1, "squash"),
    )
]
# run where the package cannot be imported
RUN = """
import runpy, sys
sys.modules["squeezetune"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "everything", EVERYTHING.without_norms())
        yield


@cache
def load_weights(name):
    """Load the published weights that are in the package, or draw some."""
    if name == "efficientnet_lite0":
        return load_pretrained(backbone=name).weights
    network = EVERYTHING if name == "everything" else NETWORKS[name]
    folded = fold_norms(draw_parameters(network), network)
    return {key: value.astype(np.float16).astype(np.float32) for key, value in folded.items()}


def make_form(name, views, resize, form="linear"):
    side = 64 if name == "everything" else find_least_side(NETWORKS[name], 64)
    return make_order(load_weights(name), resize, views, side, form)


@pytest.fixture(scope="module")
def order(known):
    """Make an order of a network with every kind of layer."""
    return make_form("everything", 2, "crop")


@pytest.fixture(scope="module")
def folder(order, tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    write_torch(order, folder / "model.pt2")
    return folder


def run_loader(folder):
    network = loader.load(folder)

    def run(images):
        with torch.inference_mode():
            return network(torch.tensor(images)).numpy()

    return run


def check_agreement(run, order, tolerance=1e-4):
    """Compare with the ONNX file on bright and dark photos of the network's own side, and on others
    of another height, width and number, which may be resized to other grey levels.
    """
    model = open_model(build_file(order, order.network, WeightFormat(store_floats)))
    light = np.array([1, 0.8, 0.5, 0.2, 0])[:, None, None, None]
    photos = (light * draw_photos(5, order.network.side)).astype(np.uint8)
    expected, found = model(photos), run(photos)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=10 * tolerance)
    assert np.ptp(expected, axis=0).max() > 100 * tolerance  # it tells them apart
    other = np.random.default_rng(0).integers(0, 256, (3, 50, 90, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(other), model(other), atol=0.02)


@pytest.mark.parametrize(("name", "views", "resize"), [*FORMS, *REST])
def test_it_agrees_with_the_onnx_file(name, views, resize, tmp_path):
    order = make_form(name, views, resize)
    write_loader(order, tmp_path)
    check_agreement(run_loader(tmp_path), order)


def test_roots_of_features_below_0_keep_their_sign(tmp_path):
    order = make_form("mobilenet_v3_small", 1, "pad")
    write_loader(order, tmp_path)
    pixels = torch.tensor(draw_photos(2, order.network.side)).permute(0, 3, 1, 2) / 64 - 2
    with torch.inference_mode():
        _, features = loader.load(tmp_path).run(pixels)
    assert order.network.use_roots
    assert (features < -0.01).any()
    check_agreement(run_loader(tmp_path), order)


@pytest.mark.parametrize("form", ["hidden", "convolved"])
def test_every_classifier_is_known(form, tmp_path):
    order = make_form("everything", 2 if form == "hidden" else 1, "squash", form)
    write_loader(order, tmp_path)
    check_agreement(run_loader(tmp_path), order)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "resnet18", "mobilenet_v3_small", "inception_v3", "vgg11"]
)
def test_the_program_agrees_with_the_onnx_file(name, tmp_path):
    order = make_form(name, 2, "crop")
    write_torch(order, tmp_path / "model.pt2")
    check_agreement(open_torch(tmp_path / "model.pt2"), order)


def test_the_program_of_every_kind_of_layer_agrees_with_the_onnx_file(order, folder):
    check_torch(folder / "model.pt2")
    check_agreement(open_torch(folder / "model.pt2"), order)


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_it_agrees_with_the_model_on_odd_images(order, folder, count):
    images = make_odd_images(count, large=count // 100)
    found = compare(open_model(order.model), run_loader(folder), images)
    assert found.same_class >= 1 - 1.01 / count  # one may be a toss-up
    assert found.mean < 0.01


def run_here(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")
    return capsys.readouterr().out


def run_apart(monkeypatch, capsys, words):
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("run", [run_here, pytest.param(run_apart, marks=pytest.mark.slow)])
def test_it_names_the_class_of_each_photo(order, folder, tmp_path, monkeypatch, capsys, run):
    classes, model = json.loads(METADATA["class_names"]), open_model(order.model)
    files = [file for at, file in enumerate(make_odd_files(24, large=0)) if at % 8 < 4]
    rows = [model(np.asarray(open_image(file))[None])[0] for file in files]
    photos = [str(tmp_path / f"{at:02d}.jpg") for at in range(len(files))]
    for photo, file in zip(photos, files, strict=True):
        Path(photo).write_bytes(file)
    said = run(monkeypatch, capsys, [str(folder / "network.py"), *photos])
    lines = [line.split("\t") for line in said.splitlines()]
    assert [name for name, *_ in lines] == photos
    assert [label for _, label, _ in lines] == [classes[row.argmax()] for row in rows]
    found = [float(share) for *_, share in lines]
    np.testing.assert_allclose(found, [row.max() for row in rows], atol=0.05)


def test_what_is_written_says_which_network_it_is(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.pt2", "network.py", "config.json", "model.safetensors"}
    assert (folder / "network.py").read_text() == Path(loader.__file__).read_text()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["network"], config["title"]) == ("everything", "Everything")
    kinds = {layer["kind"] for layer in config["layers"]}
    assert kinds == {"convolution", *loader.KINDS}
    assert {layer["activation"] for layer in config["layers"]} <= set(loader.ACTIVATIONS)
    weights = {name for name in load_weights("everything") if not name.startswith("classifier")}
    assert set(load_file(folder / "model.safetensors")) == {
        *weights, "head.0.weight", "head.0.bias"
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "everything"])
def test_every_network_can_be_listed(name):
    """Its layers have places and functions that the loader knows, and the shapes of parameters."""
    network = NETWORKS[name].without_norms()
    config = describe_architecture(network) | {"head": [network.feature_count, 2]}
    with torch.device("meta"):
        made = loader.Classifier(config)
    shapes = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    expected = {key: shape for key, shape in network.list_shapes().items() if network.owns(key)}
    assert {key: shape for key, shape in shapes.items() if key[:5] != "head."} == expected
    assert {layer["activation"] for layer in config["layers"]} <= set(loader.ACTIVATIONS)


def test_it_needs_four_packages_only():
    tree = ast.parse(Path(loader.__file__).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.split(".")[0] for name in names}
    assert packages - set(sys.stdlib_module_names) == {"torch", "safetensors", "numpy", "PIL"}


def test_both_loaders_see_images_alike():
    """Each is one file to be copied, so that what they have in common stands in both."""

    def read(module):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        return {node.name: ast.unparse(node) for node in functions}, ast.unparse(tree.body[-1])

    (ours, our_end), (theirs, their_end) = read(loader), read(squeezenet)
    shared = ("fit", "weigh", "view", "load")
    assert [ours[name] for name in shared] == [theirs[name] for name in shared]
    assert our_end == their_end


def test_squeezenets_have_their_own(tmp_path, weights):
    write_loader(make_order(weights), tmp_path)
    assert (tmp_path / "squeezenet.py").is_file()
    assert not (tmp_path / "network.py").exists()
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["squeezenet"] in ARCHITECTURES
