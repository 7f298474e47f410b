"""A graph in torch: its features are ONNX Runtime's, its gradients those of autograd on the module
that it was exported of; and what it cannot is refused in words.
"""

import numpy as np
import pytest
from foreign_models import SIDE, ModelWriter, draw_photos, normalise, write_cnn

from squeezetune.errors import WeightsError
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.inference import Runtime, open_graph

torch = pytest.importorskip("torch", reason="torch is an extra")
from timm_models import export, make_network  # noqa: E402
from torch import nn  # noqa: E402

from squeezetune.finetune.graph_network import (  # noqa: E402
    GraphNetwork,
    check_features,
    normalise_photos,
    quote_name,
    unquote_name,
)
from squeezetune.finetune.optimiser import make_groups  # noqa: E402
from squeezetune.finetune.recipe import Recipe  # noqa: E402

TIMM = ["mobilenetv3_small_100", "resnet10t", "efficientvit_b0", "convnext_atto",
        "deit_tiny_patch16_224"]  # fmt: skip


class NormedNetwork(nn.Module):
    """Convolutions with batch normalisation, one of them beside a path of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.outer = nn.Conv2d(8, 24, 3, 2, 1)
        self.classifier = nn.Linear(24, 10)

    def pool(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + nn.functional.hardswish(self.inner(x))
        return torch.relu(self.outer(x)).mean((2, 3))

    def forward(self, x):
        return self.classifier(self.pool(x))


class AttentionNetwork(nn.Module):
    """Patches, a class token, and one block of a transformer."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(0.1 * torch.randn(1, 17, width))
        self.first, self.second, self.last = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.classifier = nn.Linear(width, 10)

    def attend(self, x):
        count, length, width = x.shape
        parts = self.qkv(x).reshape(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        weights = (q @ k.transpose(-2, -1) / (width / self.heads) ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(count, length, width))

    def pool(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        x = x + self.attend(self.first(x))
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return self.last(x)[:, 0]

    def forward(self, x):
        return self.classifier(self.pool(x))


def make_module(kind):
    torch.manual_seed(0)
    module = kind()
    for value in module.parameters():
        if value.ndim == 1:  # equal ones would be stored once
            nn.init.uniform_(value, 0.5, 1.5)
    for name, value in module.named_buffers():
        if name.endswith(("mean", "var")):
            nn.init.uniform_(value, 0.5, 1.5)
    return module.eval()


def read(module, batch=2, **options):
    payload = export(module, SIDE, batch, dynamo=False)
    return parse_foreign(payload, "theirs.onnx", **options)


def run_engine(foreign, photos):
    run = open_graph(foreign.build_features(), Runtime("onnxruntime", "float32"), 1)
    return np.concatenate([run(photos[at : at + 1])[:, 0] for at in range(len(photos))])


def find_parameter(network, value):
    """Find the parameter of a graph that has the values of a module's, perhaps transposed."""
    for each in network.layers.values():
        for way in (each, each.T if each.ndim == 2 else each):
            if way.shape == value.shape and torch.allclose(way, value):
                return each, way is not each
    raise AssertionError("there is none")


# ---- the same numbers


@pytest.mark.parametrize("kind", [NormedNetwork, AttentionNetwork])
@pytest.mark.parametrize("batch", [1, 2])
def test_features_are_those_of_the_engine(kind, batch):
    network, photos = GraphNetwork(read(make_module(kind), batch), 5), draw_photos(3)
    check_features(network, photos)
    found = network.infer_features(normalise_photos(network, photos), None).numpy()
    np.testing.assert_allclose(found, run_engine(network.foreign, photos), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (NormedNetwork, ["inner.weight", "outer.weight", "outer.bias"]),
        (AttentionNetwork, ["patch.weight", "token", "places", "qkv.weight", "up.bias",
                            "second.weight", "last.bias"]),
    ],
)  # fmt: skip
def test_gradients_are_those_of_the_module(kind, names):
    module, photos = make_module(kind), draw_photos(4)
    network = GraphNetwork(read(module), 5)
    features, go_back = network.differentiate(normalise_photos(network, photos), None)
    expected = module.pool(torch.from_numpy(normalise(photos)))
    width = expected.shape[1]
    torch.testing.assert_close(features[:, -width:], expected.detach(), rtol=1e-4, atol=1e-4)
    slopes = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    above = torch.zeros_like(features)
    above[:, -width:] = slopes
    found = go_back(above)
    expected.backward(slopes)
    own = dict(module.named_parameters())
    for name in names:
        parameter, is_turned = find_parameter(network, own[name].detach())
        gradient = found[parameter].T if is_turned else found[parameter]
        torch.testing.assert_close(gradient, own[name].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_compute_in_torch_what_the_engine_does(name, dynamo):
    foreign = parse_foreign(export(make_network(name, SIDE), SIDE, dynamo=dynamo), name)
    network, photos = GraphNetwork(foreign, 5, foreign.layout.frozen_blocks), draw_photos(3)
    check_features(network, photos)
    features, go_back = network.differentiate(normalise_photos(network, photos), None)
    found = go_back(torch.ones_like(features))
    assert all(gradient.isfinite().all() for gradient in found.values())
    moved = [value.ndim for value, gradient in found.items() if gradient.abs().sum() > 0]
    assert sum(axes in (2, 4) for axes in moved) > 5


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_images_are_given_as_the_network_wants_them(order, channels_last):
    writer = ModelWriter()
    x = writer.add("Transpose", "photo", perm=[0, 3, 1, 2]) if channels_last else "photo"
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.stages(x)))
    shape = ("n", SIDE, SIDE, 3) if channels_last else ("n", 3, SIDE, SIDE)
    metadata = {"mean": "0.1 0.2 0.3", "std": "0.2 0.3 0.4", "order": order}
    payload = writer.write(writer.dense(x, 16, 10), images=shape, metadata=metadata)
    network = GraphNetwork(parse_foreign(payload, "theirs.onnx"), 5)
    check_features(network, draw_photos(3))


# ---- parameters and blocks


def test_frozen_blocks_stay_as_they_are():
    foreign = parse_foreign(write_cnn(), "theirs.onnx")
    names = foreign.layout.block_names
    network = GraphNetwork(foreign, 5, 2)
    trained = {network.find_block(name) for name, value in network.named_parameters()
               if value.requires_grad}  # fmt: skip
    assert trained == {*names[2:], "classifier"}
    assert len(network.layers) == 5


def test_rates_fall_from_block_to_block():
    foreign = parse_foreign(write_cnn(), "theirs.onnx")
    network = GraphNetwork(foreign, 5, foreign.layout.frozen_blocks)
    recipe = Recipe(layer_decay=0.5)
    rates = {name: group.rate for group in make_groups(network, recipe) if group.is_kernel
             for name in group.names}  # fmt: skip
    assert sorted(rates.values()) == [recipe.rate * 0.5**n for n in (4, 3, 2, 1)]


def test_what_was_trained_comes_back_by_its_own_names():
    foreign = parse_foreign(write_cnn(), "theirs.onnx")
    network = GraphNetwork(foreign, 5, 3)
    arrays = {name: value.detach().numpy() + 1 for name, value in network.named_parameters()
              if value.requires_grad}  # fmt: skip
    _, ((weight, bias),), trained = network.to_arrays(arrays)
    assert (weight.shape, bias.shape) == ((36, 5), (5,))
    assert sorted(trained) == ["c3", "c4"]
    changed = GraphNetwork(foreign.replace_parameters(trained), 5)
    assert torch.allclose(changed.layers["c3"], network.layers["c3"] + 1)
    assert torch.equal(changed.layers["c2"], network.layers["c2"])
    assert torch.equal(GraphNetwork(foreign, 5).layers["c3"], network.layers["c3"])


@pytest.mark.parametrize("name", ["a.b", "a%2Eb", "onnx::Conv_1", "a%.", "/b/c.0"])
def test_names_come_back(name):
    assert unquote_name(quote_name(name)) == name
    assert "." not in quote_name(name)


# ---- what is refused


def test_operators_that_are_not_known_are_named():
    writer = ModelWriter()
    x = writer.stages("photo")
    # of each position the best channel: it has no slope
    best = writer.add("ArgMax", x, axis=1, keepdims=1)
    x = writer.add("Mul", x, writer.add("Cast", best, to=1))
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    payload = writer.write(writer.dense(x, 16, 10))
    with pytest.raises(WeightsError, match=r"these operators are not known here: ArgMax") as caught:
        GraphNetwork(parse_foreign(payload, "theirs.onnx"), 5)
    assert "Leave --layers out" in caught.value.hint


def test_a_form_of_an_operator_that_is_not_known_is_named():
    writer = ModelWriter()
    x = writer.stages("photo")
    sizes = writer.keep([1, 1, 2, 2], np.float32)
    x = writer.add(
        "Resize", x, "", sizes, mode="cubic", coordinate_transformation_mode="asymmetric"
    )
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    payload = writer.write(writer.dense(x, 16, 10))
    with pytest.raises(WeightsError, match=r"Resize \(cubic asymmetric\)"):
        GraphNetwork(parse_foreign(payload, "theirs.onnx"), 5)


def test_where_features_part_from_the_engine_the_operator_is_named():
    network = GraphNetwork(parse_foreign(write_cnn(), "theirs.onnx"), 5)
    with torch.no_grad():
        network.layers["c2"].mul_(1.01)
    with pytest.raises(WeightsError, match=r"from those of ONNX Runtime.* part at Conv \('t4'\)"):
        check_features(network, draw_photos(3))


def test_what_torch_cannot_run_is_told():
    writer = ModelWriter()
    x = writer.stages("photo")
    x = writer.add("Pad", x, writer.keep([0, 1, 0, 0, 0, 1, 0, 0]), mode="reflect")
    x = writer.add("Flatten", writer.add("GlobalAveragePool", x))
    network = GraphNetwork(parse_foreign(writer.write(writer.dense(x, 18, 10)), "theirs.onnx"), 5)
    with pytest.raises(WeightsError, match=r"torch cannot run them: Pad \(channels\)"):
        check_features(network, draw_photos(3))
