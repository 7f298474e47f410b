"""The networks that torchvision has too, beside torchvision's own."""

import numpy as np
import pytest
from described_network import draw_parameters, draw_photos, find_least_side, make_narrow
from threadpoolctl import threadpool_limits

from squeezetune.compression.equalisation import equalise
from squeezetune.compression.layerwise import compress_layers
from squeezetune.errors import WeightsError
from squeezetune.network.backbone import measure_distance, measure_maxima, measure_ranges
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture, fold_norms, identify_architecture
from squeezetune.network.zoo import INCEPTION_V3, LITES, NETWORKS

torch = pytest.importorskip("torch", reason="torch is an extra")
from torchvision_models import load_models  # noqa: E402

from squeezetune.finetune.torch_network import DescribedNetwork  # noqa: E402

NAMES = [name for name in NETWORKS if NETWORKS[name] not in LITES]
# VGGs have up to 140 million parameters, and the others are much like these.
FEW = ["squeezenet1_0", "squeezenet1_1", "resnet18", "resnet50", "mobilenet_v2",
       "mobilenet_v3_small", "mobilenet_v3_large", "inception_v3"]  # fmt: skip
REST = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in FEW]
FLOAT, INT8 = Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")


def make_theirs(name, **options):
    """Make torchvision's network; its Inception draws its parameters for long, unless told not
    to.
    """
    known = {"init_weights": False} if name == "inception_v3" else {}
    return getattr(load_models(), name)(weights=None, **known, **options)


def normalise(pixels, network):
    """Make images (n, 3, side, side) of pixels, as a network wants them."""
    mean, std = torch.tensor(network.mean), torch.tensor(network.std)
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def fill(network):
    """Make weights of nothing but ones, which take no memory."""
    return {
        key: np.broadcast_to(np.float32(1), shape) for key, shape in network.list_shapes().items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_torchvisions(name):
    with torch.device("meta"):
        theirs = make_theirs(name).state_dict()
    network = NETWORKS[name]
    expected = {
        key: tuple(value.shape) for key, value in theirs.items() if not network.ignores(key)
    }
    assert network.list_shapes() == expected


@pytest.mark.parametrize("name", NAMES)
def test_each_is_told_by_its_weights(name):
    found = detect_architecture(fill(NETWORKS[name]))
    # VGGs with and without batch normalisation differ in the places of their kernels alone
    assert found is NETWORKS[name]


@pytest.mark.parametrize("name", [*FEW, *REST])
def test_logits_are_torchvisions_and_features_those_of_the_graph(name):
    network = NETWORKS[name]
    parameters = draw_parameters(network)
    tensors = {key: torch.tensor(value) for key, value in parameters.items()}
    without = {"aux_logits": False} if network.ignored else {}
    with torch.device("meta"):
        theirs, ours = make_theirs(name, **without), DescribedNetwork(network)
    for each in (theirs, ours):
        each.load_state_dict(tensors, assign=True)
        each.eval()
    pixels = draw_photos(2, find_least_side(network, 64) + 5)  # what pools cut off differs here
    images = normalise(pixels, network)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(
            ours(images), expected, rtol=1e-3, atol=1e-3 * expected.abs().max()
        )
    weights = fold_norms(parameters, network)
    found = open_graph(build_backbone(weights), FLOAT, 1)(pixels)[:, 0]
    assert found.shape == (2, network.feature_count)
    tapped = take_taps(ours, network, images)
    np.testing.assert_allclose(found, tapped, rtol=1e-3, atol=1e-3 * np.abs(tapped).max())


def take_taps(network, architecture, images):
    """Compute what is tapped by autograd's own functions, from the modules with their norms."""
    from squeezetune.finetune.torch_layers import delay_activations, run_layers

    layers, means = architecture.layers, []
    with torch.no_grad():
        for layer, y in run_layers(
            network, layers, delay_activations(layers, ()), {"pixels": images}
        ):
            if layer.output in architecture.taps:
                means.append(y.mean((2, 3)))
    return torch.cat(means, 1).numpy()


def test_inception_is_normalised_as_published_weights_want_it():
    """torchvision's published weights come with `transform_input=True`, for images that ImageNet's
    statistics have normalised.
    """
    small = {"aux_logits": False, "transform_input": True}
    theirs, ours = make_theirs("inception_v3", **small).eval(), DescribedNetwork(INCEPTION_V3)
    ours.load_state_dict(theirs.state_dict())
    pixels = draw_photos(1, 96)
    with torch.no_grad():
        expected = theirs(normalise(pixels, NETWORKS["resnet18"]))
        found = ours.eval()(normalise(pixels, INCEPTION_V3))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_auxiliary_classifier_in_published_weights_is_ignored():
    extra = {"AuxLogits.fc.weight": np.ones((1000, 768), np.float32)}
    published = fill(INCEPTION_V3) | extra
    assert identify_architecture(published) is INCEPTION_V3
    assert not extra.keys() & fold_norms(published, INCEPTION_V3).keys()
    resnet = NETWORKS["resnet18"]
    with pytest.raises(WeightsError, match=r"ResNet-18: unknown: AuxLogits\.fc\.weight\."):
        identify_architecture(fill(resnet) | extra)


# ---- Inception's other forms, with an eighth of its channels, and slowly with a half


@pytest.fixture(scope="module", params=[8, pytest.param(2, marks=pytest.mark.slow)])
def inception(request):
    """Give its folded weights, photos and the features of torchvision's kind, which the graph in
    float32 has.
    """
    network = make_narrow(INCEPTION_V3, request.param)
    parameters = draw_parameters(network)
    ours = DescribedNetwork(network, network.classifier[-1].channels)
    ours.load_state_dict({key: torch.tensor(value) for key, value in parameters.items()})
    photos = draw_photos(8, find_least_side(network))
    taps = take_taps(ours.eval(), network, normalise(photos, network))
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setitem(NETWORKS, network.name, network)
        yield fold_norms(parameters, network), photos, taps


def measure(weights, photos, expected, int8=None, runtime=FLOAT):
    """Measure the distance of a graph's features from those that are expected."""
    found = open_graph(build_backbone(weights, int8), runtime, 1)(photos)[:, 0]
    return measure_distance(found, expected)


def test_inception_in_int8_is_near_float(inception):
    weights, photos, expected = inception
    ranges = measure_ranges(weights, photos)
    for side in (0, photos.shape[1]):
        assert measure(weights, photos, expected, Int8(ranges, side), INT8) < 0.03


def test_inceptions_channels_are_equalised_through_pools_and_joins(inception):
    weights, photos, expected = inception
    equalised = equalise(weights, measure_maxima(weights, photos))
    # what only convolutions read, some of it through an average pool
    joins = {"mixed5b", "mixed5c", "mixed6b", "mixed6c", "mixed6d", "mixed7b"}
    assert {name for name in equalised.factors if "." not in name and "mixed" in name} == joins
    assert measure(equalised.weights, photos, expected) < 1e-5
    assert measure(weights, photos, expected) < 1e-5


def test_compressed_inception_is_near_and_fits_int8(inception):
    weights, photos, expected = inception
    network = TrainedNetwork(weights, (), 1, photos.shape[1], "squash")
    fine, coarse = (compress_layers(network, photos, bits) for bits in (8, 4))
    distances = [measure(each.network.weights, photos, expected) for each in (fine, coarse)]
    assert 2 * distances[0] < distances[1] < 0.05
    ranges = measure_ranges(weights, photos)
    fitted = compress_layers(network, photos, 8, ranges)
    int8 = Int8(ranges, photos.shape[1], fitted.codes)
    assert measure(fitted.network.weights, photos, expected, int8, INT8) < 0.03
