import numpy as np
import pytest
from described_network import draw_parameters

from squeezetune.network.backbone import measure_distance, measure_ranges
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.weights import detect_architecture, fold_norms
from squeezetune.network.zoo import LITES

LITE0 = LITES[0]


def count_parameters(network):
    shapes = network.list_shapes()
    kept = (
        shape for name, shape in shapes.items() if not name.endswith(("mean", "var", "tracked"))
    )
    return sum(int(np.prod(shape)) for shape in kept)


def test_they_have_the_parameters_of_googles():
    assert [count_parameters(network) for network in LITES] == [4_652_008, 5_416_680, 6_092_072]
    assert [network.side for network in LITES] == [224, 240, 260]


def test_taps_are_where_they_were_found_to_help():
    assert [LITE0.channels[tap] for tap in LITE0.taps] == [240, 480, 672, 1280]
    assert LITE0.tapped_blocks == ("block3.0", "block4.0", "block5.0", "head")
    assert [LITE0.measure_block(name, 224)[0] for name in LITE0.tapped_blocks] == [14, 14, 7, 7]


@pytest.mark.parametrize("network", LITES, ids=[network.name for network in LITES])
def test_each_is_told_by_its_weights(network):
    weights = draw_parameters(network)
    assert detect_architecture(weights) is network
    folded = detect_architecture(fold_norms(weights, network))
    assert folded is network.without_norms()
    assert not folded.norms


@pytest.fixture(scope="module")
def parameters():
    return draw_parameters(LITE0)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)


def test_int8_is_near_float(parameters, photos):
    weights = fold_norms(parameters, LITE0)
    exact = open_graph(build_backbone(weights), Runtime("onnxruntime", "float32"), 1)(photos)
    for side in (0, 64):
        int8 = build_backbone(weights, Int8(measure_ranges(weights, photos), side))
        found = open_graph(int8, Runtime("onnxruntime", "int8"), 1)(photos)
        assert measure_distance(found, exact) < 0.1


# ---- beside a twin in plain words


def test_the_graph_and_the_network_in_torch_compute_what_their_twin_does(parameters, photos):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from squeezetune.finetune.torch_network import DescribedNetwork

    values = {name: torch.tensor(value) for name, value in parameters.items()}

    def convolve(x, path, norm, *, stride=1, groups=1):
        kernel = values[f"{path}.weight"]
        side, size = x.shape[2], kernel.shape[2]
        whole = max((-(-side // stride) - 1) * stride + size - side, 0)
        x = torch.nn.functional.pad(x, (whole // 2, whole - whole // 2) * 2)
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, groups=groups)
        parts = ("running_mean", "running_var", "weight", "bias")
        statistics = (values[f"{norm}.{part}"] for part in parts)
        return torch.nn.functional.batch_norm(x, *statistics, eps=1e-3)

    def bend(x):
        return x.clamp(0, 6)

    x = bend(convolve((torch.from_numpy(photos).permute(0, 3, 1, 2).float() - 127) / 128,
                      "conv_stem", "bn1", stride=2))  # fmt: skip
    means = []
    stages = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
    for stage, (count, stride) in enumerate(stages):
        for at in range(count):
            path, norms = f"blocks.{stage}.{at}", iter("123")
            y = x
            if stage:
                y = bend(convolve(y, f"{path}.conv_pw", f"{path}.bn{next(norms)}"))
            y = bend(convolve(y, f"{path}.conv_dw", f"{path}.bn{next(norms)}",
                              stride=1 if at else stride, groups=y.shape[1]))  # fmt: skip
            means += [y.mean((2, 3))] if stage in (3, 4, 5) and not at else []
            last = f"{path}.conv_pwl" if stage else f"{path}.conv_pw"
            y = convolve(y, last, f"{path}.bn{next(norms)}")
            x = x + y if at else y
    x = bend(convolve(x, "conv_head", "bn2"))
    means.append(x.mean((2, 3)))
    features = torch.cat(means, 1).numpy()
    logits = means[-1] @ values["classifier.weight"].T + values["classifier.bias"]

    network = DescribedNetwork(LITE0).eval()
    network.load_state_dict(values)
    normal = (torch.from_numpy(photos) / 255 - torch.tensor(LITE0.mean)) / torch.tensor(LITE0.std)
    with torch.no_grad():
        found = network(normal.permute(0, 3, 1, 2))
    torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-3)
    run = open_graph(
        build_backbone(fold_norms(parameters, LITE0)), Runtime("onnxruntime", "float32"), 1
    )
    np.testing.assert_allclose(run(photos)[:, 0], features, rtol=1e-3, atol=1e-3)


def test_channels_that_are_nearly_dead_keep_their_biases_in_int8():
    weights = dict(fold_norms(draw_parameters(LITE0), LITE0))
    kernel = weights["conv_stem.weight"] = weights["conv_stem.weight"].copy()
    kernel[3], kernel[4] = 0.0, 6e-8
    weights["conv_stem.bias"] = np.full(len(kernel), 3.0, np.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    ranges = measure_ranges(weights, pixels)
    with np.errstate(invalid="raise"):
        model = build_backbone(weights, Int8(ranges, 0))
    found = open_graph(model, Runtime("onnxruntime", "int8"), 1)(pixels)
    exact = open_graph(build_backbone(weights), Runtime("onnxruntime", "float32"), 1)(pixels)
    assert measure_distance(found, exact) < 0.1
