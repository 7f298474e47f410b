import doctest
import hashlib
import re
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from described_network import draw_parameters
from safetensors.numpy import save, save_file
from torchvision_models import load_models

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted
from squeezetune.network import pretrained as module
from squeezetune.network.pretrained import fetch_weights, load_pretrained, read_weights
from squeezetune.network.published import FETCHED, INSTALLABLE, PACKAGED
from squeezetune.network.weights import (
    WEIGHTS_PATH,
    find_architecture,
    fold_norms,
    identify_version,
)
from squeezetune.network.zoo import ARCHITECTURES, NETWORKS

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"squeezenet1_1-{CHECKSUM}.pth"


@pytest.fixture
def site(web_site):
    """Publish the file."""
    web_site.files[NAME] = CONTENT
    return web_site


@pytest.fixture
def fetch(site, tmp_path):
    def fetch(path=NAME, **options):
        return fetch_weights("1.1", tmp_path / "cache", url=f"{site.address}/{path}", **options)

    return fetch


def list_files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ---- fetched


def test_a_file_is_fetched_whole_and_once(fetch, site, tmp_path):
    path = fetch()
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    assert fetch() == path
    assert site.ranges == [None]
    assert list_files(path.parent) == [NAME]


def test_events_tell_how_far_it_is(fetch):
    events = []
    fetch(listen=events.append)
    first, *advances, last = events
    assert first == StageStarted("download", 300, "kB")
    assert all(isinstance(event, StageAdvanced) for event in advances)
    done = [event.done for event in advances]
    assert done == sorted(done)
    assert done[-1] == 300
    assert isinstance(last, StageFinished)


def test_a_file_that_is_damaged_on_disk_is_fetched_again(fetch, site):
    path = fetch()
    path.write_bytes(CONTENT[:-1])
    assert fetch().read_bytes() == CONTENT
    assert site.ranges == [None, None]


def test_a_redirect_is_followed(fetch):
    assert fetch(f"moved/{NAME}").read_bytes() == CONTENT


def test_a_proxy_from_the_environment_is_used(site, tmp_path, monkeypatch):
    site.files[f"http://weights.invalid/{NAME}"] = CONTENT
    monkeypatch.setenv("http_proxy", site.address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = fetch_weights("1.1", tmp_path, url=f"http://weights.invalid/{NAME}")
    assert path.read_bytes() == CONTENT


def test_a_length_that_is_not_told_is_not_needed(fetch, site):
    site.tells_length = False
    assert fetch().read_bytes() == CONTENT


# ---- broken off


def test_a_download_that_breaks_off_goes_on_where_it_stopped(fetch, site):
    site.breaks = [100_000, 50_000]
    events = []
    path = fetch(listen=events.append)
    assert path.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(isinstance(event, StageStarted) for event in events) == 1
    assert list_files(path.parent) == [NAME]


def test_a_download_that_stops_for_good_goes_on_in_the_next_call(fetch, site, tmp_path):
    site.breaks = [100_000, 0]
    with pytest.raises(WeightsError, match="broke off after 100,000 of 300,000 bytes") as caught:
        fetch()
    assert "go on from there" in caught.value.hint
    assert list_files(tmp_path / "cache") == [f"{NAME}.part"]
    assert fetch().read_bytes() == CONTENT
    assert site.ranges[2:] == ["bytes=100000-"]
    assert list_files(tmp_path / "cache") == [NAME]


def test_an_interrupt_keeps_what_has_come(fetch, site, tmp_path):
    def interrupt(event):
        if isinstance(event, StageAdvanced) and event.done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(listen=interrupt)
    kept = (tmp_path / "cache" / f"{NAME}.part").read_bytes()
    assert kept == CONTENT[: len(kept)]
    assert fetch().read_bytes() == CONTENT
    assert site.ranges == [None, f"bytes={len(kept)}-"]


def test_a_server_without_ranges_starts_from_the_beginning(fetch, site):
    site.knows_ranges = False
    site.breaks = [100_000]
    assert fetch().read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(fetch, site):
    site.knows_ranges = False
    site.breaks = [1000] * 50
    with pytest.raises(WeightsError, match="broke off after 1,000 of 300,000"):
        fetch()
    assert len(site.ranges) == 2


def test_a_kept_part_of_another_file_is_thrown_away(fetch, site, tmp_path):
    part = tmp_path / "cache" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(400_000))  # longer than the file
    assert fetch().read_bytes() == CONTENT
    (tmp_path / "cache" / NAME).unlink()
    part.write_bytes(bytes(1000))
    with pytest.raises(WeightsError, match="SHA-256"):
        fetch()
    assert list_files(tmp_path / "cache") == []
    assert fetch().read_bytes() == CONTENT


# ---- not to be had


def test_wrong_bytes_are_not_taken(fetch, site, tmp_path):
    site.files[NAME] = CONTENT[:-1] + b"?"
    with pytest.raises(
        WeightsError, match=f"300,000 bytes without the SHA-256 {CHECKSUM}"
    ) as caught:
        fetch()
    assert "Try again" in caught.value.hint
    assert list_files(tmp_path / "cache") == []


def test_a_page_in_place_of_the_file_is_not_taken(fetch, site):
    site.files[NAME] = b"<html>Please log in to this network</html>"
    with pytest.raises(WeightsError, match="42 bytes without the SHA-256"):
        fetch()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (500, "500 Internal")]
)
def test_a_server_that_refuses_is_quoted(fetch, site, status, words):
    site.status = status
    with pytest.raises(WeightsError, match=f"the server says {words}") as caught:
        fetch()
    assert "read_weights" in caught.value.hint


def test_a_server_that_does_not_answer_is_not_waited_for(fetch, site):
    site.delay_s = 1.0
    started = time.perf_counter()
    with pytest.raises(WeightsError, match=r"cannot be reached: .*timed out"):
        fetch(timeout_s=0.1)
    assert time.perf_counter() - started < 0.9


def test_no_network_is_an_error_at_once(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}"
        with pytest.raises(WeightsError, match="cannot be reached") as caught:
            fetch_weights("1.1", tmp_path, url=address)
    assert "proxy" in caught.value.hint


def test_a_file_without_end_is_not_taken(fetch, monkeypatch, tmp_path):
    small = replace(FETCHED["squeezenet1_1"], size_bytes=1 << 16)
    monkeypatch.setitem(FETCHED, "squeezenet1_1", small)
    with pytest.raises(WeightsError, match=r"no SqueezeNet 1\.1 is so large"):
        fetch()
    assert list_files(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "url",
    [
        f"file:///tmp/{NAME}",
        f"ftp://example.org/{NAME}",
        "https://example.org/squeezenet.pth",
        "https://example.org/",
        "squeezenet1_1-b8a52dc0.pth",
        "https://example.org/..-b8a52dc0.pth/..",
    ],
)
def test_addresses_without_checksum_or_of_other_kinds_are_refused(tmp_path, url):
    with pytest.raises(SettingsError, match="not the address of published weights"):
        fetch_weights("1.1", tmp_path, url=url)


def test_an_unknown_version_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"no network '2\.0'"):
        fetch_weights("2.0", tmp_path)


def test_a_network_that_torchvision_has_not_is_refused(tmp_path):
    with pytest.raises(
        SettingsError, match="not published weights of efficientnet_lite1"
    ) as caught:
        fetch_weights("efficientnet_lite1", tmp_path)
    assert "resnet18" in caught.value.hint


# ---- the table


def test_every_network_is_published_somewhere_and_every_file_has_a_checksum():
    assert NETWORKS.keys() <= PACKAGED.keys() | INSTALLABLE.keys() | FETCHED.keys()
    for name, weights in FETCHED.items():
        assert re.fullmatch(rf"https://.*/{name}(_google)?-[0-9a-f]{{8}}\.pth", weights.address)
        assert weights.address.endswith(f"-{weights.sha256}.pth")
    for weights in (*PACKAGED.values(), *INSTALLABLE.values()):
        assert re.fullmatch("[0-9a-f]{64}", weights.sha256)


@pytest.mark.parametrize("name", FETCHED)
def test_torchvision_says_the_same_of_its_files(name):
    pytest.importorskip("torch", reason="torch is an extra")
    theirs = load_models().get_model_weights(name)["IMAGENET1K_V1"]
    ours = FETCHED[name]
    assert ours.address == theirs.url
    assert ours.size_bytes == theirs.meta["_file_size"] * 2**20
    assert 100 * ours.top1 == pytest.approx(theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    assert "license" not in theirs.meta  # then it is that of torchvision


# ---- another network, from its name to its weights


@pytest.fixture
def published(web_site, monkeypatch, tmp_path):
    """Publish MobileNetV3 small with drawn parameters, as torch writes them; yields these."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    parameters = draw_parameters(NETWORKS[SMALL])
    state = {name: torch.from_numpy(value) for name, value in parameters.items()}
    torch.save(state, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    file = f"{SMALL}-{digits}.pth"
    web_site.files[file] = content
    theirs = replace(FETCHED[SMALL], sha256=digits, file=file, address=f"{web_site.address}/{file}")
    monkeypatch.setitem(FETCHED, SMALL, theirs)
    return parameters


SMALL = "mobilenet_v3_small"


def test_a_backbone_is_fetched_by_its_name_and_once(published, web_site, tmp_path):
    web_site.breaks = [1_000_000, 5_000_000]
    said = []
    found = load_pretrained(backbone=SMALL, cache=tmp_path / "cache", listen=said.append)
    assert web_site.ranges == [None, "bytes=1000000-", "bytes=6000000-"]
    theirs = FETCHED[SMALL]
    assert said[0] == Notice(
        f"the weights of {SMALL} are fetched from {theirs.address}: 10.3 MB, BSD-3-Clause"
    )
    assert (found.origin, found.license) == (theirs.origin, "BSD-3-Clause")
    expected = fold_norms(published, NETWORKS[SMALL])
    assert found.weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found.weights[name], value.astype(np.float16))
    said.clear()
    again = load_pretrained(backbone=SMALL, cache=tmp_path / "cache", listen=said.append)
    assert again.sha256 == found.sha256
    assert said == []
    assert len(web_site.ranges) == 3


def test_wrong_bytes_of_a_backbone_are_not_taken(published, web_site, tmp_path):
    file = FETCHED[SMALL].file
    web_site.files[file] = web_site.files[file][:-1] + b"?"
    with pytest.raises(WeightsError, match="without the SHA-256") as caught:
        load_pretrained(backbone=SMALL, cache=tmp_path / "cache")
    assert "--weights FILE" in caught.value.hint
    assert list_files(tmp_path / "cache" / "weights") == []


def test_a_backbone_that_lacks_a_part_is_not_taken(published, web_site, tmp_path):
    file = FETCHED[SMALL].file
    web_site.breaks = [4000, 0]
    with pytest.raises(WeightsError, match="broke off after 4,000 of"):
        load_pretrained(backbone=SMALL, cache=tmp_path / "cache")
    assert list_files(tmp_path / "cache" / "weights") == [f"{file}.part"]


# ---- read


def make_weights(version):
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in find_architecture(version).list_shapes().items()
    }


@pytest.mark.parametrize("version", ARCHITECTURES)
def test_safetensors_are_read(tmp_path, version):
    written = make_weights(version)
    save_file(written, tmp_path / "weights.safetensors")
    weights = read_weights(str(tmp_path / "weights.safetensors"))
    assert identify_version(weights) == version
    assert weights.keys() == written.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, written[name])


def test_the_file_in_the_package_is_read_as_it_is_loaded(weights):
    found = read_weights(WEIGHTS_PATH)
    assert all(np.array_equal(found[name], value) for name, value in weights.items())


@pytest.mark.parametrize("version", ARCHITECTURES)
@pytest.mark.parametrize("ending", ["pth", "pt", "PTH"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_of_torch_is_read(tmp_path, version, ending, is_zip):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    written, path = make_weights(version), tmp_path / f"weights.{ending}"
    state = {name: torch.from_numpy(value) for name, value in written.items()}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    weights = read_weights(path)
    assert identify_version(weights) == version
    for name, value in written.items():
        np.testing.assert_array_equal(weights[name], value)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_of_torch_that_runs_code_is_not_loaded(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    torch.save({"features.0.weight": Trap(tmp_path / "harm")}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds more than tensors; it was not loaded"):
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("make", "found"), [
    (lambda torch: {"epoch": 3, "state_dict": {}}, "'epoch' in it"),
    (lambda torch: torch.zeros(3), "it holds a Tensor"),
    (lambda torch: [torch.zeros(3)], "it holds a list"),
    (lambda torch: {1: torch.zeros(3)}, "1 in it"),
])  # fmt: skip
def test_a_file_of_torch_that_is_no_state_dict_is_refused(tmp_path, make, found):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    torch.save(make(torch), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"no state dict: {found}") as caught:
        read_weights(tmp_path / "weights.pth")
    assert "state_dict()" in caught.value.hint


@pytest.mark.parametrize("version", ["2.4.1", "2.9.1+cpu"])
def test_torch_with_a_known_hole_does_not_read_such_files(tmp_path, monkeypatch, version):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    torch.save({}, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(WeightsError, match=r"needed is 2\.10 or newer") as caught:
        read_weights(tmp_path / "weights.pth")
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "content", [None, b"", b"not weights at all", b"PK\x03\x04 and then nothing"]
)
def test_damaged_and_missing_files_are_told(tmp_path, ending, content):
    if ending == "pth":
        pytest.importorskip("torch", reason="torch is an extra")
    path = tmp_path / f"weights.{ending}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as caught:
        read_weights(path)
    assert caught.value.message.count(str(path)) == 1
    assert caught.value.hint


def test_numbers_that_numpy_does_not_know_are_told(tmp_path):
    payload = bytearray(save({"features.0.weight": np.zeros(2, np.float16)}))
    (tmp_path / "weights.safetensors").write_bytes(
        bytes(payload).replace(b'"F16"', b'"BF16"').replace(b"  ", b" ", 1)
    )
    with pytest.raises(WeightsError, match="BF16"):
        read_weights(tmp_path / "weights.safetensors")


def test_weights_of_another_network_are_refused_by_the_name_of_the_file(tmp_path):
    save_file({"fc.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(
        WeightsError, match=r"other\.safetensors: These are not the weights of ResNet-18: missing"
    ) as caught:
        read_weights(tmp_path / "other.safetensors")
    assert caught.value.hint


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no file of weights by its name") as caught:
        read_weights(tmp_path / "weights.pkl")
    assert ".safetensors, .pth, .pt" in caught.value.hint


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
